//! Taps on interfaces that are not ours: when they are looked at, and what is told of it.
//!
//! Owns the pace: a change is acted upon at once, what comes with it shares the work, and everything is compared every
//! few seconds anyway.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trunkline_ebpf::Direction;

use super::{Inner, SETTLED, ifindex, tap_labels};
use crate::flows::others::{self, Ours};
use crate::flows::owner::OwnerGone;
use crate::flows::record::Endpoint;
use crate::flows::wishes;
use crate::kube::events::reason;
use crate::netwatch::Sightings;

/// How long a change waits for those that come with it.
const TOGETHER: Duration = Duration::from_millis(50);

/// Says when there is something to do.
pub(super) struct Prompt {
    sightings: Option<watch::Receiver<Arc<Sightings>>>,
    due: Option<Instant>,
}

impl Prompt {
    pub(super) fn new(sightings: Option<watch::Receiver<Arc<Sightings>>>) -> Self {
        Self { sightings, due: None }
    }

    /// Waits for a change. Cancel-safe: a change that was noticed stays noticed until [`Self::done`].
    pub(super) async fn wait(&mut self) {
        loop {
            if let Some(due) = self.due {
                return tokio::time::sleep_until(due).await;
            }
            let Some(sightings) = &mut self.sightings else { return std::future::pending().await };
            match sightings.changed().await {
                Ok(()) => self.due = Some(Instant::now() + TOGETHER),
                Err(_) => self.sightings = None, // the watch has ended with the agent
            }
        }
    }

    /// The work is done, but for what is left.
    pub(super) fn done(&mut self, more: bool) {
        self.due = more.then(Instant::now);
    }
}

impl Inner {
    /// One pass over the interfaces that are not ours; says whether there is more to do. A `regular` one also tries
    /// again what could not be done.
    pub(super) async fn settle_others(&self, regular: bool) -> Result<bool, OwnerGone> {
        let Some(sightings) = &self.options.others else { return Ok(false) };
        let bridges = &self.options.bridges;
        // What OVSDB said last is remembered while it is away. Before it has ever answered, ports are not known.
        let read = bridges.ovs_connected() || !bridges.ovs_version().is_empty();
        if !read && self.started.elapsed() < SETTLED {
            return Ok(false);
        }
        let sightings = Arc::clone(&sightings.borrow());
        let wishes = others::all(&sightings, &self.ours(), link_name, self.taps.way());
        self.options.metrics.set_watched_namespaces(sightings.namespaces);
        let changes = self.taps.settle_others(wishes, sightings.complete, regular).await?;
        for tap in &changes.attached {
            tracing::info!(interface = %tap.interface, netns = ?tap.netns, ifindex = tap.ifindex, "tap attached");
        }
        for slot in &changes.gaps {
            self.state().table.mark_gap(*slot);
            self.options.metrics.add_tap_gap();
        }
        for tap in &changes.renamed {
            for direction in Direction::BOTH {
                self.options.metrics.forget_tap(&tap_labels(tap, direction));
            }
        }
        if let [first, rest @ ..] = changes.refused.as_slice() {
            let (tap, words) = (&first.identity, &first.words);
            let more =
                if rest.is_empty() { String::new() } else { format!(" ({} more like it)", rest.len()) };
            let words = format!(
                "interface {} of network namespace {} has no tap{more}: {words}; trunkctl get taps lists all",
                tap.interface,
                tap.netns.as_deref().unwrap_or_default()
            );
            tracing::warn!("{words}");
            self.options.recorder.node(reason::TAP_FAILED, words);
        }
        Ok(changes.more)
    }

    fn ours(&self) -> Ours {
        let rows = self.options.bridges.pod_ports();
        let states = self.options.bridges.state().borrow().clone();
        let own = wishes::all(&rows, &states, ifindex);
        let mut ours = Ours::default();
        if !own.complete {
            // Any of these may be plugged in at any moment.
            ours.uplinks.extend(states.values().flat_map(|state| &state.uplinks).map(|up| up.nic.clone()));
        }
        ours.uplinks.extend(own.taps.into_iter().map(|wish| wish.tap.interface));
        let inode = |path: &str| fs::metadata(Path::new(path)).ok().map(|meta| meta.ino());
        for row in rows {
            let inode = inode(&row.netns);
            ours.pods.extend(inode.map(|inode| (inode, Endpoint::from(&row))));
            ours.ports.insert(row.name, inode);
        }
        ours
    }
}

fn link_name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()
}
