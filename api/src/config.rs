//! The two configuration files, `trunkline-agent.conf` and `trunkline-controller.conf`.
//!
//! Owns their keys, defaults, bounds and every refusal, each with its key and line. Must never read a file.

mod agent;
mod all;
mod bridges;
mod controller;
mod dns;
mod error;
pub mod export;
mod flows;
mod sampling;
mod yaml;

pub use agent::{
    AgentConfig, DatapathType, DefaultMtu, DuplicateAddressDetection, TxChecksumOffload, WithoutAnnotations,
};
pub use all::{AllConfig, NameFilter, Pattern};
pub use bridges::{BridgeConfig, MAX_UPLINKS, UplinkConfig};
pub use controller::ControllerConfig;
pub use dns::DnsConfig;
pub use error::ConfigError;
pub use flows::FlowsConfig;
pub use sampling::SamplingConfig;

/// The gates of both files; all are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// Does the agent do anything to its node. Agent only.
    pub secondary_network: bool,
    /// Are addresses given from pools. Both files.
    pub antrea_ipam: bool,
}

#[cfg(test)]
mod tests;
