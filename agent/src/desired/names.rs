//! Names of a pod's interfaces.
//!
//! Owns the rule "requested, else the next free `eth1`, `eth2`, …"; must never look into a namespace: the caller says
//! which names are taken.

use std::collections::BTreeSet;

use trunkline_api::{IfName, NetworkSelection};

use super::attachment::NadKey;
use super::error::DesiredError;

/// The highest number tried; a pod with more interfaces has other problems first.
const LAST: u32 = 999;

/// Hands out names for one pod.
pub(super) struct Names<'a> {
    prefix: &'a str,
    used: BTreeSet<&'a str>,
    fresh: BTreeSet<String>,
}

impl<'a> Names<'a> {
    /// Every requested name counts as used from the start, also of elements that come later.
    pub(super) fn new(
        prefix: &'a str,
        taken: &'a BTreeSet<String>,
        selections: &'a [NetworkSelection],
    ) -> Self {
        let requested =
            selections.iter().filter_map(|selection| selection.interface.as_ref()).map(IfName::as_str);
        let used = taken.iter().map(String::as_str).chain(["eth0", "lo"]).chain(requested).collect();
        Self { prefix, used, fresh: BTreeSet::new() }
    }

    /// The name of one element's interface.
    pub(super) fn name(
        &mut self,
        selection: &NetworkSelection,
        nad: &NadKey,
        taken: &BTreeSet<String>,
    ) -> Result<IfName, DesiredError> {
        if let Some(interface) = &selection.interface {
            if taken.contains(interface.as_str()) {
                return Err(DesiredError::InterfaceTaken { nad: nad.clone(), interface: interface.clone() });
            }
            return Ok(interface.clone());
        }
        let free = (1..=LAST)
            .map(|number| format!("{}{number}", self.prefix))
            .find(|name| !self.used.contains(name.as_str()) && !self.fresh.contains(name))
            .and_then(|name| IfName::try_from(name).ok());
        let Some(name) = free else {
            return Err(DesiredError::NoFreeName {
                nad: nad.clone(),
                prefix: self.prefix.to_owned(),
                last: LAST,
            });
        };
        self.fresh.insert(name.to_string());
        Ok(name)
    }
}
