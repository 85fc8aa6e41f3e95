//! Taps of sampled networks: which they are, and when the reader is told.
//!
//! A tap's rate is that of its network. One that was given up has none, so that whoever gets its slot begins exact.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use trunkline_api::SamplingConfig;
use trunkline_ebpf::Slot;

use super::Inner;
use crate::flows::owner::OwnerGone;
use crate::flows::record::TapIdentity;

impl Inner {
    /// Tells the reader which taps sample, where that is not what it was told before.
    pub(super) async fn set_sampling(&self) -> Result<(), OwnerGone> {
        let wanted = rates(&self.options.config.sampling, &self.taps.known().taps);
        // An earlier process may have had other rates: they are told once in any case.
        if self.sampling.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&wanted) {
            return Ok(());
        }
        let told = wanted.clone();
        self.reader.run(move |reader| reader.sample(told)).await?;
        *self.sampling.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Ok(())
    }

    /// One frame in so many of this tap.
    pub(super) fn one_in(&self, slot: Slot) -> u32 {
        let told = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().and_then(|rates| rates.get(&slot).copied()).unwrap_or(1)
    }

    /// Says once which networks are to be sampled and are none, when it is known which there are.
    pub(super) fn warn_of_strange_networks(&self) {
        if self.networks_compared.is_completed() {
            return;
        }
        let strange = |network: &&str| {
            let (namespace, name) = network.split_once('/')?;
            self.options.objects.has_nad(namespace, name).map(|known| !known)
        };
        let networks: Vec<&str> = self.options.config.sampling.networks().collect();
        let Some(answers) = networks.iter().map(strange).collect::<Option<Vec<_>>>() else { return };
        self.networks_compared.call_once(|| {
            for (network, _) in networks.iter().zip(answers).filter(|(_, strange)| *strange) {
                tracing::warn!(network, "flows.sampling names a network that there is not");
            }
        });
    }
}

fn rates(sampling: &SamplingConfig, taps: &BTreeMap<Slot, Arc<TapIdentity>>) -> HashMap<Slot, u32> {
    let rate = |tap: &TapIdentity| sampling.one_in(tap.network.as_deref()?);
    taps.iter().filter_map(|(slot, tap)| Some((*slot, rate(tap)?))).collect()
}

#[cfg(test)]
mod tests {
    use trunkline_api::AgentConfig;

    use super::*;

    #[test]
    fn a_taps_rate_is_its_networks_and_uplinks_have_none() {
        let text = "flows: {sampling: [{network: shop/a, oneIn: 10}, {network: shop/b, oneIn: 20}]}\n";
        let sampling = AgentConfig::parse(text).unwrap().flows.sampling;
        let tap = |network: Option<&str>| {
            Arc::new(TapIdentity {
                device: "tl1".to_owned(),
                ifindex: 1,
                interface: "eth1".to_owned(),
                netns: None,
                pod: None,
                network: network.map(str::to_owned),
                vlan: None,
                bridge: None,
                since: std::time::SystemTime::UNIX_EPOCH,
            })
        };
        let networks = [Some("shop/b"), None, Some("other/a"), Some("shop/a"), Some("shop/b")];
        let taps = (0..).map(Slot).zip(networks.map(tap)).collect();
        let expected = HashMap::from([(Slot(0), 20), (Slot(3), 10), (Slot(4), 20)]);
        assert_eq!(rates(&sampling, &taps), expected);
        assert!(rates(&SamplingConfig::default(), &taps).is_empty());
    }
}
