//! `trunkline-agent.conf`, in the shape of `antrea-agent.conf`.
//!
//! Owns the agent's keys and defaults; must never look at a node.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::FeatureGates;
use super::bridges::{self, BridgeConfig};
use super::error::ConfigError;
use super::flows::{self, FlowsConfig};
use super::yaml::{Document, Fields, Node, Problem};
use crate::{IfName, Mtu};

/// What the agent does, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// `featureGates`.
    pub gates: FeatureGates,
    /// `secondaryNetwork.ovsBridges`, names unique.
    pub bridges: Vec<BridgeConfig>,
    /// `ovsRunDir`: directory of `db.sock` and `<bridge>.mgmt`. Default `/run/trunkline/openvswitch`.
    pub ovs_run_dir: PathBuf,
    /// `datapathType` of bridges that are created from now on. Default `auto`.
    pub datapath: DatapathType,
    /// `cniBinDir`: where the plugin's binary goes. Default `/opt/cni/bin`.
    pub cni_bin_dir: PathBuf,
    /// `cniConfDir`: where the chained configuration goes. Default `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// `cniTimeoutSeconds`: deadline of one ADD, 5–180 s. Default 60 s.
    pub cni_timeout: Duration,
    /// `podsWithoutAnnotations`: what pods get where the runtime hands over no annotations.
    pub without_annotations: WithoutAnnotations,
    /// `interfacePrefix` of interfaces without a requested name; 1–12 bytes. Default `eth`.
    pub interface_prefix: String,
    /// `defaultMTU` of NADs that name none. Default 1500.
    pub default_mtu: DefaultMtu,
    /// `namespaceIsolation`: may pods name NADs of their own namespace only. Default false.
    pub namespace_isolation: bool,
    /// `duplicateAddressDetection`. Default `async`.
    pub duplicate_address_detection: DuplicateAddressDetection,
    /// `disableTXChecksumOffload` on the pods' ends. Default `auto`.
    pub disable_tx_checksum_offload: TxChecksumOffload,
    /// `metricsBindAddress` of `/metrics`, `/healthz`, `/readyz`. Default `0.0.0.0`.
    pub metrics_bind_address: IpAddr,
    /// `metricsPort`, 1–65535. Default 10351.
    pub metrics_port: u16,
    /// `flows`: taps and the flow table. Read when the agent starts.
    pub flows: FlowsConfig,
}

/// `datapathType`: which datapath new bridges get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatapathType {
    /// The kernel's where it is there, else the userspace one, with a Warning.
    #[default]
    Auto,
    /// The kernel's, or none.
    System,
    /// The userspace one.
    Netdev,
}

/// `podsWithoutAnnotations`: for runtimes that hand over no annotations, where the agent cannot be asked either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutAnnotations {
    /// `action: allow`, for every namespace; `fail` is the default.
    pub allow: bool,
    /// `allowNamespaces`: whose pods start all the same. Default `kube-system` and `trunkline-system`.
    pub allow_namespaces: BTreeSet<String>,
}

/// `defaultMTU`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultMtu {
    /// This, or less where the uplinks have less.
    Fixed(Mtu),
    /// The smallest of the bridge's uplinks.
    Uplink,
}

/// `duplicateAddressDetection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DuplicateAddressDetection {
    /// No probe.
    Off,
    /// Probe, and report what answers after ADD has returned.
    #[default]
    Async,
    /// Probe before ADD returns, and take the next address when one is in use.
    Wait,
}

/// `disableTXChecksumOffload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxChecksumOffload {
    /// Off on userspace datapaths, which need it off.
    #[default]
    Auto,
    /// Always off.
    Disable,
    /// Left on.
    Keep,
}

impl Default for WithoutAnnotations {
    fn default() -> Self {
        let allow_namespaces = ["kube-system", "trunkline-system"].map(str::to_owned).into();
        Self { allow: false, allow_namespaces }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            gates: FeatureGates::default(),
            bridges: Vec::new(),
            ovs_run_dir: "/run/trunkline/openvswitch".into(),
            datapath: DatapathType::default(),
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_timeout: Duration::from_mins(1),
            without_annotations: WithoutAnnotations::default(),
            interface_prefix: "eth".to_owned(),
            default_mtu: DefaultMtu::Fixed(Mtu::DEFAULT),
            namespace_isolation: false,
            duplicate_address_detection: DuplicateAddressDetection::default(),
            disable_tx_checksum_offload: TxChecksumOffload::default(),
            metrics_bind_address: Ipv4Addr::UNSPECIFIED.into(),
            metrics_port: 10351,
            flows: FlowsConfig::default(),
        }
    }
}

impl AgentConfig {
    /// The file's key in the `ConfigMap` `trunkline-config`, and its name in messages.
    pub const FILE: &'static str = "trunkline-agent.conf";

