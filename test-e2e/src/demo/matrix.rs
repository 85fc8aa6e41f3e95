//! Which cells the reachability matrix has: who asks whom, at which address, and what must come of it.
//!
//! Pure; asking is [`super::probing`]'s.

use std::net::IpAddr;

use serde::Serialize;

use super::pods::Interface;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4
    Ipv4,
    /// IPv6, link-local where the interface has no other
    Ipv6,
}

/// One question: an interface asks another one's address. The numbers are indices of the list of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Who asks.
    pub from: usize,
    /// Who is meant.
    pub to: usize,
    /// The address asked.
    pub target: IpAddr,
    /// The source address; the kernel would choose none that differs, but says so.
    pub source: IpAddr,
    /// The target's family.
    pub family: Family,
    /// Must the intended interface answer.
    pub same_network: bool,
    /// Give the source a neighbour entry for the target first, so that address resolution is not what isolates.
    pub static_neighbour: bool,
}

impl Cell {
    fn new(all: &[Interface], (from, to): (usize, usize), target: IpAddr, source: IpAddr) -> Self {
        let family = if target.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let same_network = all[from].network == all[to].network;
        Self { from, to, target, source, family, same_network, static_neighbour: false }
    }
}

/// Every cell. Left out: a pod asking itself, and an address that both pods have, on whatever interface: a kernel
/// delivers its own addresses to itself, and drops what comes from outside with one of them as its source.
pub fn cells(all: &[Interface]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (to, target) in all.iter().enumerate() {
        for (from, source) in all.iter().enumerate() {
            if source.pod_uid == target.pod_uid {
                continue;
            }
            for (address, own) in questions(source, target) {
                if !holds(all, source, address) && !holds(all, target, own) {
                    cells.push(Cell::new(all, (from, to), address, own));
                }
            }
        }
    }
    if let Some(index) = pair_for_static_neighbour(all, &cells) {
        cells[index].static_neighbour = true;
    }
    cells
}

/// Does the pod of this interface have the address, here or on another interface.
fn holds(all: &[Interface], of: &Interface, address: IpAddr) -> bool {
    all.iter().any(|i| i.pod_uid == of.pod_uid && i.ips.contains(&address))
}

/// Target and source address of each family in which the pair can meet: an address of the pools where both sides
/// have one, the link-local ones for IPv6 otherwise, so that no cell fails for want of a source address.
fn questions(source: &Interface, target: &Interface) -> Vec<(IpAddr, IpAddr)> {
    let of = |interface: &Interface, v4: bool| interface.ips.iter().find(|ip| ip.is_ipv4() == v4).copied();
    let v4 = of(target, true).zip(of(source, true));
    let link_local = (target.link_local.into(), source.link_local.into());
    let v6 = of(target, false).zip(of(source, false)).unwrap_or(link_local);
    v4.into_iter().chain([v6]).collect()
}

/// A cross-network IPv4 cell whose target address nobody on the asking network holds.
fn pair_for_static_neighbour(all: &[Interface], cells: &[Cell]) -> Option<usize> {
    cells.iter().position(|cell| {
        let network = &all[cell.from].network;
        let held = all.iter().any(|i| i.network == *network && i.ips.contains(&cell.target));
        cell.family == Family::Ipv4 && !cell.same_network && !held
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(pod: &str, network: &str, ips: &[&str], link_local: &str) -> Interface {
        Interface {
            pod: pod.into(),
            pod_uid: format!("uid-{pod}"),
            node: "n".into(),
            interface: "eth1".into(),
            network: network.into(),
            vlan: 1,
            mac: String::new(),
            ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            link_local: link_local.parse().expect("an address"),
            attach_ms: 0,
            netns: String::new(),
        }
    }

    #[test]
    fn equal_addresses_are_left_out_and_strangers_are_asked_by_link_local_address() {
        let all = [
            interface("a", "red", &["10.0.0.1", "fd00::1"], "fe80::1"),
            interface("b", "blue", &["10.0.0.1"], "fe80::2"),
            interface("c", "red", &["10.0.0.2", "fd00::2"], "fe80::3"),
        ];
        let cells = cells(&all);
        let between = |from, to| cells.iter().filter(|c| c.from == from && c.to == to).collect::<Vec<_>>();
        assert_eq!(between(0, 1).len(), 1, "the v4 cell has equal addresses");
        assert_eq!(between(0, 1)[0].target, all[1].link_local);
        assert_eq!(between(0, 2).len(), 2);
        assert!(between(0, 2).iter().all(|cell| cell.same_network));
        assert_eq!(between(1, 2).len(), 2);
        assert!(between(1, 2).iter().all(|cell| !cell.same_network));
    }

    #[test]
    fn an_address_that_the_other_pod_has_on_another_network_is_left_out_both_ways() {
        let mut second = interface("a", "blue", &["10.0.0.2"], "fe80::2");
        second.interface = "eth2".into();
        let all = [
            interface("a", "red", &["10.0.0.1"], "fe80::1"),
            second,
            interface("b", "red", &["10.0.0.2"], "fe80::3"),
        ];
        assert!(cells(&all).iter().all(|cell| cell.family == Family::Ipv6));
    }

    #[test]
    fn the_static_neighbour_goes_to_an_address_that_the_asking_network_lacks() {
        let all = [
            interface("a", "red", &["10.0.0.1"], "fe80::1"),
            interface("b", "red", &["10.0.0.2"], "fe80::2"),
            interface("c", "blue", &["10.0.0.1"], "fe80::3"),
        ];
        let cells = cells(&all);
        let chosen: Vec<_> = cells.iter().filter(|cell| cell.static_neighbour).collect();
        assert_eq!(chosen.len(), 1);
        assert_eq!((chosen[0].from, chosen[0].to), (2, 1));
    }

    #[test]
    fn a_pod_does_not_ask_itself() {
        let mut two = interface("a", "blue", &["10.0.0.2"], "fe80::2");
        two.interface = "eth2".into();
        assert!(cells(&[interface("a", "red", &["10.0.0.1"], "fe80::1"), two]).is_empty());
    }
}
