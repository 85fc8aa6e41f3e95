//! The allow-list of one bridge: which flows should be there, and what is between them and those that are.
//!
//! Owns design decision 6: one flow per uplink, one per pod port for untagged frames, nothing else; no flow, no
//! traffic. The bridge's local port gets none. Must never do I/O.
//!
//! On a bridge that we may call our own every other flow is removed, since any of them could let frames through that
//! the allow-list stops. On one that the user had us take over in use (`adopt: true`) flows of others stay.

use std::collections::BTreeMap;

use super::cookie;

/// Which frames of a port are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Admit {
    /// An uplink: whatever its `trunks` let pass.
    Everything,
    /// A pod port: frames without an 802.1Q or 802.1ad tag.
    Untagged,
}

/// The one flow of one port: `in_port=<ofport>[, untagged] → NORMAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortFlow {
    /// Which frames.
    pub admit: Admit,
    /// Cookie: for a pod port, the attachment.
    pub cookie: u64,
}

/// The flows of a bridge by `OpenFlow` port number.
pub type FlowTable = BTreeMap<u32, PortFlow>;

/// What the upper 16 bits of every cookie of ours are, the lower ones 0.
pub const OUR_COOKIE: u64 = cookie::OURS;

/// One flow as the switch lists it, as far as the comparison needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Has the form of one of ours.
    Port {
        /// `OpenFlow` port number.
        ofport: u32,
        /// Its flow.
        flow: PortFlow,
    },
    /// What a standalone bridge makes for itself: everything → NORMAL, priority 0, cookie 0.
    Standalone,
    /// Anything else.
    Other {
        /// Its cookie.
        cookie: u64,
    },
}

/// What to change on the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowDiff {
    /// Flows to add, or to put in the place of another of the same match.
    pub add: Vec<(u32, PortFlow)>,
    /// Flows of ours that should not be there.
    pub remove: Vec<(u32, PortFlow)>,
}

impl FlowDiff {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// The flow of an uplink.
pub fn uplink_flow(ofport: u32) -> PortFlow {
    PortFlow { admit: Admit::Everything, cookie: cookie::uplink_cookie(ofport) }
}

/// The flow of a pod port.
pub fn pod_flow(pod_uid: &str, interface: &str) -> PortFlow {
    PortFlow { admit: Admit::Untagged, cookie: cookie::pod_cookie(pod_uid, interface) }
}

/// From what is believed to be there to what should be. Removals come first where they are carried out, so that a port
/// number that has changed hands never has two flows.
pub fn diff(wanted: &FlowTable, present: &FlowTable) -> FlowDiff {
    let differs = |(ofport, flow): &(&u32, &PortFlow)| present.get(ofport) != Some(*flow);
    let add = wanted.iter().filter(differs).map(|(ofport, flow)| (*ofport, *flow)).collect();
    // A flow of the same match is replaced by adding; only another match has to be removed.
    let stale =
        |(ofport, flow): &(&u32, &PortFlow)| wanted.get(ofport).is_none_or(|right| right.admit != flow.admit);
    let remove = present.iter().filter(stale).map(|(ofport, flow)| (*ofport, *flow)).collect();
    FlowDiff { add, remove }
}

/// What a listing of the switch says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Flows of our form with a cookie of ours.
    pub ours: FlowTable,
    /// Flows of somebody else.
    pub others: usize,
    /// The flow of a standalone bridge is there.
    pub standalone: bool,
    /// Two flows on one port, or one with our cookie in another form: only starting afresh puts that right.
    pub tangled: bool,
}

impl Listing {
    /// Whether everything on the switch that we may remove is a flow of ours in its right form.
    pub fn is_clean(&self, exclusive: bool) -> bool {
        !self.tangled && (!exclusive || (self.others == 0 && !self.standalone))
    }
}

/// Sorts a listing.
pub fn sort(listed: impl IntoIterator<Item = Listed>) -> Listing {
    let mut listing = Listing::default();
    for entry in listed {
        match entry {
            Listed::Port { ofport, flow } if cookie::is_ours(flow.cookie) => {
                listing.tangled |= listing.ours.insert(ofport, flow).is_some();
            }
            Listed::Standalone => listing.standalone = true,
            Listed::Other { cookie } if cookie::is_ours(cookie) => listing.tangled = true,
            Listed::Port { .. } | Listed::Other { .. } => listing.others += 1,
        }
    }
    listing
}

#[cfg(test)]
mod tests;