    /// Reads the file's text. Empty text is every default: both gates off.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(Self::FILE, text)?;
        let read = document.root().map_or_else(|| Ok(Self::default()), |root| Self::read(&root));
        read.map_err(|problem| document.error(problem))
    }

    fn read(root: &Node<'_>) -> Result<Self, Problem> {
        let mut fields = root.fields()?;
        let mut config = Self::default();
        let slot = &mut config;
        fields.take("featureGates", |node| read_gates(&node).map(|gates| slot.gates = gates))?;
        fields.take("secondaryNetwork", |node| {
            let mut fields = node.fields()?;
            fields.take("ovsBridges", |node| bridges::read(&node).map(|bridges| slot.bridges = bridges))?;
            fields.finish()
        })?;
        fields.set("ovsRunDir", &mut slot.ovs_run_dir, Node::directory)?;
        fields.set("datapathType", &mut slot.datapath, read_datapath)?;
        fields.set("cniBinDir", &mut slot.cni_bin_dir, Node::directory)?;
        fields.set("cniConfDir", &mut slot.cni_conf_dir, Node::directory)?;
        fields.set("cniTimeoutSeconds", &mut slot.cni_timeout, |node| node.seconds(5, 180))?;
        fields.set("podsWithoutAnnotations", &mut slot.without_annotations, read_without_annotations)?;
        fields.set("interfacePrefix", &mut slot.interface_prefix, read_prefix)?;
        fields.set("defaultMTU", &mut slot.default_mtu, read_default_mtu)?;
        fields.set("namespaceIsolation", &mut slot.namespace_isolation, Node::boolean)?;
        fields.set("duplicateAddressDetection", &mut slot.duplicate_address_detection, read_detection)?;
        fields.set("disableTXChecksumOffload", &mut slot.disable_tx_checksum_offload, read_offload)?;
        fields.set("metricsBindAddress", &mut slot.metrics_bind_address, Node::address)?;
        fields.set("metricsPort", &mut slot.metrics_port, Node::port)?;
        fields.set("flows", &mut slot.flows, flows::read)?;
        fields.finish()?;
        Ok(config)
    }
}

fn read_gates(node: &Node<'_>) -> Result<FeatureGates, Problem> {
    let mut fields: Fields<'_> = node.fields()?;
    let mut gates = FeatureGates::default();
    fields.set("SecondaryNetwork", &mut gates.secondary_network, Node::boolean)?;
    fields.set("AntreaIPAM", &mut gates.antrea_ipam, Node::boolean)?;
    fields.finish()?;
    Ok(gates)
}

fn read_datapath(node: &Node<'_>) -> Result<DatapathType, Problem> {
    node.choice(&[
        ("auto", DatapathType::Auto),
        ("system", DatapathType::System),
        ("netdev", DatapathType::Netdev),
    ])
}

fn read_detection(node: &Node<'_>) -> Result<DuplicateAddressDetection, Problem> {
    node.choice(&[
        ("off", DuplicateAddressDetection::Off),
        ("async", DuplicateAddressDetection::Async),
        ("wait", DuplicateAddressDetection::Wait),
    ])
}

fn read_offload(node: &Node<'_>) -> Result<TxChecksumOffload, Problem> {
    node.choice(&[
        ("auto", TxChecksumOffload::Auto),
        ("true", TxChecksumOffload::Disable),
        ("false", TxChecksumOffload::Keep),
    ])
}

fn read_without_annotations(node: &Node<'_>) -> Result<WithoutAnnotations, Problem> {
    let mut fields = node.fields()?;
    let mut read = WithoutAnnotations::default();
    fields.set("action", &mut read.allow, |node| node.choice(&[("fail", false), ("allow", true)]))?;
    fields.set("allowNamespaces", &mut read.allow_namespaces, |node| {
        node.items()?.iter().map(|item| item.string().map(str::to_owned)).collect()
    })?;
    fields.finish()?;
    Ok(read)
}

fn read_default_mtu(node: &Node<'_>) -> Result<DefaultMtu, Problem> {
    let right = "is neither an MTU nor \"uplink\"; use 68 to 65535 bytes, or uplink";
    if node.string().is_ok_and(|text| text == "uplink") {
        return Ok(DefaultMtu::Uplink);
    }
    let mtu =
        node.unsigned().and_then(|bytes| u32::try_from(bytes).ok()).and_then(|mtu| Mtu::try_from(mtu).ok());
    mtu.map(DefaultMtu::Fixed).ok_or_else(|| node.refuse(format!("{} {right}", node.shown())))
}

fn read_prefix(node: &Node<'_>) -> Result<String, Problem> {
    let prefix = node.string()?;
    // Room for three digits, and a name that the kernel takes.
    let fits = prefix.len() <= 12 && prefix.parse::<IfName>().is_ok();
    if fits && !prefix.ends_with(|c: char| c.is_ascii_digit()) {
        return Ok(prefix.to_owned());
    }
    let right =
        "cannot begin an interface name; use 1 to 12 letters, digits, '-', '_' or '.', the last not a digit";
    Err(node.refuse(format!("{prefix:?} {right}")))
}
