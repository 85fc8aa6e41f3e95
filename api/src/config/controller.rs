//! `trunkline-controller.conf`, in the shape of `antrea-controller.conf`.
//!
//! Owns the controller's keys and defaults; must never know the agent's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::FeatureGates;
use super::error::ConfigError;
use super::yaml::{Document, Node, Problem};

/// What the controller does, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// `featureGates.AntreaIPAM`; off, the controller gives out nothing.
    pub gates: FeatureGates,
    /// `ipamBindAddress` of the IPAM service. Default `0.0.0.0`.
    pub ipam_bind_address: IpAddr,
    /// `ipamPort` of the IPAM service, 1–65535. Default 10350.
    pub ipam_port: u16,
    /// `metricsBindAddress` of `/metrics`, `/healthz`, `/readyz`. Default `0.0.0.0`.
    pub metrics_bind_address: IpAddr,
    /// `metricsPort`, 1–65535. Default 10352.
    pub metrics_port: u16,
    /// `gcGracePeriodSeconds`: how long an allocation may look abandoned before it is collected, 10–86400 s.
    /// Default 120 s.
    pub gc_grace_period: Duration,
    /// `gcIntervalSeconds` between two looks, 1–3600 s. Default 30 s.
    pub gc_interval: Duration,
    /// `addressRestSeconds`: how long an address that answered a duplicate-address probe rests, 0–86400 s.
    /// Default 600 s.
    pub address_rest: Duration,
    /// `leaseDurationSeconds` of the leader's Lease, 3–300 s. Default 15 s.
    pub lease_duration: Duration,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            gates: FeatureGates::default(),
            ipam_bind_address: Ipv4Addr::UNSPECIFIED.into(),
            ipam_port: 10350,
            metrics_bind_address: Ipv4Addr::UNSPECIFIED.into(),
            metrics_port: 10352,
            gc_grace_period: Duration::from_mins(2),
            gc_interval: Duration::from_secs(30),
            address_rest: Duration::from_mins(10),
            lease_duration: Duration::from_secs(15),
        }
    }
}

impl ControllerConfig {
    /// The file's key in the `ConfigMap` `trunkline-config`, and its name in messages.
    pub const FILE: &'static str = "trunkline-controller.conf";

    /// Reads the file's text. Empty text is every default: the gate off.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(Self::FILE, text)?;
        let read = document.root().map_or_else(|| Ok(Self::default()), |root| Self::read(&root));
        read.map_err(|problem| document.error(problem))
    }

    fn read(root: &Node<'_>) -> Result<Self, Problem> {
        let mut fields = root.fields()?;
        let mut config = Self::default();
        fields.take("featureGates", |node| {
            let mut gates = node.fields()?;
            gates.set("AntreaIPAM", &mut config.gates.antrea_ipam, Node::boolean)?;
            gates.finish()
        })?;
        fields.set("ipamBindAddress", &mut config.ipam_bind_address, Node::address)?;
        fields.set("ipamPort", &mut config.ipam_port, Node::port)?;
        fields.set("metricsBindAddress", &mut config.metrics_bind_address, Node::address)?;
        fields.set("metricsPort", &mut config.metrics_port, Node::port)?;
        fields.set("gcGracePeriodSeconds", &mut config.gc_grace_period, |node| node.seconds(10, 86_400))?;
        fields.set("gcIntervalSeconds", &mut config.gc_interval, |node| node.seconds(1, 3_600))?;
        fields.set("addressRestSeconds", &mut config.address_rest, |node| node.seconds(0, 86_400))?;
        fields.set("leaseDurationSeconds", &mut config.lease_duration, |node| node.seconds(3, 300))?;
        fields.finish()?;
        Ok(config)
    }
}
