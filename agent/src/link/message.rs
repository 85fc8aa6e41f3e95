//! Building the rtnetlink messages that a pod's link needs.
//!
//! Pure: from a specification to messages. Sends nothing.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::RouteRequest;
use super::types::{PodPairSpec, PodRoute};

/// The veth pair in one message: the node's end in the sender's namespace, the pod's end in `pod_namespace`.
pub(super) fn create_pair(spec: &PodPairSpec, pod_namespace: RawFd) -> RouteRequest {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(spec.pod_name.clone()),
        LinkAttribute::Address(spec.mac.to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::NetNsFd(pod_namespace),
    ];
    let mut host = LinkMessage::default();
    host.attributes = vec![
        LinkAttribute::IfName(spec.host_name.clone()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    RouteRequest { message: RouteNetlinkMessage::NewLink(host), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Asks for the link of that name.
pub(super) fn get_by_name(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::GetLink(message)
}

/// Removes the link of that name.
pub(super) fn delete_by_name(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::DelLink(message)
}

/// Sets a link up; with `no_arp` the kernel also never answers ARP on it.
pub(super) fn set_up(ifindex: u32, no_arp: bool) -> RouteRequest {
    let flags = if no_arp { LinkFlags::Up | LinkFlags::Noarp } else { LinkFlags::Up };
    let mut message = LinkMessage::default();
    message.header = LinkHeader { index: ifindex, flags, change_mask: flags, ..LinkHeader::default() };
    RouteRequest { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Adds an address; v6 without the kernel's duplicate address detection, since ours runs on the wire.
pub(super) fn add_address(ifindex: u32, address: IpNet) -> RouteRequest {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Local(address.addr()));
            // RFC 3021: a /31 or /32 has no broadcast address.
            if v4.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    RouteRequest { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Adds a route through the link, or through a neighbour on it.
pub(super) fn add_route(ifindex: u32, route: &PodRoute) -> RouteRequest {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: match route.destination {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        },
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Oif(ifindex));
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(gateway_attribute(gateway));
    }
    RouteRequest { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn gateway_attribute(gateway: IpAddr) -> RouteAttribute {
    RouteAttribute::Gateway(RouteAddress::from(gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(address: &str) -> (AddressMessage, u16) {
        let request = add_address(7, address.parse().expect("a network"));
        match request.message {
            RouteNetlinkMessage::NewAddress(message) => (message, request.flags),
            other => panic!("{other:?} adds no address"),
        }
    }

    #[test]
    fn only_a_v4_subnet_with_room_for_one_has_a_broadcast_address() {
        for (address, broadcast) in [
            ("10.9.0.5/24", Some("10.9.0.255")),
            ("10.9.0.4/31", None),
            ("10.9.0.4/32", None),
            ("fd00::5/64", None),
        ] {
            let (message, _) = attributes(address);
            let found = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Broadcast(address) => Some(address.to_string()),
                _ => None,
            });
            assert_eq!(found.as_deref(), broadcast, "{address}");
        }
    }

    #[test]
    fn a_v6_address_is_not_probed_by_the_kernel_and_adding_one_again_is_no_error() {
        let (message, flags) = attributes("fd00::5/64");
        assert!(message.attributes.contains(&AddressAttribute::Flags(AddressFlags::Nodad)), "{message:?}");
        assert_eq!((message.header.index, message.header.prefix_len), (7, 64));
        assert_eq!(flags, NLM_F_CREATE | NLM_F_REPLACE);
    }

    #[test]
    fn a_route_is_on_the_link_unless_it_has_a_next_hop() {
        let route = |to: &str, by: Option<&str>| {
            let route = PodRoute {
                destination: to.parse().expect("a network"),
                gateway: by.map(|by| by.parse().expect("an address")),
            };
            match add_route(7, &route).message {
                RouteNetlinkMessage::NewRoute(message) => message,
                other => panic!("{other:?} adds no route"),
            }
        };
        let near = route("10.20.0.0/16", None);
        assert_eq!(near.header.scope, RouteScope::Link);
        let far = route("10.20.0.0/16", Some("10.9.0.1"));
        assert_eq!(far.header.scope, RouteScope::Universe);
        assert!(far.attributes.contains(&RouteAttribute::Gateway(RouteAddress::Inet([10, 9, 0, 1].into()))));
        let all = route("::/0", Some("fd00::1"));
        assert_eq!(all.header.address_family, AddressFamily::Inet6);
        let names_a_destination =
            all.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Destination(_)));
        assert!(!names_a_destination, "the default route has none");
    }

    #[test]
    fn the_nodes_end_goes_up_without_arp_and_the_pods_with() {
        let flags = |no_arp| match set_up(3, no_arp).message {
            RouteNetlinkMessage::SetLink(message) => (message.header.flags, message.header.change_mask),
            other => panic!("{other:?} sets no link"),
        };
        let both = LinkFlags::Up | LinkFlags::Noarp;
        assert_eq!(flags(true), (both, both));
        assert_eq!(flags(false), (LinkFlags::Up, LinkFlags::Up));
    }
}
