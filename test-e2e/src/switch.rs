//! The physical world between nodes: one namespace with Linux bridges that know nothing of VLANs.
//!
//! Bridge `mgmt` carries the cluster network 198.51.100.0/24; bridges `phys1`, `phys2`, … carry the secondary ones
//! and pass every frame as it is, tags included. Nothing here filters or answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::netns::Netns;
use crate::run::{self, Run};

/// The bridge of the cluster network.
const MGMT: &str = "mgmt";

/// The switch namespace `<prefix>-sw`.
#[derive(Debug)]
pub struct Switch {
    netns: Netns,
    ports: Mutex<(u32, BTreeSet<String>)>,
}

impl Switch {
    /// Makes the namespace; its bridges come with their first port.
    pub fn create(run: &Arc<Run>) -> Result<Self> {
        Ok(Self { netns: Netns::create(run, "sw")?, ports: Mutex::new((0, BTreeSet::new())) })
    }

    /// Its namespace, to listen on the wire.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Plugs a new NIC `ifname` of `node` into the cluster network, with address `cidr` (say `198.51.100.11/24`).
    pub fn plug_mgmt(&self, node: &Netns, ifname: &str, cidr: &str) -> Result<()> {
        self.plug(node, ifname, MGMT)?;
        node.ip(&format!("addr add {cidr} dev {ifname}"))?;
        Ok(())
    }

    /// Plugs a new NIC `ifname` of `node` into physical network `fabric` (1, 2, …), up, without addresses.
    ///
    /// Returns the name of the switch's port, whose traffic is what is on the wire.
    pub fn plug_fabric(&self, node: &Netns, ifname: &str, fabric: u8) -> Result<String> {
        self.plug(node, ifname, &format!("phys{fabric}"))
    }

    fn plug(&self, node: &Netns, ifname: &str, bridge: &str) -> Result<String> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if !ports.1.contains(bridge) {
            self.netns.ip(&format!("link add {bridge} type bridge stp_state 0 forward_delay 0"))?;
            // A kernel built without snooping refuses to turn it off; then it is off.
            let _ = self.netns.ip(&format!("link set {bridge} type bridge mcast_snooping 0"));
            self.netns.sysctl(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1")?;
            self.netns.ip(&format!("link set {bridge} mtu 9000 up"))?;
            ports.1.insert(bridge.to_owned());
        }
        ports.0 += 1;
        let port = format!("p{}", ports.0);
        run::ip(&format!(
            "link add {ifname} netns {} type veth peer name {port} netns {}",
            node.name(),
            self.netns.name()
        ))?;
        self.netns.sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        self.netns.ip(&format!("link set {port} master {bridge} mtu 9000 up"))?;
        if bridge != MGMT {
            node.sysctl(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "1")?;
        }
        node.ip(&format!("link set {ifname} mtu 1500 up"))?;
        Ok(port)
    }

    /// Takes a port's link up or down, as a pulled cable does.
    pub fn set_carrier(&self, port: &str, up: bool) -> Result<()> {
        self.netns.ip(&format!("link set {port} {}", if up { "up" } else { "down" }))?;
        Ok(())
    }
}
