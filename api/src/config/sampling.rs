//! `flows.sampling` of `trunkline-agent.conf`: networks of which only some frames are looked at.
//!
//! Owns keys and ranges. Must never know which networks there are.

use std::collections::BTreeMap;

use super::export::NetworkName;
use super::yaml::{Node, Problem};

/// Fewest and most frames of which one is looked at.
const ONE_IN: [u64; 2] = [2, 65_536];

/// One frame in so many, by network. A network that is not here is counted exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SamplingConfig(BTreeMap<String, u32>);

impl SamplingConfig {
    /// One frame in so many of this network, `<namespace>/<name>`; `None`: all of them.
    pub fn one_in(&self, network: &str) -> Option<u32> {
        self.0.get(network).copied()
    }

    /// The networks that are named.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether every network is counted exactly.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn read(node: &Node<'_>) -> Result<SamplingConfig, Problem> {
    let mut config = SamplingConfig::default();
    for item in &node.items()? {
        let mut fields = item.fields()?;
        let network = fields.require("network", |node| {
            let name = NetworkName::try_from(node.string()?.to_owned())
                .map_err(|error| node.refuse(error.to_string()))?;
            if config.one_in(name.as_str()).is_some() {
                return Err(node.refuse(format!("{:?} is listed twice", name.as_str())));
            }
            Ok(name.as_str().to_owned())
        })?;
        let one_in = fields.require("oneIn", |node| node.within(ONE_IN[0], ONE_IN[1]))?;
        fields.finish()?;
        config.0.insert(network, u32::try_from(one_in).unwrap_or(u32::MAX));
    }
    Ok(config)
}
