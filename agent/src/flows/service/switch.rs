//! What the switch forwarded, against what the taps saw.
//!
//! Owns the question and how long it may take; what a loss is, [`crate::flows::loss`] says.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use trunkline_ebpf::Direction;

use super::{Inner, tap_labels};

/// How long the switch may take to tell what it forwarded.
const SWITCH: Duration = Duration::from_secs(2);

impl Inner {
    /// What the switch forwarded so far, by port of a pod. Bridges that do not answer in time have nothing here.
    pub(super) async fn ask_the_switch(&self) -> HashMap<String, u64> {
        let rows = self.options.bridges.pod_ports();
        let names: Vec<trunkline_api::BridgeName> = {
            let states = self.options.bridges.state();
            let states = states.borrow();
            states.iter().filter(|(_, state)| state.exists).map(|(name, _)| name.clone()).collect()
        };
        let asked = names.iter().map(|bridge| async move {
            let answer = tokio::time::timeout(SWITCH, self.options.bridges.flow_stats(bridge)).await;
            (bridge, answer.ok().and_then(Result::ok).unwrap_or_default())
        });
        let mut forwarded = HashMap::new();
        for (bridge, counts) in futures::future::join_all(asked).await {
            for row in rows.iter().filter(|row| row.bridge == bridge.as_str()) {
                let count = counts.iter().find(|count| Some(count.ofport) == row.ofport);
                forwarded.extend(count.map(|count| (row.name.clone(), count.packets)));
            }
        }
        forwarded
    }

    /// What the taps saw against what the switch had forwarded before.
    pub(super) fn compare_with_the_switch(&self, forwarded: &HashMap<String, u64>) {
        let known = self.taps.known();
        let state = self.state();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, tap) in known.taps.iter().filter(|(_, tap)| tap.netns.is_none()) {
            let Some(&packets) = forwarded.get(&tap.device) else { continue };
            let Some(sent) = state.totals.get(&(*slot, Direction::Sent)) else { continue };
            let lost = losses.look(&tap.device, sent.seen.skbs, packets);
            self.options.metrics.set_tap_loss(&tap_labels(tap, Direction::Sent), packets, lost);
        }
    }
}
