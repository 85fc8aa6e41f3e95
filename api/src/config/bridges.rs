//! `secondaryNetwork.ovsBridges` of the agent's file.
//!
//! Owns what a bridge and its uplinks may look like together (design decision 13); must never look at a node.

use super::yaml::{Node, Problem};
use crate::{BridgeName, IfName, Mtu, VlanSet};

/// The most uplinks of one bridge, as Antrea has it.
pub const MAX_UPLINKS: usize = 8;

/// One bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// `bridgeName`, unique in the file.
    pub name: BridgeName,
    /// `physicalInterfaces`, 0–8, each on one bridge only; none is an isolated bridge.
    pub uplinks: Vec<UplinkConfig>,
    /// `enableMulticastSnooping`. Default false.
    pub multicast_snooping: bool,
    /// `mtu` of the bridge's own interface; none leaves it to Open vSwitch.
    pub mtu: Option<Mtu>,
    /// `adopt`: take over a bridge that others have made, flows and all. Default false.
    pub adopt: bool,
    /// `parallelUplinks: allow`: uplinks may have VLANs in common. Default `refuse`, since that would be a loop.
    pub parallel_uplinks: bool,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Interface of the node.
    pub name: IfName,
    /// `allowedVLANs`; a plain name carries all.
    pub allowed_vlans: VlanSet,
}

/// Reads the list.
pub(super) fn read(node: &Node<'_>) -> Result<Vec<BridgeConfig>, Problem> {
    let mut bridges: Vec<BridgeConfig> = Vec::new();
    for item in node.items()? {
        let bridge = read_bridge(&item, &bridges)?;
        bridges.push(bridge);
    }
    Ok(bridges)
}

fn read_bridge(node: &Node<'_>, earlier: &[BridgeConfig]) -> Result<BridgeConfig, Problem> {
    let mut fields = node.fields()?;
    let name = fields.require("bridgeName", |node| {
        let name: BridgeName = node.parsed()?;
        let twice = earlier.iter().any(|bridge| bridge.name == name);
        if twice {
            Err(node.refuse(format!("\"{name}\" is already another bridge's name")))
        } else {
            Ok(name)
        }
    })?;
    let mut bridge = BridgeConfig {
        name,
        uplinks: Vec::new(),
        multicast_snooping: false,
        mtu: None,
        adopt: false,
        parallel_uplinks: false,
    };
    let choices = [("refuse", false), ("allow", true)];
    fields.set("parallelUplinks", &mut bridge.parallel_uplinks, |node| node.choice(&choices))?;
    let parallel = bridge.parallel_uplinks;
    fields.set("physicalInterfaces", &mut bridge.uplinks, |node| {
        let uplinks = read_uplinks(node, &bridge.name, earlier)?;
        check_together(node, &uplinks, parallel).map(|()| uplinks)
    })?;
    fields.set("enableMulticastSnooping", &mut bridge.multicast_snooping, Node::boolean)?;
    fields.set("mtu", &mut bridge.mtu, read_mtu)?;
    fields.set("adopt", &mut bridge.adopt, Node::boolean)?;
    fields.finish()?;
    Ok(bridge)
}

fn read_mtu(node: &Node<'_>) -> Result<Option<Mtu>, Problem> {
    let mtu =
        node.unsigned().and_then(|bytes| u32::try_from(bytes).ok()).and_then(|mtu| Mtu::try_from(mtu).ok());
    let refusal = || node.refuse(format!("{} is not an MTU; use 68 to 65535 bytes", node.shown()));
    mtu.map(Some).ok_or_else(refusal)
}

fn read_uplinks(
    node: &Node<'_>,
    bridge: &BridgeName,
    earlier: &[BridgeConfig],
) -> Result<Vec<UplinkConfig>, Problem> {
    let items = node.items()?;
    if items.len() > MAX_UPLINKS {
        return Err(node.refuse(format!("{} uplinks; a bridge may have at most {MAX_UPLINKS}", items.len())));
    }
    let mut uplinks: Vec<UplinkConfig> = Vec::with_capacity(items.len());
    for item in &items {
        let uplink = read_uplink(item)?;
        let name = &uplink.name;
        if name.as_str() == bridge.as_str() {
            return Err(item.refuse(format!("\"{name}\" is the bridge's own name")));
        }
        if uplinks.iter().any(|other| other.name == *name) {
            return Err(item.refuse(format!("\"{name}\" is listed twice")));
        }
        if let Some(other) = earlier.iter().find(|b| b.uplinks.iter().any(|uplink| uplink.name == *name)) {
            return Err(item.refuse(format!("\"{name}\" is already an uplink of bridge \"{}\"", other.name)));
        }
        uplinks.push(uplink);
    }
    Ok(uplinks)
}

fn read_uplink(node: &Node<'_>) -> Result<UplinkConfig, Problem> {
    if !node.is_mapping() {
        return Ok(UplinkConfig { name: node.parsed()?, allowed_vlans: VlanSet::ALL });
    }
    let mut fields = node.fields()?;
    let name = fields.require("name", Node::parsed)?;
    let mut allowed_vlans = VlanSet::ALL;
    fields.set("allowedVLANs", &mut allowed_vlans, read_vlans)?;
    fields.finish()?;
    Ok(UplinkConfig { name, allowed_vlans })
}

fn read_vlans(node: &Node<'_>) -> Result<VlanSet, Problem> {
    let items = node.items()?;
    if items.is_empty() {
        return Err(node.refuse("the list is empty; leave the key out to carry every VLAN"));
    }
    let mut texts = Vec::with_capacity(items.len());
    for item in &items {
        let text =
            item.unsigned().map_or_else(|| item.string().map(str::to_owned), |id| Ok(id.to_string()))?;
        // Each by itself first, so that the refusal names the item.
        VlanSet::parse([text.as_str()]).map_err(|error| item.refuse(error.to_string()))?;
        texts.push(text);
    }
    VlanSet::parse(texts.iter().map(String::as_str)).map_err(|error| node.refuse(error.to_string()))
}

/// Two uplinks that carry the same VLAN close a loop through the switch outside.
fn check_together(node: &Node<'_>, uplinks: &[UplinkConfig], parallel: bool) -> Result<(), Problem> {
    for (index, uplink) in uplinks.iter().enumerate() {
        for other in &uplinks[..index] {
            let Some(vlan) = uplink.allowed_vlans.common(&other.allowed_vlans) else { continue };
            let (a, b) = (&other.name, &uplink.name);
            let untagged = uplink.allowed_vlans.contains(None) && other.allowed_vlans.contains(None);
            if untagged && !uplink.allowed_vlans.is_all() && !other.allowed_vlans.is_all() {
                let message =
                    format!("{a} and {b} both carry untagged traffic (\"0\"); at most one uplink may");
                return Err(node.refuse(message));
            }
            if !parallel {
                let both = if vlan == 0 { "every VLAN".to_owned() } else { format!("VLAN {vlan}") };
                let right = "give them disjoint allowedVLANs, or set parallelUplinks: allow where the switch prevents the loop";
                return Err(node.refuse(format!("{a} and {b} both carry {both}, which is a loop; {right}")));
            }
        }
    }
    Ok(())
}
