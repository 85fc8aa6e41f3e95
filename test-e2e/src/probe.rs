//! Using `trunkline-probe` from outside: where its server listens, and how to know that it does.
//!
//! The program itself is `src/bin/trunkline-probe`.

use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::wait;

/// The port of the identity server, UDP and TCP.
pub const PORT: u16 = 7777;

/// Waits until the identity server of a namespace listens.
pub fn wait_serving(netns: &Netns) -> Result<()> {
    wait::until_blocking("the identity server listens", Duration::from_secs(30), || {
        let sockets = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/udp6"))?;
        let port = format!(":{PORT:04X} ");
        Ok(sockets.is_ok_and(|text| text.contains(&port)).then_some(()))
    })
}
