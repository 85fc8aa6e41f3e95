//! Traffic control by netlink: the clsact qdisc of an interface, and its filters.
//!
//! Owns messages and their parsing; decides nothing. Every call has a socket of its own, in the network namespace of the
//! calling thread. Answers are parsed no further than needed, so that no filter of another's can make us stumble.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption, TcU32OptionFlags,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_TAG: u16 = 10;

/// `struct tcmsg`.
const HEADER: usize = 20;

/// Every protocol, as filters have it: in network order.
#[expect(clippy::cast_possible_truncation, reason = "it is 3")]
pub(crate) const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// The kind of qdisc that has filters on both sides.
pub(crate) const CLSACT: &str = "clsact";
/// The kind of filter that is a program.
pub(crate) const BPF: &str = "bpf";

/// Which of an interface's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What it receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Side {
    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

/// Where a filter is, among those of one side that are asked for every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    pub(crate) side: Side,
    /// Filters are asked in this order, lowest first. Never 0.
    pub(crate) priority: u16,
    /// Tells filters of one priority apart. Never 0: that would be all of them.
    pub(crate) handle: u32,
}

/// A filter as the kernel shows it. One with the handle 0 stands for a priority that is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    pub(crate) kind: String,
    /// The protocol that it is for, in network order.
    pub(crate) protocol: u16,
    /// The chain that it is in. Frames begin with 0.
    pub(crate) chain: u32,
    /// Of a program's filter: what its maker named it.
    pub(crate) name: String,
    /// Of a program's filter: the program's tag.
    pub(crate) tag: [u8; 8],
}

/// The kind of what an interface has where clsact would be. `None`: nothing.
pub(crate) fn qdisc(ifindex: u32) -> io::Result<Option<String>> {
    let message = TcMessage::from_parts(header(ifindex, TcHandle::CLSACT)?, Vec::new());
    let mut kind = None;
    // The kernel tells a qdisc to its listeners, and to who asks only with an echo.
    let flags = NLM_F_ACK | NLM_F_ECHO;
    let answer = talk(RouteNetlinkMessage::GetQueueDiscipline(message), flags, |payload| {
        each_attribute(payload, |of, value| {
            if of == TCA_KIND {
                kind = Some(text(value));
            }
        })
    });
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        answer => answer.map(|()| kind),
    }
}

/// Gives an interface clsact. Fails with `AlreadyExists` where it has that, or something else in its place.
pub(crate) fn add_clsact(ifindex: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex)?);
    talk(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| Ok(()))
}

/// Takes clsact off an interface, with every filter in it.
pub(crate) fn delete_clsact(ifindex: u32) -> io::Result<()> {
    talk(RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex)?), NLM_F_ACK, |_| Ok(()))
}

fn clsact(ifindex: u32) -> io::Result<TcMessage> {
    let handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    let header = TcHeader { handle, ..header(ifindex, TcHandle::CLSACT)? };
    Ok(TcMessage::from_parts(header, vec![TcAttribute::Kind(CLSACT.to_owned())]))
}

/// Every filter of one side. None where the interface has no clsact, or is gone.
pub(crate) fn filters(ifindex: u32, side: Side) -> io::Result<Vec<Filter>> {
    let message = TcMessage::from_parts(header(ifindex, side.parent())?, Vec::new());
    let mut found = Vec::new();
    talk(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP, |payload| {
        found.push(filter(payload)?);
        Ok(())
    })?;
    Ok(found)
}

/// Adds a filter, which is the program's own verdict. Fails with `AlreadyExists` where there is one in this place.
pub(crate) fn add(place: Place, name: &str, program: BorrowedFd<'_>) -> io::Result<()> {
    put(place, name, program, NLM_F_CREATE | NLM_F_EXCL)
}

/// Exchanges the program and the name of the filter in this place: each frame meets the old one or the new one.
pub(crate) fn replace(place: Place, name: &str, program: BorrowedFd<'_>) -> io::Result<()> {
    put(place, name, program, 0)
}

fn put(place: Place, name: &str, program: BorrowedFd<'_>, flags: u16) -> io::Result<()> {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        // A device must not run it in the kernel's stead.
        TcFilterBpfOption::FlagsGeneric(TcU32OptionFlags::SkipHw),
    ];
    let options = TcAttribute::Options(options.map(TcOption::Bpf).into());
    let mut message = at(place)?;
    message.attributes.push(options);
    talk(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_ACK | flags, |_| Ok(()))
}

/// Takes the filter in this place off.
pub(crate) fn delete(place: Place) -> io::Result<()> {
    talk(RouteNetlinkMessage::DelTrafficFilter(at(place)?), NLM_F_ACK, |_| Ok(()))
}

