//! A pod's veth pair: creating it whole, checking for it, removing it.
//!
//! Owns the order of steps. The node's end is made safe before it goes up: a userspace datapath only copies frames,
//! so the node's own stack sees them too and must not answer. Decides no name, address or MTU.

use std::io;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::message;
use super::socket::{RouteRequest, RouteSocket};
use super::types::{LinkError, LinkStep, MacOctets, Place, PodEndSpec, PodLink, PodPairSpec};
use crate::netns::{EthtoolSocket, Family, NetnsFd, NetnsThread, set_interface_sysctl};

/// Transmit features that a userspace datapath cannot serve: a frame with a checksum still to be filled in would
/// leave the node as it is.
const POD_FEATURES: [&str; 9] = [
    "tx-checksum-ip-generic",
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "tx-checksum-sctp",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-generic-segmentation",
];

/// What a `GETLINK` says about one end.
struct End {
    ifindex: u32,
    peer_ifindex: u32,
    mac: MacOctets,
    mtu: u32,
}

/// Creates a pod's interface with its node's end, or adopts the pair when it is there already as asked for. A link of
/// the host name that is anything else is a leftover and is removed first. The node's end is up when this returns, the
/// pod's is not: [`configure_pod_end`] comes next.
///
/// On an error the pair may be left half made; [`delete_host_link`] removes both ends.
pub async fn create_pod_pair(
    thread: &NetnsThread,
    namespace: &NetnsFd,
    spec: &PodPairSpec,
) -> Result<PodLink, LinkError> {
    let (end, adopted) = host_end(thread, namespace, spec).await?;
    Ok(PodLink { host_ifindex: end.ifindex, host_mac: end.mac, pod_ifindex: end.peer_ifindex, adopted })
}

/// Gives the pod's end of a pair its sysctls, offloads, addresses and routes, and sets it up. Repeating it is harmless.
pub async fn configure_pod_end(
    thread: &NetnsThread,
    namespace: &NetnsFd,
    name: &str,
    link: PodLink,
    spec: PodEndSpec,
) -> Result<(), LinkError> {
    let (own_name, place) = (name.to_owned(), place_of(namespace));
    thread
        .run(namespace, move || configure(&own_name, &spec, &place, link.pod_ifindex))
        .await
        .map_err(|source| LinkError::Namespace { link: name.to_owned(), source })?
}

/// Removes the node's end of a pair, and with it the pod's. `Ok(false)` when there was none.
pub async fn delete_host_link(name: &str) -> Result<bool, LinkError> {
    let link = name.to_owned();
    blocking(name, move || {
        let failed = step_error(&link, &Place::Node, LinkStep::Delete);
        let mut socket = RouteSocket::open().map_err(&failed)?;
        remove(&mut socket, &link).map_err(&failed)
    })
    .await
}

/// Whether the pod has an interface of that name with that Ethernet address.
pub async fn pod_link_exists(
    thread: &NetnsThread,
    namespace: &NetnsFd,
    name: &str,
    mac: MacOctets,
) -> Result<bool, LinkError> {
    Ok(look(thread, namespace, name).await?.is_some_and(|end| end.mac == mac))
}

async fn look(thread: &NetnsThread, namespace: &NetnsFd, name: &str) -> Result<Option<End>, LinkError> {
    let (wanted, place) = (name.to_owned(), place_of(namespace));
    thread
        .run(namespace, move || {
            let failed = step_error(&wanted, &place, LinkStep::Inspect);
            RouteSocket::open().and_then(|mut socket| find(&mut socket, &wanted)).map_err(failed)
        })
        .await
        .map_err(|source| LinkError::Namespace { link: name.to_owned(), source })?
}

/// The node's end, up: made anew, or adopted (`true`).
async fn host_end(
    thread: &NetnsThread,
    namespace: &NetnsFd,
    spec: &PodPairSpec,
) -> Result<(End, bool), LinkError> {
    let make = || {
        let (spec, namespace) = (spec.clone(), namespace.clone());
        async move { blocking(&spec.host_name.clone(), move || make_host_end(&spec, &namespace)).await }
    };
    let host = match make().await? {
        Made::New(end) => return Ok((end, false)),
        Made::Existed(end) => end,
    };
    let in_pod = look(thread, namespace, &spec.pod_name).await?;
    if in_pod.is_some_and(|pod| is_wanted_pair(spec, &host, &pod)) {
        let (name, ifindex) = (spec.host_name.clone(), host.ifindex);
        blocking(&spec.host_name, move || raise_host_end(&mut open(&name)?, &name, ifindex)).await?;
        return Ok((host, true));
    }
    let name = spec.host_name.clone();
    blocking(&spec.host_name, move || {
        remove(&mut open(&name)?, &name).map_err(step_error(&name, &Place::Node, LinkStep::RemoveStale))
    })
    .await?;
    match make().await? {
        Made::New(end) => Ok((end, false)),
        Made::Existed(_) => Err(LinkError::NameTaken { link: spec.host_name.clone(), place: Place::Node }),
    }
}

enum Made {
    New(End),
    Existed(End),
}

fn make_host_end(spec: &PodPairSpec, namespace: &NetnsFd) -> Result<Made, LinkError> {
    let name = &spec.host_name;
    let failed = |step| step_error(name, &Place::Node, step);
    let mut socket = open(name)?;
    if let Some(end) = find(&mut socket, name).map_err(failed(LinkStep::Inspect))? {
        return Ok(Made::Existed(end));
    }
    let request = message::create_pair(spec, namespace.as_raw_fd());
    socket.request(request.message, request.flags).map_err(|source| {
        // The name on the node is free, so it is the pod's that is taken.
        if source.raw_os_error() == Some(libc::EEXIST) {
            return LinkError::NameTaken { link: spec.pod_name.clone(), place: place_of(namespace) };
        }
        failed(LinkStep::Create)(source)
    })?;
    let end = find(&mut socket, name)
        .and_then(|end| end.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV)))
        .map_err(failed(LinkStep::Inspect))?;
    raise_host_end(&mut socket, name, end.ifindex)?;
    Ok(Made::New(end))
}

