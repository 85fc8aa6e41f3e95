//! What there is: the links of the node with all that decides whether they may become uplinks.
//!
//! Owns three dumps (links, addresses, routes) and their join. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::pod::{blocking, step_error};
use super::socket::RouteSocket;
use super::types::{LinkError, LinkFacts, LinkStep, Place};

/// All links of the node's namespace, ordered by index.
pub async fn inspect_links() -> Result<Vec<LinkFacts>, LinkError> {
    blocking("", || inspect().map_err(step_error("(all)", &Place::Node, LinkStep::Inspect))).await
}

/// Names of the node's links that begin with `prefix`.
pub async fn list_host_links(prefix: &str) -> Result<Vec<String>, LinkError> {
    let prefix = prefix.to_owned();
    blocking("", move || {
        let links = RouteSocket::open()
            .and_then(|mut socket| dump_links(&mut socket))
            .map_err(step_error("(all)", &Place::Node, LinkStep::Inspect))?;
        Ok(links.iter().filter_map(name_of).filter(|name| name.starts_with(&prefix)).collect())
    })
    .await
}

fn inspect() -> io::Result<Vec<LinkFacts>> {
    let mut socket = RouteSocket::open()?;
    let links = dump_links(&mut socket)?;
    let mut addresses: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for message in socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(address) = counted_address(&message)
        {
            addresses.entry(message.header.index).or_default().push(address);
        }
    }
    let mut default_routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        for message in socket.dump(&RouteNetlinkMessage::GetRoute(wanted))? {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                default_routes.extend(default_route_links(&route));
            }
        }
    }
    Ok(join(&links, addresses, &default_routes))
}

fn dump_links(socket: &mut RouteSocket) -> io::Result<Vec<LinkMessage>> {
    let messages = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .collect())
}

fn join(
    links: &[LinkMessage],
    mut addresses: BTreeMap<u32, Vec<IpNet>>,
    default_routes: &BTreeSet<u32>,
) -> Vec<LinkFacts> {
    let identity: BTreeMap<u32, (String, String)> = links
        .iter()
        .filter_map(|link| Some((link.header.index, (name_of(link)?, kind_of(link).unwrap_or_default()))))
        .collect();
    let mut vlan_children: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for link in links {
        if kind_of(link).as_deref() == Some("vlan")
            && let (Some(parent), Some(name)) = (lower_of(link), name_of(link))
        {
            vlan_children.entry(parent).or_default().push(name);
        }
    }
    let mut facts: Vec<LinkFacts> = links
        .iter()
        .filter_map(|link| {
            let index = link.header.index;
            let mut facts = facts_of(link, &identity)?;
            facts.vlan_children = vlan_children.remove(&index).unwrap_or_default();
            facts.addresses = addresses.remove(&index).unwrap_or_default();
            facts.has_default_route = default_routes.contains(&index);
            Some(facts)
        })
        .collect();
    facts.sort_by_key(|link| link.ifindex);
    facts
}