fn at(place: Place) -> io::Result<TcMessage> {
    let header = TcHeader {
        handle: place.handle.into(),
        info: u32::from(place.priority) << 16 | u32::from(ALL),
        ..header(place.ifindex, place.side.parent())?
    };
    Ok(TcMessage::from_parts(header, vec![TcAttribute::Kind(BPF.to_owned())]))
}

fn header(ifindex: u32, parent: TcHandle) -> io::Result<TcHeader> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    Ok(TcHeader { index, parent, ..TcHeader::default() })
}

/// Asks, and shows what comes back before the acknowledgement or the end: each message without its netlink header.
fn talk(
    message: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_ERROR => return outcome(message.payload()),
                NLMSG_DONE => return Ok(()),
                _ => each(message.payload())?,
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// What an error message says: 0 is an acknowledgement.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn filter(payload: &[u8]) -> io::Result<Filter> {
    let header = TcHeader::parse(payload).map_err(io::Error::other)?;
    let (priority, protocol) = (header.info >> 16, header.info & 0xffff);
    let mut found = Filter {
        priority: u16::try_from(priority).unwrap_or_default(),
        handle: header.handle.into(),
        protocol: u16::try_from(protocol).unwrap_or_default(),
        ..Filter::default()
    };
    each_attribute(payload, |kind, value| match kind {
        TCA_KIND => found.kind = text(value),
        TCA_CHAIN => found.chain = value.first_chunk().copied().map_or(0, u32::from_ne_bytes),
        _ => {}
    })?;
    if found.kind != BPF {
        return Ok(found);
    }
    let mut of_program = |kind, value: &[u8]| match kind {
        TCA_BPF_NAME => found.name = text(value),
        TCA_BPF_TAG => found.tag = value.try_into().unwrap_or_default(),
        _ => {}
    };
    let mut broken = Ok(());
    each_attribute(payload, |kind, value| {
        if kind == TCA_OPTIONS {
            broken = each_in(value, &mut of_program);
        }
    })?;
    broken.map(|()| found)
}

/// Visits the attributes behind a `struct tcmsg`.
fn each_attribute(payload: &[u8], visit: impl FnMut(u16, &[u8])) -> io::Result<()> {
    each_in(payload.get(HEADER..).unwrap_or_default(), visit)
}

fn each_in(attributes: &[u8], mut visit: impl FnMut(u16, &[u8])) -> io::Result<()> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(io::Error::other)?;
        visit(attribute.kind(), attribute.value());
    }
    Ok(())
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter as kernel 6.1 shows it, with a handle of its own.
    fn shown() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 5, 0, 0, 0];
        bytes.extend(0x4000_0001_u32.to_ne_bytes());
        bytes.extend(0xffff_fff3_u32.to_ne_bytes());
        bytes.extend((7_u32 << 16 | u32::from(ALL)).to_ne_bytes());
        bytes.extend([8, 0, 1, 0]);
        bytes.extend(b"bpf\0");
        bytes.extend([8, 0, 11, 0, 0, 0, 0, 0]);
        bytes.extend([28, 0, 2, 0, 9, 0, 7, 0]);
        bytes.extend(b"name\0\0\0\0");
        bytes.extend([12, 0, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes
    }

    #[test]
    fn a_filter_is_read_as_the_kernel_shows_it() {
        let expected = Filter {
            priority: 7,
            handle: 0x4000_0001,
            kind: BPF.to_owned(),
            protocol: ALL,
            chain: 0,
            name: "name".to_owned(),
            tag: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        assert_eq!(filter(&shown()).expect("whole"), expected);
    }

    #[test]
    fn a_filter_of_another_kind_is_read_no_further_than_its_place() {
        let mut bytes = shown();
        bytes[24..28].copy_from_slice(b"u32\0");
        // Nonsense where a program's filter has its attributes.
        bytes[40..44].copy_from_slice(&[0xff; 4]);
        let read = filter(&bytes).expect("read");
        assert_eq!((read.kind.as_str(), read.priority, read.name.as_str()), ("u32", 7, ""));
    }

    #[test]
    fn another_chain_and_another_protocol_are_told() {
        let mut other = shown();
        other[32] = 5;
        other[16..18].copy_from_slice(&8_u16.to_ne_bytes());
        let read = filter(&other).expect("whole");
        assert_eq!((read.chain, read.protocol), (5, 8));
    }

    #[test]
    fn what_is_cut_short_is_an_error_or_less_and_never_a_panic() {
        let whole = shown();
        for length in 0..whole.len() {
            let read = filter(&whole[..length]);
            assert!(read.is_err() || read.is_ok_and(|read| read.tag == [0; 8]), "{length}");
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        assert!(outcome(&[0; 20]).is_ok());
        let refused = outcome(&(-libc::EEXIST).to_ne_bytes()).expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(outcome(&[]).is_err());
    }
}