fn raise_host_end(socket: &mut RouteSocket, name: &str, ifindex: u32) -> Result<(), LinkError> {
    guard_host_end(name)?;
    let up = message::set_up(ifindex, true);
    socket.request(up.message, up.flags).map_err(step_error(name, &Place::Node, LinkStep::Up))
}

fn open(link: &str) -> Result<RouteSocket, LinkError> {
    RouteSocket::open().map_err(step_error(link, &Place::Node, LinkStep::Socket))
}

fn is_wanted_pair(spec: &PodPairSpec, host: &End, pod: &End) -> bool {
    host.peer_ifindex == pod.ifindex
        && pod.peer_ifindex == host.ifindex
        && pod.mac == spec.mac
        && pod.mtu == spec.mtu
        && host.mtu == spec.mtu
}

/// Keeps the node's stack from answering what the pod sends. All of it happens before the link goes up.
fn guard_host_end(name: &str) -> Result<(), LinkError> {
    let set = |family, key: &'static str, value| {
        set_interface_sysctl(family, name, key, value).map_err(step_error(
            name,
            &Place::Node,
            LinkStep::Sysctl(key),
        ))
    };
    if Family::Ipv6.present() {
        set(Family::Ipv6, "disable_ipv6", "1")?;
    }
    set(Family::Ipv4, "rp_filter", "1")?;
    set(Family::Ipv4, "arp_ignore", "1")?;
    set(Family::Ipv4, "arp_announce", "2")
}

/// Runs on the namespace thread.
fn configure(name: &str, spec: &PodEndSpec, place: &Place, ifindex: u32) -> Result<(), LinkError> {
    let set = |family, key: &'static str, value| {
        set_interface_sysctl(family, name, key, value).map_err(step_error(name, place, LinkStep::Sysctl(key)))
    };
    let serves_v6 = spec.addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
    if serves_v6 || Family::Ipv6.present() {
        // Runtimes set it to 1 for the whole namespace.
        set(Family::Ipv6, "disable_ipv6", "0")?;
    }
    if serves_v6 {
        set(Family::Ipv6, "accept_ra", "0")?;
    }
    set(Family::Ipv4, "arp_ignore", "1")?;
    set(Family::Ipv4, "arp_announce", "2")?;
    if spec.disable_offloads {
        let off = POD_FEATURES.map(|feature| (feature, false));
        EthtoolSocket::open(name).and_then(|socket| socket.set_features(name, &off)).map_err(step_error(
            name,
            place,
            LinkStep::Offloads,
        ))?;
    }
    send_configuration(name, spec, place, ifindex)
}

/// Addresses, up and routes in one datagram.
fn send_configuration(name: &str, spec: &PodEndSpec, place: &Place, ifindex: u32) -> Result<(), LinkError> {
    let mut steps: Vec<(LinkStep, String)> = Vec::new();
    let mut requests: Vec<RouteRequest> = Vec::new();
    for address in &spec.addresses {
        steps.push((LinkStep::Address, address.to_string()));
        requests.push(message::add_address(ifindex, *address));
    }
    steps.push((LinkStep::Up, String::new()));
    requests.push(message::set_up(ifindex, false));
    for route in &spec.routes {
        let by = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        steps.push((LinkStep::Route, format!("{}{by}", route.destination)));
        requests.push(message::add_route(ifindex, route));
    }
    let outcomes = RouteSocket::open().and_then(|mut socket| socket.batch(requests)).map_err(step_error(
        name,
        place,
        LinkStep::Socket,
    ))?;
    for ((step, detail), outcome) in steps.into_iter().zip(outcomes) {
        outcome.map_err(|source| LinkError::Step {
            link: name.to_owned(),
            place: place.clone(),
            step,
            detail,
            source,
        })?;
    }
    Ok(())
}

fn find(socket: &mut RouteSocket, name: &str) -> io::Result<Option<End>> {
    match socket.get(message::get_by_name(name))? {
        Some(RouteNetlinkMessage::NewLink(link)) => Ok(Some(end_of(&link))),
        _ => Ok(None),
    }
}

fn remove(socket: &mut RouteSocket, name: &str) -> io::Result<bool> {
    match socket.request(message::delete_by_name(name), 0) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

fn end_of(link: &LinkMessage) -> End {
    let mut end = End { ifindex: link.header.index, peer_ifindex: 0, mac: [0; 6], mtu: 0 };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => end.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => end.mtu = *mtu,
            LinkAttribute::Link(peer) => end.peer_ifindex = *peer,
            _ => {}
        }
    }
    end
}

pub(super) fn place_of(namespace: &NetnsFd) -> Place {
    Place::Namespace(namespace.path().display().to_string())
}

pub(super) fn step_error<'a>(
    link: &'a str,
    place: &'a Place,
    step: LinkStep,
) -> impl Fn(io::Error) -> LinkError + 'a {
    move |source| LinkError::Step {
        link: link.to_owned(),
        place: place.clone(),
        step,
        detail: String::new(),
        source,
    }
}

/// Runs rtnetlink work off the runtime's workers: under load the kernel's lock may keep it for tens of milliseconds.
pub(super) async fn blocking<T, F>(link: &str, work: F) -> Result<T, LinkError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, LinkError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| LinkError::Interrupted { link: link.to_owned() })?
}
