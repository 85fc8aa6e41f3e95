//! The reasons of the agent's Events: a closed list that users can search for and that the reference documents.
//!
//! Owns names and meanings; must never build a message.

/// One reason: its name, whether it is a warning, and the action that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// As `kubectl describe` shows it.
    pub name: &'static str,
    /// Type `Warning`, else `Normal`.
    pub warning: bool,
    /// The Event's `action`: what the agent was doing.
    pub action: &'static str,
    /// What it means and what to do, for the reference.
    pub meaning: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $ident:ident = $name:literal, $warning:literal, $action:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $ident: Reason =
            Reason { name: $name, warning: $warning, action: $action, meaning: $meaning };)*
        /// Every reason, in the order of the reference.
        pub const ALL: &[Reason] = &[$($ident),*];
    };
}

reasons! {
    ATTACHED_NETWORKS = "AttachedNetworks", false, "Attach",
        "On a Pod: every requested network is attached; lists interfaces, networks, VLANs and addresses.";
    ATTACH_FAILED = "AttachFailed", true, "Attach",
        "On a Pod: a requested network cannot be attached; nothing of the pod is left behind and the runtime tries again.";
    DETACH_FAILED = "DetachFailed", true, "Detach",
        "On a Pod: something of a deleted sandbox could not be removed; orphan collection tries again.";
    ADDRESS_CONFLICT = "AddressConflict", true, "ProbeAddress",
        "On a Pod: another host answered for an address that the pod was given; the address rests for ten minutes.";
    UNTAGGED_NOT_CARRIED = "UntaggedNotCarried", true, "Attach",
        "On a Pod: it is attached untagged, but no uplink of the bridge carries untagged frames (allowedVLANs has no \"0\").";
    VLAN_NOT_CARRIED = "VlanNotCarried", true, "Attach",
        "On a Pod: it is attached to a VLAN that no uplink of the bridge allows.";
    STATUS_NOT_WRITTEN = "StatusNotWritten", true, "WriteStatus",
        "On a Pod: its attachment failed and was undone, but its network-status annotation still names the interfaces; the next attempt writes it anew.";
    HOST_NETWORK_POD_IGNORED = "HostNetworkPodIgnored", true, "Attach",
        "On a Pod: it uses the host's network, for which no CNI call ever comes, so its networks annotation has no effect.";
    CONFIG_INVALID = "ConfigInvalid", true, "ReadConfig",
        "On a Node: the agent's configuration file is refused, with key and line; the last good one stays in force.";
    ANTREA_CONFLICT = "AntreaConflict", true, "Start",
        "On a Node: Antrea does the same work in this cluster; the agent does not start and names the gate to turn off.";
    CONFIG_NEEDS_RESTART = "ConfigNeedsRestart", true, "ReadConfig",
        "On a Node: a changed setting takes effect only when the agent is restarted.";
    NO_PRIMARY_CNI = "NoPrimaryCNI", true, "WriteConflist",
        "On a Node: there is no CNI configuration to chain to, so pods cannot be attached until a primary CNI writes one.";
    PRIMARY_IS_MULTUS = "PrimaryIsMultus", true, "WriteConflist",
        "On a Node: Multus is the primary CNI; the agent does not chain itself behind it.";
    CONFLIST_FAILED = "ConflistFailed", true, "WriteConflist",
        "On a Node: the chained CNI configuration could not be written.";
    UPLINK_MISSING = "UplinkMissing", true, "ReconcileBridge",
        "On a Node: it lacks a physical interface that the configuration names; the bridge appears when the interface does.";
    UPLINK_REFUSED = "UplinkRefused", true, "ReconcileBridge",
        "On a Node: a physical interface is in use by the host (address, master, VLAN children, default route) or would loop.";
    BRIDGE_READY = "BridgeReady", false, "ReconcileBridge",
        "On a Node: a bridge is ready for pods.";
    BRIDGE_NOT_ADOPTED = "BridgeNotAdopted", true, "ReconcileBridge",
        "On a Node: a bridge of that name exists with a controller, foreign flows or live ports; `adopt: true` takes it over.";
    DATAPATH_NETDEV = "DatapathNetdev", true, "ReconcileBridge",
        "On a Node: the kernel has no openvswitch module, so a bridge runs on the slower userspace datapath.";
    UPLINK_FAILED = "UplinkFailed", true, "ReconcileBridge",
        "On a Node: Open vSwitch cannot use an uplink that was joined to the bridge.";
    DATAPATH_UNAVAILABLE = "DatapathUnavailable", true, "ReconcileBridge",
        "On a Node: a bridge asks for datapathType system and the kernel has no openvswitch module.";
    DATAPATH_KEPT = "DatapathKept", true, "ReconcileBridge",
        "On a Node: a changed datapathType takes effect only when the bridge is made anew.";
    OVS_UNREACHABLE = "OvsUnreachable", true, "ConnectOvs",
        "On a Node: Open vSwitch does not answer; new pods wait, running ones keep their traffic while it lives.";
    TAP_FAILED = "TapFailed", true, "Tap",
        "On a Pod or Node: an interface has no tap, so its flows are not seen; the interface itself works. The agent tries again.";
    TAP_ATTACHED_AGAIN = "TapAttachedAgain", true, "Tap",
        "On a Pod or Node: somebody took an interface's tap off; it is back on, and frames in between were not counted.";
    FLOWS_UNAVAILABLE = "FlowsUnavailable", true, "StartTaps",
        "On a Node: no flows are seen, since this kernel or its BPF file system does not take the tap programs; everything else works.";
    OVS_ALREADY_RUNNING = "OvsAlreadyRunning", true, "StartOvs",
        "On a Pod of trunkline-ovs: the node runs an Open vSwitch of its own; install the overlay host-ovs instead.";
}

/// The reason of this name, if it is one of ours.
pub fn by_name(name: &str) -> Option<Reason> {
    ALL.iter().copied().find(|reason| reason.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_pascal_case_and_every_meaning_names_its_object() {
        let mut names: Vec<_> = ALL.iter().map(|reason| reason.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for reason in ALL {
            assert!(reason.name.chars().all(char::is_alphabetic), "{}", reason.name);
            assert!(reason.name.starts_with(char::is_uppercase), "{}", reason.name);
            assert!(reason.meaning.starts_with("On a "), "{}", reason.name);
        }
    }

    #[test]
    fn the_reference_has_every_reason_with_its_meaning() {
        let reference = include_str!("../../../../docs/reference.md");
        for Reason { name, warning, meaning, .. } in ALL {
            let (object, said) = meaning.split_once(": ").expect("\"On a …: …\"");
            let object = object.trim_start_matches("On a ");
            let said = said[..1].to_uppercase() + &said[1..];
            let kind = if *warning { "Warning" } else { "Normal" };
            let row = format!("| `{name}` | {kind} | {object} | {said} |");
            assert!(reference.contains(&row), "docs/reference.md lacks: {row}");
        }
    }
}
