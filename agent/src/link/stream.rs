//! The links of one namespace: all of them first, then every change, in the kernel's order.
//!
//! Owns one rtnetlink socket that both subscribes and lists, so that a list and the changes around it cannot be taken
//! for another's order. Lost messages make a new list. Bridges tell of their ports by messages of their own family,
//! which are about membership and not about links: they are left out.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::inspect::{kind_of, name_of};
use super::socket::for_each_message;
use super::types::MacOctets;
use crate::netns::PolledFd;

/// Room for one datagram; the kernel fills at most 32 KiB of a list.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// How often a list that changed while it was told is asked for again before it has to do.
const LIST_TRIES: u8 = 4;

/// What a link's frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkForm {
    /// An Ethernet header.
    Ethernet,
    /// The network layer's header: `WireGuard`, tun, IP tunnels, PPP.
    Network,
    /// Something that is neither.
    Unknown,
}

/// A link as its namespace shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSeen {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `IFLA_INFO_KIND`; `loopback` for a loopback and `physical` for any other that has none.
    pub kind: String,
    /// What its frames begin with.
    pub form: LinkForm,
    /// Its address, where that is an Ethernet address.
    pub mac: Option<MacOctets>,
    /// The index of its peer or of what it lies on, where that is in another namespace.
    pub elsewhere: Option<u32>,
}

/// What a namespace tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNews {
    /// A link appeared or changed.
    Seen(LinkSeen),
    /// A link was deleted or left the namespace.
    Gone(u32),
    /// All links that there are: the first news, and again after messages were lost.
    All(Vec<LinkSeen>),
}

/// News of one namespace. Holds the namespace: it cannot end while this lives.
pub struct LinkStream {
    socket: PolledFd,
    sequence: u32,
    /// Links told so far, while a list is being told.
    list: Option<BTreeMap<u32, LinkSeen>>,
    /// A list is wanted.
    due: bool,
    tries: u8,
    ready: VecDeque<LinkNews>,
    buffer: Vec<u8>,
}

impl LinkStream {
    /// Subscribes in the calling thread's namespace; give the result to [`Self::start`].
    pub fn subscribe() -> io::Result<OwnedFd> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(MulticastGroup::Link as u32)?;
        socket.as_fd().try_clone_to_owned()
    }

    /// Begins with a list. Must be called within a runtime.
    pub fn start(subscribed: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: PolledFd::register(subscribed)?,
            sequence: 0,
            list: None,
            due: true,
            tries: 0,
            ready: VecDeque::new(),
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// The next news. After an error the stream is of no use any more.
    pub async fn next(&mut self) -> io::Result<LinkNews> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return Ok(news);
            }
            if self.due && self.list.is_none() {
                self.ask().await?;
            }
            match self.socket.read(&mut self.buffer).await {
                Ok(length) => self.take_in(length)?,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.due = true,
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1); // changes have 0
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(all));
        message.finalize();
        let mut request = vec![0; message.buffer_len()];
        message.serialize(&mut request);
        self.socket.write(&request).await?;
        (self.list, self.due) = (Some(BTreeMap::new()), false);
        self.tries += 1;
        Ok(())
    }

    fn take_in(&mut self, length: usize) -> io::Result<()> {
        let Self { sequence, list, due, tries, ready, buffer, .. } = self;
        let mut refused = None;
        for_each_message(&buffer[..length], |header, payload| {
            let listed = header.sequence_number == *sequence;
            if listed && header.flags & NLM_F_DUMP_INTR != 0 {
                *due = true;
            }
            match payload {
                NetlinkPayload::InnerMessage(message) => match change_of(&message) {
                    Some(LinkNews::Seen(link)) => {
                        let half = !listed && is_half_made(&message);
                        *due |= half;
                        match list {
                            Some(list) => drop(list.insert(link.ifindex, link)),
                            None if half => {}
                            None => ready.push_back(LinkNews::Seen(link)),
                        }
                    }
                    Some(LinkNews::Gone(ifindex)) => {
                        list.as_mut().map(|list| list.remove(&ifindex));
                        ready.push_back(LinkNews::Gone(ifindex));
                    }
                    _ => {}
                },
                NetlinkPayload::Done(_) if listed => {
                    let told = list.take().unwrap_or_default();
                    if !*due || *tries >= LIST_TRIES {
                        *tries = 0;
                        ready.push_back(LinkNews::All(told.into_values().collect()));
                    }
                }
                NetlinkPayload::Error(error) if listed && error.code.is_some() => {
                    refused = Some(error.to_io());
                }
                _ => {}
            }
        });
        refused.map_or(Ok(()), Err)
    }
}

