//! What `trunkline-agent dump -o json` prints and `trunkctl` reads: this node as the agent sees it.
//!
//! Owns the shape only; must never hold state. Keys are stable: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDump {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// The configuration in force.
    pub config: ConfigDump,
    /// Connection to Open vSwitch.
    pub ovs: OvsDump,
    /// State of the chained CNI configuration, in words ("written", "no primary CNI", …).
    pub conflist: String,
    /// Bridges of the configuration, present or not.
    pub bridges: Vec<BridgeDump>,
    /// Ports of those bridges: uplinks and pods'.
    pub ports: Vec<PortDump>,
    /// Pod attachments, one per interface.
    pub attachments: Vec<AttachmentDump>,
    /// Taps: one for every pod port and uplink, attached or not.
    pub taps: Vec<TapDump>,
    /// Why no flows are seen; absent when they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_unavailable: Option<String>,
}

/// The agent configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigDump {
    /// Gate `SecondaryNetwork`.
    pub secondary_network: bool,
    /// Gate `AntreaIPAM`.
    pub antrea_ipam: bool,
    /// Why the newest file on disk is not in force; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The agent's view of Open vSwitch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OvsDump {
    /// Is the OVSDB connection up and its replica in step.
    pub connected: bool,
    /// Version of Open vSwitch as the database states it.
    pub version: String,
}

/// One bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BridgeDump {
    /// Bridge name.
    pub name: String,
    /// May pods be attached.
    pub ready: bool,
    /// `system` or `netdev`.
    pub datapath: String,
    /// Uplinks in the order of the configuration.
    pub uplinks: Vec<UplinkDump>,
    /// Number of pod ports.
    pub pod_ports: usize,
    /// What is wrong or worth knowing, each as "Reason: message".
    pub conditions: Vec<String>,
}

/// One uplink of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UplinkDump {
    /// Interface name on the node.
    pub name: String,
    /// Does the node have it.
    pub present: bool,
    /// Carrier as the kernel reports it.
    pub carrier: bool,
    /// MTU in bytes, 0 when absent.
    pub mtu: u32,
    /// VLANs that it carries, "0,100,200-300" or "all VLANs"; 0 is untagged.
    pub allowed_vlans: String,
}

/// One OVS port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortDump {
    /// Port and host interface name.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// `uplink` or `pod`.
    pub kind: String,
    /// OpenFlow port number; absent while vswitchd has not opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ofport: Option<u32>,
    /// Access VLAN, 0 when untagged.
    pub vlan: u16,
    /// What vswitchd says is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// "namespace/name" of the pod, for a pod's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// One interface of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentDump {
    /// Pod namespace.
    pub pod_namespace: String,
    /// Pod name.
    pub pod_name: String,
    /// Pod UID.
    pub pod_uid: String,
    /// Sandbox (CNI container id).
    pub sandbox: String,
    /// Interface name in the pod.
    pub interface: String,
    /// NAD as "namespace/name".
    pub nad: String,
    /// Bridge.
    pub bridge: String,
    /// Effective VLAN, 0 when untagged.
    pub vlan: u16,
    /// MAC address.
    pub mac: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Pools that the addresses came from.
    pub pools: Vec<String>,
    /// OVS port.
    pub port: String,
    /// Wall time of the plugin's ADD in milliseconds, absent until it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_ms: Option<u64>,
}

/// One tap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TapDump {
    /// Device of the node that carries it.
    pub device: String,
    /// Interface in the pod, or the uplink.
    pub interface: String,
    /// Network namespace of an interface that is not ours; absent for pods' interfaces and uplinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// "namespace/name" of the pod; absent for an uplink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// "namespace/name" of the network; empty for an uplink.
    pub network: String,
    /// The network's VLAN, 0 when untagged or on an uplink.
    pub vlan: u16,
    /// Bridge.
    pub bridge: String,
    /// `attached`, or what is wrong.
    pub state: String,
    /// Socket buffers that the pod received, since the tap was attached.
    pub received_skbs: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Socket buffers that the pod sent.
    pub sent_skbs: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Socket buffers of those for whose flow there was no room.
    pub without_flow: u64,
    /// One frame in so many is counted into flows; 1: every frame; 0 where there is no tap.
    pub one_in: u32,
}
