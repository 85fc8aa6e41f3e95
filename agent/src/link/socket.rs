//! A small blocking rtnetlink client.
//!
//! Owns one netlink socket, sequence numbers and acknowledgements. The kernel answers rtnetlink requests within the
//! `send` call, so nothing here waits for anything but the kernel's own lock; several requests travel in one buffer
//! and are carried out in order. Knows no meaning of any message.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Room for one datagram of a dump; the kernel fills at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// How often an interrupted dump is started again before what there is has to do.
const DUMP_TRIES: usize = 4;

/// One request: the message and its flags besides `NLM_F_REQUEST | NLM_F_ACK`.
#[derive(Clone, Debug)]
pub(super) struct RouteRequest {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
}

/// A route netlink socket of the namespace in which it was opened.
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl RouteSocket {
    /// Opens it in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Sends all requests at once and returns each one's outcome. A failed one does not stop the following ones.
    pub(super) fn batch(&mut self, requests: Vec<RouteRequest>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let mut outgoing = Vec::new();
        let mut outcomes: Vec<Option<io::Result<()>>> = Vec::with_capacity(requests.len());
        for request in requests {
            self.append(&mut outgoing, request.message, request.flags | NLM_F_ACK);
            outcomes.push(None);
        }
        if outcomes.is_empty() {
            return Ok(Vec::new());
        }
        self.socket.send(&outgoing, 0)?;
        while outcomes.iter().any(Option::is_none) {
            self.receive(|header, payload| {
                let index = header.sequence_number.wrapping_sub(first) as usize;
                if let (NetlinkPayload::Error(error), Some(slot)) = (payload, outcomes.get_mut(index)) {
                    *slot = Some(if error.code.is_none() { Ok(()) } else { Err(error.to_io()) });
                }
            })?;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Sends one request and waits for its outcome.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.batch(vec![RouteRequest { message, flags }])?.pop().unwrap_or(Ok(()))
    }

    /// Reads one object; `Ok(None)` when the kernel has none (`ENODEV`).
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut outgoing = Vec::new();
        // Without an acknowledgement: the answer is the object or an error.
        let sequence = self.append(&mut outgoing, message, 0);
        self.socket.send(&outgoing, 0)?;
        let mut answer: Option<io::Result<Option<RouteNetlinkMessage>>> = None;
        while answer.is_none() {
            self.receive(|header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                answer = match payload {
                    NetlinkPayload::InnerMessage(message) => Some(Ok(Some(message))),
                    NetlinkPayload::Error(error) if error.raw_code() == -libc::ENODEV => Some(Ok(None)),
                    NetlinkPayload::Error(error) => Some(Err(error.to_io())),
                    _ => None,
                };
            })?;
        }
        answer.unwrap_or(Ok(None))
    }

    /// Reads all objects of a kind; starts again when they changed meanwhile.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (objects, interrupted) = self.dump_once(message.clone())?;
            found = objects;
            if !interrupted {
                break;
            }
        }
        Ok(found)
    }

    fn dump_once(&mut self, message: RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut outgoing = Vec::new();
        let sequence = self.append(&mut outgoing, message, NLM_F_DUMP);
        self.socket.send(&outgoing, 0)?;
        let (mut found, mut interrupted, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            self.receive(|header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => end = Some(Ok(())),
                    NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
                    _ => {}
                }
            })?;
        }
        end.unwrap_or(Ok(())).map(|()| (found, interrupted))
    }

    fn append(&mut self, outgoing: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = outgoing.len();
        outgoing.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut outgoing[start..]);
        self.sequence
    }

    fn receive(
        &mut self,
        take: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        };
        for_each_message(&self.buffer, take);
        Ok(())
    }
}

/// Walks through the messages of one datagram. One that cannot be decoded is left out: kernels add attributes that
/// the decoder may not know, and one odd link must not hide all others.
pub(super) fn for_each_message(
    mut datagram: &[u8],
    mut take: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
) {
    while let Some(length) = datagram.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        if length < 16 || length > datagram.len() {
            return;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(message) => {
                let (header, payload) = message.into_parts();
                take(&header, payload);
            }
            Err(error) => tracing::debug!(%error, "rtnetlink message left out"),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}
