//! One interface of a pod between wish and wire: what was wished for, what was claimed, what follows for OVSDB.
//!
//! Owns the translations between `desired`, the IPAM protocol, `external_ids` and network-status. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use trunkline_api::{MacAddr, NetworkStatus};
use trunkline_ipam::proto::{Allocation, InterfaceRequest, Pod, ReleaseRequest};

use super::{Sandbox, stable_mac};
use crate::bridge::{PodPortRow, host_veth_name, keys};
use crate::desired::Attachment;
use crate::link::{PodLink, PodRoute};
use crate::protocol::Failure;
use crate::server::code;

/// What one interface is to get, complete but for the link.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// What was wished for.
    pub(super) wish: Attachment,
    /// Its MAC address: requested, or the pod's stable one.
    pub(super) mac: MacAddr,
    /// Addresses with their prefix.
    pub(super) addresses: Vec<IpNet>,
    /// Pool of each claimed address.
    pub(super) claims: Vec<Claimed>,
    /// Gateways of the addresses' subnets, for network-status and for routes without a next hop.
    pub(super) gateways: Vec<IpAddr>,
    /// Host interface and OVS port.
    pub(super) port: String,
    /// Its veth pair, once that is made.
    pub(super) link: PodLink,
}

/// One claimed address.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    /// The pool that gave it.
    pub(super) pool: String,
    /// The address.
    pub(super) address: IpAddr,
}

impl Made {
    /// The network-status entry.
    pub(super) fn status(&self) -> NetworkStatus {
        NetworkStatus {
            name: self.wish.nad.to_string(),
            interface: self.wish.interface.to_string(),
            ips: self.addresses.iter().map(IpNet::addr).collect(),
            mac: Some(self.mac),
            mtu: Some(self.wish.mtu.into()),
            gateway: self.gateways.clone(),
            dns: self.wish.dns.clone(),
            ..NetworkStatus::default()
        }
    }

    /// A route whose missing next hop is the gateway of its family.
    pub(super) fn route(&self, destination: IpNet, gateway: Option<IpAddr>) -> PodRoute {
        let same_family = |hop: &&IpAddr| hop.is_ipv4() == destination.addr().is_ipv4();
        PodRoute { destination, gateway: gateway.or_else(|| self.gateways.iter().find(same_family).copied()) }
    }
}

pub(super) fn pod_message(sandbox: &Sandbox) -> Pod {
    Pod { namespace: sandbox.namespace.clone(), name: sandbox.name.clone(), uid: sandbox.uid.clone() }
}

/// What the sandbox gives back: these interfaces' addresses, or all that it holds where none is named.
pub(super) fn release_request(sandbox: &Sandbox, interfaces: Vec<String>) -> ReleaseRequest {
    ReleaseRequest {
        pod: Some(pod_message(sandbox)),
        sandbox: sandbox.id.clone(),
        node: String::new(), // the client fills it in
        interfaces,
    }
}

pub(super) fn interface_request(wish: &Attachment) -> InterfaceRequest {
    InterfaceRequest {
        interface: wish.interface.to_string(),
        nad: wish.nad.to_string(),
        pools: wish.pools.iter().map(|pool| pool.name.clone()).collect(),
        vlan: wish.vlan.map(|vlan| u32::from(u16::from(vlan))),
        ips: wish.requested_ips.iter().map(ToString::to_string).collect(),
    }
}

/// The interface as it is known before anything is claimed for it.
pub(super) fn wished(sandbox: &Sandbox, wish: &Attachment) -> Made {
    Made {
        mac: wish.mac.unwrap_or_else(|| stable_mac(&sandbox.uid, wish.interface.as_str())),
        port: host_veth_name(&sandbox.id, wish.interface.as_str()),
        addresses: wish.addresses.iter().map(|fixed| fixed.address).collect(),
        gateways: wish.addresses.iter().filter_map(|fixed| fixed.gateway).collect(),
        claims: Vec::new(),
        wish: wish.clone(),
        link: PodLink::default(),
    }
}

/// The interface with the addresses that the controller gave it.
pub(super) fn complete(mut made: Made, allocations: &[Allocation]) -> Result<Made, Failure> {
    for allocation in allocations {
        let unusable = || Failure {
            code: code::TRY_AGAIN,
            msg: format!(
                "interface {} (network {}): the controller answered with an address that is none: {}/{}",
                made.wish.interface, made.wish.nad, allocation.address, allocation.prefix_length
            ),
            details: String::new(),
        };
        let address: IpAddr = allocation.address.parse().map_err(|_| unusable())?;
        let prefix = u8::try_from(allocation.prefix_length).map_err(|_| unusable())?;
        let network = IpNet::new(address, prefix).map_err(|_| unusable())?;
        made.addresses.push(network);
        made.gateways.extend(allocation.gateway.parse::<IpAddr>().ok());
        made.claims.push(Claimed { pool: allocation.pool.clone(), address });
    }
    Ok(made)
}