fn change_of(message: &RouteNetlinkMessage) -> Option<LinkNews> {
    match message {
        RouteNetlinkMessage::NewLink(link) if of_links(link) => seen(link).map(LinkNews::Seen),
        RouteNetlinkMessage::DelLink(link) if of_links(link) => Some(LinkNews::Gone(link.header.index)),
        _ => None,
    }
}

/// The first end of a pair is announced before its peer is made, with 0 for it, and not again: only a list tells where
/// its peer is.
fn is_half_made(message: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::NewLink(link) = message else { return false };
    let of_peer = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Link(index) if *index != 0);
    let peered = link.attributes.iter().any(of_peer);
    !peered && kind_of(link).as_deref() == Some("veth")
}

fn of_links(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn seen(link: &LinkMessage) -> Option<LinkSeen> {
    let layer = link.header.link_layer_type;
    let plain = if layer == LinkLayerType::Loopback { "loopback" } else { "physical" };
    let mut seen = LinkSeen {
        ifindex: link.header.index,
        name: name_of(link)?,
        kind: kind_of(link).unwrap_or_else(|| plain.to_owned()),
        form: form_of(layer),
        mac: None,
        elsewhere: None,
    };
    let (mut other, mut foreign) = (None, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => seen.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => other = Some(*index),
            LinkAttribute::LinkNetNsId(_) => foreign = true,
            _ => {}
        }
    }
    seen.elsewhere = other.filter(|_| foreign);
    Some(seen)
}

fn form_of(layer: LinkLayerType) -> LinkForm {
    match layer {
        LinkLayerType::Ether | LinkLayerType::Loopback => LinkForm::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => LinkForm::Network,
        _ => LinkForm::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InfoKind, LinkInfo};

    use super::*;

    fn link(layer: LinkLayerType, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        (message.header.index, message.header.link_layer_type) = (7, layer);
        message.attributes = vec![LinkAttribute::IfName("x0".to_owned())];
        message.attributes.extend(more);
        message
    }

    #[test]
    fn what_a_link_is_comes_from_its_own_words() {
        let of = |layer, more| seen(&link(layer, more)).expect("it has a name");
        let veth = vec![
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
            LinkAttribute::Link(3),
            LinkAttribute::LinkNetNsId(0),
        ];
        let veth = of(LinkLayerType::Ether, veth);
        assert_eq!((veth.kind.as_str(), veth.elsewhere, veth.form), ("veth", Some(3), LinkForm::Ethernet));
        let vlan = of(LinkLayerType::Ether, vec![LinkAttribute::Link(3)]);
        assert_eq!((vlan.kind.as_str(), vlan.elsewhere), ("physical", None), "it lies on a link beside it");
        assert_eq!(of(LinkLayerType::Loopback, vec![]).kind, "loopback");
        assert_eq!(of(LinkLayerType::None, vec![]).form, LinkForm::Network);
        assert_eq!(of(LinkLayerType::Infiniband, vec![]).form, LinkForm::Unknown);
    }

    #[test]
    fn an_end_whose_peer_is_not_made_yet_is_only_half_told() {
        let veth = || LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        let half = |more| is_half_made(&RouteNetlinkMessage::NewLink(link(LinkLayerType::Ether, more)));
        assert!(
            half(vec![veth(), LinkAttribute::Link(0)])
                && half(vec![veth()])
                && !half(vec![veth(), LinkAttribute::Link(3)])
                && !half(vec![])
        );
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_no_link_that_is_gone() {
        let mut port = link(LinkLayerType::Ether, vec![]);
        assert_eq!(change_of(&RouteNetlinkMessage::DelLink(port.clone())), Some(LinkNews::Gone(7)));
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(change_of(&RouteNetlinkMessage::DelLink(port.clone())), None);
        assert_eq!(change_of(&RouteNetlinkMessage::NewLink(port)), None);
    }
}
