//! Changes of the node's links, as they happen.
//!
//! Owns one multicast rtnetlink socket, read by whoever holds the watch; there is no task. When the kernel drops
//! messages because nobody read in time, the watch says so once and goes on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::inspect::name_of;
use super::pod::step_error;
use super::socket::for_each_message;
use super::types::{LinkError, LinkEvent, LinkStep, Place};
use crate::netns::PolledFd;

/// Room for one multicast datagram.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A stream of link, address and route changes in the namespace in which it was opened.
pub struct LinkWatch {
    socket: PolledFd,
    ready: VecDeque<LinkEvent>,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Starts watching the node's links. What is there already is not reported: inspect after opening, not before.
    ///
    /// Must be called within a runtime, on a thread in the node's namespace.
    pub fn open() -> Result<Self, LinkError> {
        let failed = step_error("(all)", &Place::Node, LinkStep::Socket);
        let socket = multicast_socket().map_err(failed)?;
        Ok(Self { socket, ready: VecDeque::new(), buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Waits for the next change. Cancel-safe: an event is handed out or still there.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Err(error) = self.read().await {
                if error.raw_os_error() != Some(libc::ENOBUFS) {
                    tracing::warn!(%error, "link watch cannot read");
                }
                return LinkEvent::Resync;
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let Self { socket, ready, buffer } = self;
        let length = socket.read(buffer).await?;
        for_each_message(&buffer[..length], |_, payload| {
            if let NetlinkPayload::InnerMessage(message) = payload {
                ready.extend(event_of(message));
            }
        });
        Ok(())
    }
}

fn multicast_socket() -> io::Result<PolledFd> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ] {
        socket.add_membership(group as u32)?;
    }
    PolledFd::register(socket.as_fd().try_clone_to_owned()?)
}

fn event_of(message: RouteNetlinkMessage) -> Option<LinkEvent> {
    let unnamed = |ifindex| LinkEvent::Changed { ifindex, name: String::new() };
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            Some(LinkEvent::Changed { ifindex: link.header.index, name: name_of(&link).unwrap_or_default() })
        }
        RouteNetlinkMessage::DelLink(link) => {
            Some(LinkEvent::Removed { ifindex: link.header.index, name: name_of(&link).unwrap_or_default() })
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(unnamed(address.header.index))
        }
        // Only default routes matter to anybody; 0 says that the link is not known.
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if route.header.destination_prefix_length == 0 =>
        {
            Some(unnamed(0))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressMessage;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
    use rtnetlink::packet_route::route::RouteMessage;

    use super::*;

    #[test]
    fn links_addresses_and_default_routes_are_told_and_other_routes_are_not() {
        let mut link = LinkMessage::default();
        link.header.index = 3;
        link.attributes = vec![LinkAttribute::IfName("eth1".to_owned())];
        let named = |name: &str| name.to_owned();
        let changed = LinkEvent::Changed { ifindex: 3, name: named("eth1") };
        assert_eq!(event_of(RouteNetlinkMessage::NewLink(link.clone())), Some(changed));
        let removed = LinkEvent::Removed { ifindex: 3, name: named("eth1") };
        assert_eq!(event_of(RouteNetlinkMessage::DelLink(link)), Some(removed));
        let mut address = AddressMessage::default();
        address.header.index = 4;
        let addressed = LinkEvent::Changed { ifindex: 4, name: String::new() };
        assert_eq!(event_of(RouteNetlinkMessage::DelAddress(address)), Some(addressed));
        let mut route = RouteMessage::default();
        let anywhere = LinkEvent::Changed { ifindex: 0, name: String::new() };
        assert_eq!(event_of(RouteNetlinkMessage::NewRoute(route.clone())), Some(anywhere));
        route.header.destination_prefix_length = 24;
        assert_eq!(event_of(RouteNetlinkMessage::NewRoute(route)), None);
    }
}
