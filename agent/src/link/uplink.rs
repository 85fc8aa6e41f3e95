//! An uplink's offloads and state.
//!
//! Owns the change and says what was there before, so that the caller can journal it first and restore it later.

use std::collections::BTreeMap;

use super::message;
use super::pod::{blocking, step_error};
use super::socket::RouteSocket;
use super::types::{LinkError, LinkStep, OffloadSet, Place};
use crate::netns::EthtoolSocket;

/// Receive features that merge frames before a userspace datapath reads them; it drops the merged ones as too big.
pub const UPLINK_FEATURES: [&str; 3] = ["rx-gro", "rx-lro", "rx-gro-hw"];

/// Sets offloads of a link of the node and returns what the ones that can be changed were before.
///
/// With an empty `wanted` it only reads. To be crash-safe read first, write the journal, then set. Features that this
/// link cannot change, or that the kernel does not know, are left out of both.
pub async fn set_uplink_offloads(name: &str, wanted: &OffloadSet) -> Result<OffloadSet, LinkError> {
    let (link, wanted) = (name.to_owned(), wanted.clone());
    blocking(name, move || {
        let failed = step_error(&link, &Place::Node, LinkStep::Offloads);
        let socket = EthtoolSocket::open(&link).map_err(&failed)?;
        let before = changeable(&socket, &link).map_err(&failed)?;
        let change: Vec<(&str, bool)> = wanted
            .0
            .iter()
            .filter(|(feature, on)| before.get(*feature).is_some_and(|was| was != *on))
            .map(|(feature, on)| (feature.as_str(), *on))
            .collect();
        if !change.is_empty() {
            socket.set_features(&link, &change).map_err(&failed)?;
        }
        Ok(OffloadSet(before))
    })
    .await
}

/// Sets a link of the node administratively up.
pub async fn set_link_up(name: &str, ifindex: u32) -> Result<(), LinkError> {
    let link = name.to_owned();
    blocking(name, move || {
        let up = message::set_up(ifindex, false);
        RouteSocket::open().and_then(|mut socket| socket.request(up.message, up.flags)).map_err(step_error(
            &link,
            &Place::Node,
            LinkStep::Up,
        ))
    })
    .await
}

fn changeable(socket: &EthtoolSocket, link: &str) -> std::io::Result<BTreeMap<String, bool>> {
    let features = socket.features(link)?;
    Ok(UPLINK_FEATURES
        .iter()
        .filter_map(|name| features.get(name).map(|state| (name, state)))
        .filter(|(_, state)| state.changeable)
        .map(|(name, state)| ((*name).to_owned(), state.requested))
        .collect())
}
