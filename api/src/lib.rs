//! Trunkline's language: CRDs, network attachments, pod annotations, configuration files and the newtypes in them.
//!
//! Owns parsing and printing of everything users write or read. Must never do I/O and never depend on tokio or on
//! a Kubernetes client: the agent, the controller and the command line bring those.

pub mod allocation;
pub mod config;
mod crds;
pub mod flow_protocol;
mod json;
mod k8s_name;
pub mod link_name;
pub mod mac;
pub mod mtu;
pub mod nad;
pub mod nad_config;
pub mod network_status;
pub mod pool;
pub mod selection;
pub mod vlan;

pub use allocation::{AllocationOwner, IPAllocation, IPAllocationSpec, allocation_name};
pub use config::export;
pub use config::{
    AgentConfig, AllConfig, BridgeConfig, ConfigError, ControllerConfig, DatapathType, DefaultMtu, DnsConfig,
    DuplicateAddressDetection, FeatureGates, FlowsConfig, NameFilter, Pattern, SamplingConfig,
    TxChecksumOffload, UplinkConfig, WithoutAnnotations,
};
pub use crds::crds;
pub use flow_protocol::{FlowProtocol, InvalidProtocol};
pub use link_name::{BridgeName, IfName, InvalidLinkName};
pub use mac::{InvalidMac, MacAddr};
pub use mtu::{InvalidMtu, Mtu};
pub use nad::{NetworkAttachmentDefinition, NetworkAttachmentDefinitionSpec};
pub use nad_config::{Dns, Nad, NadConfig, NadConfigError, NadIpam, Route, StaticAddress};
pub use network_status::{NetworkStatus, primary_status};
pub use pool::{IPPool, IPPoolSpec, IPPoolStatus, IPPoolUsage, IPRange, SubnetInfo};
pub use selection::{IpRequest, NetworkSelection, SelectionError, parse_networks};
pub use vlan::{InvalidVlan, VlanId, VlanSet};

/// Pod annotation in which a pod asks for networks (NPWG specification 1.3, section 4.1).
pub const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";
/// Pod annotation in which the pod's networks are reported (NPWG specification 1.3, section 5).
pub const NETWORK_STATUS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/network-status";
/// NAD annotation that names the device plugin's resource (SR-IOV).
pub const RESOURCE_NAME_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";
/// Finalizer on pools from which an address is claimed.
pub const POOL_FINALIZER: &str = "ipam.trunkline.io/in-use";
