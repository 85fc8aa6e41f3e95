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

fn kind_of(link: &LinkMessage) -> Option<String> {
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
