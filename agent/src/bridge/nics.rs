//! What the kernel says about the NICs that are uplinks or shall be, kept up to date.
//!
//! Owns the link watch. Looks only when something that matters may have changed, and every 10 s in any case: on a node
//! with a thousand pods most link events are about pods' links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::observe::{Nic, Nics};
use super::task::chain;
use crate::link::{self, LinkEvent, LinkWatch, OffloadSet};

/// How often to look whatever happens: offloads send no event.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Events come in bursts; how long to gather them.
const GATHER: Duration = Duration::from_millis(50);

/// Watches NICs.
pub(super) struct NicWatcher {
    watch: Option<LinkWatch>,
    names: BTreeSet<String>,
    indexes: BTreeSet<u32>,
    nics: Nics,
    look_at: Option<Instant>,
}

impl NicWatcher {
    pub(super) fn new() -> Self {
        Self {
            watch: None,
            names: BTreeSet::new(),
            indexes: BTreeSet::new(),
            nics: Nics::default(),
            look_at: Some(Instant::now()),
        }
    }

    /// The NICs as of the last look.
    pub(super) fn nics(&self) -> &Nics {
        &self.nics
    }

    /// Looks at the NICs of these names if it is time to; tells whether it did.
    pub(super) async fn look(&mut self, names: BTreeSet<String>) -> bool {
        let is_due = self.look_at.is_some_and(|at| at <= Instant::now());
        if !is_due && names == self.names {
            return false;
        }
        self.names = names;
        self.look_at = Some(Instant::now() + LOOK_EVERY);
        // The watch comes first: what changes between it and the look is reported.
        if self.watch.is_none() {
            self.watch = LinkWatch::open()
                .inspect_err(|error| tracing::warn!(error = %chain(error), "cannot watch links"))
                .ok();
        }
        match self.inspect().await {
            Ok(nics) => {
                self.indexes = nics.values().map(|nic| nic.link.ifindex).collect();
                self.nics = Arc::new(nics);
                true
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look at the node's links, will try again");
                false
            }
        }
    }

    async fn inspect(&self) -> Result<BTreeMap<String, Nic>, link::LinkError> {
        let mut nics = BTreeMap::new();
        if self.names.is_empty() {
            return Ok(nics);
        }
        for facts in link::inspect_links().await? {
            if self.names.contains(&facts.name) {
                let coalesces = coalesces(&facts.name).await;
                nics.insert(facts.name.clone(), Nic { link: facts, coalesces });
            }
        }
        Ok(nics)
    }

    /// Waits until it is worth while to call [`Self::look`] again. Cancel-safe: what was heard is kept in `look_at`.
    pub(super) async fn changed(&mut self) {
        loop {
            let wake = self.look_at.unwrap_or_else(|| Instant::now() + LOOK_EVERY);
            let event = async {
                match &mut self.watch {
                    Some(watch) => watch.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(wake) => return,
                event = event => if self.matters(&event) {
                    let soon = Instant::now() + GATHER;
                    self.look_at = Some(wake.min(soon));
                },
            }
        }
    }

    fn matters(&self, event: &LinkEvent) -> bool {
        match event {
            LinkEvent::Changed { ifindex, name } | LinkEvent::Removed { ifindex, name } => {
                *ifindex == 0 || self.names.contains(name) || self.indexes.contains(ifindex)
            }
            LinkEvent::Resync => true,
        }
    }
}

/// A NIC whose offloads cannot be read has none that could be switched off.
async fn coalesces(nic: &str) -> bool {
    match link::set_uplink_offloads(nic, &OffloadSet::default()).await {
        Ok(features) => features.0.values().any(|on| *on),
        Err(error) => {
            tracing::debug!(%nic, error = %chain(&error), "offloads cannot be read");
            false
        }
    }
}