/// What the agent rebuilds itself from.
pub(super) fn external_ids(sandbox: &Sandbox, one: &Made) -> BTreeMap<String, String> {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
    let pairs = [
        (keys::POD_UID, sandbox.uid.clone()),
        (keys::POD_NAMESPACE, sandbox.namespace.clone()),
        (keys::POD_NAME, sandbox.name.clone()),
        (keys::SANDBOX, sandbox.id.clone()),
        (keys::INTERFACE, one.wish.interface.to_string()),
        (keys::NAD, one.wish.nad.to_string()),
        (keys::MAC, one.mac.to_string()),
        (keys::ADDRESSES, list(&mut one.addresses.iter().map(ToString::to_string))),
        (keys::POOLS, list(&mut one.claims.iter().map(|claim| claim.pool.clone()))),
        (keys::NETNS, sandbox.netns.display().to_string()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What OVSDB will say of the port, for the tap that is there before it.
pub(super) fn port_row(sandbox: &Sandbox, one: &Made) -> PodPortRow {
    PodPortRow {
        name: one.port.clone(),
        bridge: one.wish.bridge.to_string(),
        pod_uid: sandbox.uid.clone(),
        pod_namespace: sandbox.namespace.clone(),
        pod_name: sandbox.name.clone(),
        sandbox: sandbox.id.clone(),
        interface: one.wish.interface.to_string(),
        nad: one.wish.nad.to_string(),
        vlan: one.wish.vlan,
        ..PodPortRow::default()
    }
}

#[cfg(test)]
mod tests {
    use trunkline_api::Mtu;

    use super::*;
    use crate::desired::NadKey;

    fn wish() -> Attachment {
        Attachment {
            interface: "eth1".parse().expect("a name"),
            nad: NadKey { namespace: "networks".into(), name: "storage".into() },
            bridge: "br-secondary".parse().expect("a name"),
            vlan: None,
            mtu: Mtu::DEFAULT,
            mac: None,
            requested_ips: Vec::new(),
            pools: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            dns: trunkline_api::Dns::default(),
        }
    }

    fn sandbox() -> Sandbox {
        Sandbox {
            namespace: "default".into(),
            name: "pod".into(),
            uid: "u-1".into(),
            id: "sandbox-1".into(),
            netns: "/run/netns/x".into(),
        }
    }

    fn allocation(address: &str, prefix_length: u32) -> Allocation {
        let gateway = if address.contains(':') { "fd00::1" } else { "10.0.0.1" }.to_owned();
        Allocation {
            pool: "p".into(),
            address: address.into(),
            prefix_length,
            gateway,
            ..Allocation::default()
        }
    }

    #[test]
    fn addresses_gateways_and_pools_follow_the_controllers_answer() {
        let answer = [allocation("10.0.0.5", 24), allocation("fd00::5", 64)];
        let made = complete(wished(&sandbox(), &wish()), &answer).expect("usable");
        let status = made.status();
        assert_eq!(status.name, "networks/storage");
        assert_eq!(
            status.ips,
            ["10.0.0.5".parse::<IpAddr>(), "fd00::5".parse()].map(|ip| ip.expect("an address"))
        );
        assert_eq!(status.mac, Some(stable_mac("u-1", "eth1")));
        let ids = external_ids(&sandbox(), &made);
        assert_eq!(ids[keys::ADDRESSES], "10.0.0.5/24,fd00::5/64");
        assert_eq!(ids[keys::POOLS], "p,p");
        assert_eq!(ids[keys::SANDBOX], "sandbox-1");
    }

    #[test]
    fn a_route_without_a_next_hop_takes_its_familys_gateway() {
        let answer = [allocation("10.0.0.5", 24), allocation("fd00::5", 64)];
        let made = complete(wished(&sandbox(), &wish()), &answer).expect("usable");
        let hop =
            |to: &str| made.route(to.parse().expect("a network"), None).gateway.map(|hop| hop.to_string());
        assert_eq!(hop("192.168.0.0/16").as_deref(), Some("10.0.0.1"));
        assert_eq!(hop("fd01::/32").as_deref(), Some("fd00::1"));
        let asked = "10.0.0.9".parse().expect("an address");
        assert_eq!(made.route("10.9.0.0/16".parse().expect("a network"), Some(asked)).gateway, Some(asked));
    }

    #[test]
    fn an_answer_that_is_no_address_is_refused_with_its_text() {
        for (address, prefix) in [("10.0.0", 24), ("10.0.0.5", 33), ("10.0.0.5", 300)] {
            let failure =
                complete(wished(&sandbox(), &wish()), &[allocation(address, prefix)]).expect_err("unusable");
            assert!(failure.msg.contains(&format!("{address}/{prefix}")), "{}", failure.msg);
        }
    }
}
