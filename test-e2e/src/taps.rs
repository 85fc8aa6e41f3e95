//! A tap's counters against the kernel's own of the device that carries it.
//!
//! Owns the rule. What the pod sent, the device received: equal in socket buffers and bytes. What the pod received passed
//! the tap: equal too, but for frames that came before the pod's end was up. The device dropped those (`tx_dropped`); of
//! them the tap has seen the ones that came after it was attached.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::Netns;

/// Fails while the tap of a pod's interface, as `trunkctl get taps -o json` shows it, has not counted exactly what the
/// node's end of the interface has. Returns the bytes that the pod sent.
pub fn agrees(tap: &Value, node: &Netns) -> Result<u64> {
    let device = tap["device"].as_str().context("no device")?;
    let links = node.ip_json(&format!("-s -s link show dev {device}"))?;
    let kernel = |way: &str, what: &str| links[0]["stats64"][way][what].as_u64().context("no such counter");
    let counted = |what: &str| tap[what].as_u64().context("no such count");
    let of_device = [kernel("rx", "packets")?, kernel("rx", "bytes")?];
    let of_tap = [counted("sentSkbs")?, counted("sentBytes")?];
    ensure!(of_tap == of_device, "{device}: the tap has {of_tap:?} sent, the device {of_device:?}");
    let (delivered, dropped) = (kernel("tx", "packets")?, kernel("tx", "dropped")?);
    let (seen, bytes) = (counted("receivedSkbs")?, counted("receivedBytes")?);
    ensure!(
        (delivered..=delivered + dropped).contains(&seen),
        "{device}: the tap has {seen} received, the device {delivered} and {dropped} dropped"
    );
    if seen == delivered {
        ensure!(bytes == kernel("tx", "bytes")?, "{device}: the tap has {bytes} bytes received");
    }
    Ok(of_tap[1])
}