fn facts_of(link: &LinkMessage, identity: &BTreeMap<u32, (String, String)>) -> Option<LinkFacts> {
    let flags = link.header.flags;
    let mut facts = LinkFacts {
        name: name_of(link)?,
        ifindex: link.header.index,
        kind: kind_of(link).unwrap_or_default(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..LinkFacts::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::Address(bytes) => facts.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => {
                let master = identity.get(index);
                // A master in another namespace cannot be named, but it is a master all the same.
                facts.master = Some(master.map_or_else(|| format!("#{index}"), |(name, _)| name.clone()));
                facts.master_kind = master.map(|(_, kind)| kind.clone()).filter(|kind| !kind.is_empty());
            }
            LinkAttribute::ParentDevName(device) => facts.parent_device = Some(device.clone()),
            LinkAttribute::PropList(properties) => {
                facts.altnames.extend(properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    for info in link_info(link) {
        if let LinkInfo::PortKind(kind) = info {
            facts.master_kind = Some(kind.to_string());
        }
    }
    Some(facts)
}

fn link_info(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    })
}

pub(super) fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

pub(super) fn kind_of(link: &LinkMessage) -> Option<String> {
    link_info(link).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// The link underneath, in the same namespace.
fn lower_of(link: &LinkMessage) -> Option<u32> {
    let elsewhere =
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    let lower = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    lower.filter(|_| !elsewhere)
}

/// An address that makes a NIC unfit as an uplink: any but a link-local one.
fn counted_address(message: &AddressMessage) -> Option<IpNet> {
    let prefix = message.header.prefix_len;
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL, where present, is ours.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) if found.is_none() => found = Some(*address),
            _ => {}
        }
    }
    let address = found.filter(|address| !is_link_local(*address))?;
    IpNet::new(address, prefix).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The links by which a default route of the main table leaves.
fn default_route_links(route: &RouteMessage) -> Vec<u32> {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main =
        table.unwrap_or_else(|| u32::from(route.header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !main || route.header.destination_prefix_length != 0 {
        return Vec::new();
    }
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    fn link(index: u32, name: &str, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        message.attributes.extend(more);
        message
    }

    fn kind(kind: InfoKind) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
    }

    fn address(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 24;
        message.attributes = attributes;
        message
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_makes_a_nic_unfit_is_joined_to_it() {
        let links = [
            link(4, "eth1.100", vec![kind(InfoKind::Vlan), LinkAttribute::Link(2)]),
            link(2, "eth1", vec![LinkAttribute::Mtu(9000), LinkAttribute::Controller(3)]),
            link(3, "bond0", vec![kind(InfoKind::Bond)]),
            link(5, "eth2", vec![LinkAttribute::Controller(77)]),
        ];
        let addresses = BTreeMap::from([(5, vec!["10.0.0.1/24".parse().expect("a network")])]);
        let facts = join(&links, addresses, &BTreeSet::from([3]));
        let names: Vec<_> = facts.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["eth1", "bond0", "eth1.100", "eth2"], "by index");
        let (eth1, bond, eth2) = (&facts[0], &facts[1], &facts[3]);
        assert_eq!((eth1.mtu, eth1.up, eth1.carrier), (9000, true, true));
        assert_eq!(eth1.vlan_children, ["eth1.100"]);
        assert_eq!((eth1.master.as_deref(), eth1.master_kind.as_deref()), (Some("bond0"), Some("bond")));
        assert!(bond.has_default_route && !eth1.has_default_route);
        assert_eq!(eth2.addresses.len(), 1);
        assert_eq!(eth2.master.as_deref(), Some("#77"), "a master elsewhere is a master all the same");
    }

    #[test]
    fn a_vlan_link_whose_parent_is_in_another_namespace_is_nobodys_child_here() {
        let foreign = vec![kind(InfoKind::Vlan), LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0)];
        let facts =
            join(&[link(2, "eth1", vec![]), link(9, "v", foreign)], BTreeMap::new(), &BTreeSet::new());
        assert!(facts[0].vlan_children.is_empty(), "{facts:?}");
    }

    #[test]
    fn link_local_addresses_do_not_count_and_a_tunnels_own_end_does() {
        let counted = |attributes| counted_address(&address(attributes)).map(|network| network.addr());
        assert_eq!(counted(vec![AddressAttribute::Address(ip("169.254.3.4"))]), None);
        assert_eq!(counted(vec![AddressAttribute::Address(ip("fe80::1"))]), None);
        assert_eq!(counted(vec![AddressAttribute::Address(ip("10.0.0.1"))]), Some(ip("10.0.0.1")));
        let tunnel = vec![AddressAttribute::Address(ip("10.0.0.2")), AddressAttribute::Local(ip("10.0.0.1"))];
        assert_eq!(counted(tunnel), Some(ip("10.0.0.1")));
    }

    #[test]
    fn default_routes_of_the_main_table_name_their_links() {
        let route = |table: u8, length: u8, attributes: Vec<RouteAttribute>| {
            let mut message = RouteMessage::default();
            (message.header.table, message.header.destination_prefix_length) = (table, length);
            message.attributes = attributes;
            default_route_links(&message)
        };
        let main = RouteHeader::RT_TABLE_MAIN;
        assert_eq!(route(main, 0, vec![RouteAttribute::Oif(2)]), [2]);
        assert!(route(main, 8, vec![RouteAttribute::Oif(2)]).is_empty(), "not a default route");
        assert!(route(100, 0, vec![RouteAttribute::Oif(2)]).is_empty(), "another table");
        let wide = vec![RouteAttribute::Oif(2), RouteAttribute::Table(1000)];
        assert!(route(main, 0, wide).is_empty(), "the attribute overrides the header");
        let mut hop = RouteNextHop::default();
        hop.interface_index = 5;
        assert_eq!(route(main, 0, vec![RouteAttribute::MultiPath(vec![hop])]), [5]);
    }
}
