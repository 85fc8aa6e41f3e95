//! The conversation of one OpenFlow connection: hello, features, then requests and their confirmations.
//!
//! Owns which message belongs to which caller. Pure: takes messages, answers callers, appends what is to be sent to a
//! buffer. Must never keep anything over a reconnection.

use std::collections::HashMap;
use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::oneshot;

use super::error::{FlowError, ONF, SwitchError};
use super::flow::{FlowFilter, FlowMod, FlowStats, read_stats};
use super::wire::{Cursor, Header, VERSION, WireError, kind, message};

/// Most flows that one listing may hold; a switch that sends more is given up.
const MAX_FLOWS: usize = 1 << 20;
/// `OFPMP_FLOW`.
const MULTIPART_FLOW: u16 = 1;
/// `OFPMPF_REPLY_MORE`.
const REPLY_MORE: u16 = 1;
/// `ONFT_BUNDLE_CONTROL` and `ONFT_BUNDLE_ADD_MESSAGE` (EXT-230).
const BUNDLE_CONTROL: u32 = 2300;
const BUNDLE_ADD: u32 = 2301;
/// Types of bundle control.
const BUNDLE_OPEN: u16 = 0;
const BUNDLE_COMMIT: u16 = 4;
const BUNDLE_DISCARD: u16 = 6;
/// `OFPBF_ATOMIC | OFPBF_ORDERED`.
const BUNDLE_FLAGS: u16 = 0b11;
/// Element type of the version bitmap in a hello.
const HELLO_BITMAP: u16 = 1;

type Reply<T> = oneshot::Sender<Result<T, FlowError>>;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    /// Single changes.
    Apply { changes: Vec<FlowMod>, reply: Reply<()> },
    /// All or none.
    Bundle { changes: Vec<FlowMod>, reply: Reply<()> },
    /// A listing.
    Flows { filter: FlowFilter, reply: Reply<Vec<FlowStats>> },
}

impl Request {
    /// Answers it with an error.
    pub(super) fn fail(self, error: FlowError) {
        match self {
            Self::Apply { reply, .. } | Self::Bundle { reply, .. } => drop(reply.send(Err(error))),
            Self::Flows { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The bytes make no sense.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The bridge does not speak 1.3.
    #[error("the bridge speaks OpenFlow {0}, not 1.3; its protocols must contain OpenFlow13")]
    Version(String),
    /// The switch refused before the conversation began.
    #[error("the switch refused the connection: {0}")]
    Refused(SwitchError),
    /// A listing without end.
    #[error("the switch lists more than {MAX_FLOWS} flows")]
    TooManyFlows,
}

/// What a message led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing that the connection's owner cares for.
    Quiet,
    /// The conversation has begun.
    Ready {
        /// The bridge.
        datapath_id: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Features,
    Ready,
}

/// A request that waits for its confirmation, kept under the transaction id of the message that confirms it.
#[derive(Debug)]
enum Pending {
    /// Single changes of several callers, confirmed by one barrier.
    Batch(Vec<Caller>),
    /// The changes of a bundle, confirmed by a barrier before the commit.
    Filling { id: u32, caller: Caller },
    /// The commit of a bundle.
    Committing { caller: Caller },
    /// A listing.
    Listing { flows: Vec<FlowStats>, reply: Reply<Vec<FlowStats>> },
    /// Nobody waits (discard of a bundle, our own echo).
    Nobody,
}

/// One caller's changes.
#[derive(Debug)]
struct Caller {
    /// Transaction ids of its messages: the first, and one for each change from there on.
    first: u32,
    changes: Vec<FlowMod>,
    /// The first refusal, with the change if it was one change's.
    refusal: Option<(Option<usize>, SwitchError)>,
    reply: Reply<()>,
}

impl Caller {
    /// Which of its changes a message was.
    fn change(&self, xid: u32) -> Option<usize> {
        let index = usize::try_from(xid.wrapping_sub(self.first)).ok()?;
        (index < self.changes.len()).then_some(index)
    }

    fn refuse(&mut self, index: Option<usize>, error: SwitchError) {
        // In a bundle the change's own error comes before the commit's, and says more.
        self.refusal.get_or_insert((index, error));
    }

    fn answer(self) {
        let changes = self.changes.len();
        let result = match self.refusal {
            None => Ok(()),
            Some((None, error)) => Err(FlowError::Bundle { changes, error }),
            Some((Some(index), error)) => {
                Err(FlowError::Refused { flow: self.changes[index].to_string(), error })
            }
        };
        drop(self.reply.send(result));
    }
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Session {
    stage: Stage,
    next_xid: u32,
    pending: HashMap<u32, Pending>,
    /// For every message that is not itself a key of `pending`: the key that it belongs to.
    belongs: HashMap<u32, u32>,
}

impl Session {
    /// Begins: says hello.
    pub(super) fn start(out: &mut BytesMut) -> Self {
        let mut session =
            Self { stage: Stage::Hello, next_xid: 1, pending: HashMap::new(), belongs: HashMap::new() };
        message(out, kind::HELLO, session.xid(), |out| {
            out.put_u16(HELLO_BITMAP);
            out.put_u16(8);
            out.put_u32(1 << VERSION);
        });
        session
    }

    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Requests without their confirmation yet.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Asks whether the switch is alive.
    pub(super) fn probe(&mut self, out: &mut BytesMut) {
        message(out, kind::ECHO_REQUEST, self.xid(), |_| {});
    }

    fn xid(&mut self) -> u32 {
        let xid = self.next_xid;
        self.next_xid = self.next_xid.checked_add(1).unwrap_or(1);
        xid
    }

    /// Sends what callers want; single changes of all of them share one barrier.
    pub(super) fn submit(&mut self, requests: Vec<Request>, out: &mut BytesMut) {
        let mut batch = Vec::new();
        for request in requests {
            match request {
                Request::Apply { changes, reply } => {
                    let first = self.next_xid;
                    for change in &changes {
                        message(out, kind::FLOW_MOD, self.xid(), |out| change.write(out));
                    }
                    batch.push(Caller { first, changes, refusal: None, reply });
                }
                Request::Bundle { changes, reply } => self.bundle(changes, reply, out),
                Request::Flows { filter, reply } => self.list(&filter, reply, out),
            }
        }
        if !batch.is_empty() {
            let barrier = self.barrier(out);
            for caller in &batch {
                self.own(caller, barrier);
            }
            self.pending.insert(barrier, Pending::Batch(batch));
        }
    }

    fn barrier(&mut self, out: &mut BytesMut) -> u32 {
        let xid = self.xid();
        message(out, kind::BARRIER_REQUEST, xid, |_| {});
        xid
    }

    /// Notes that errors for a caller's messages belong to a request.
    fn own(&mut self, caller: &Caller, key: u32) {
        for (offset, _) in (0_u32..).zip(&caller.changes) {
            self.belongs.insert(caller.first.wrapping_add(offset), key);
        }
    }

    /// Opens and fills a bundle; the commit follows when a barrier has shown that nothing was refused.
    fn bundle(&mut self, changes: Vec<FlowMod>, reply: Reply<()>, out: &mut BytesMut) {
        let open = self.xid();
        bundle_control(out, open, open, BUNDLE_OPEN);
        let first = self.next_xid;
        for change in &changes {
            let xid = self.xid();
            message(out, kind::EXPERIMENTER, xid, |out| {
                out.put_u32(ONF);
                out.put_u32(BUNDLE_ADD);
                out.put_u32(open);
                out.put_u16(0);
                out.put_u16(BUNDLE_FLAGS);
                message(out, kind::FLOW_MOD, xid, |out| change.write(out));
            });
        }
        let barrier = self.barrier(out);
        let caller = Caller { first, changes, refusal: None, reply };
        self.own(&caller, barrier);
        self.belongs.insert(open, barrier);
        self.pending.insert(barrier, Pending::Filling { id: open, caller });
    }

    fn list(&mut self, filter: &FlowFilter, reply: Reply<Vec<FlowStats>>, out: &mut BytesMut) {
        let xid = self.xid();
        message(out, kind::MULTIPART_REQUEST, xid, |out| {
            out.put_u16(MULTIPART_FLOW);
            out.put_u16(0);
            out.put_u32(0);
            filter.write(out);
        });
        self.pending.insert(xid, Pending::Listing { flows: Vec::new(), reply });
    }

    /// Takes a message of the switch's.
    pub(super) fn receive(
        &mut self,
        header: Header,
        body: &Bytes,
        out: &mut BytesMut,
    ) -> Result<Event, SessionError> {
        if header.kind == kind::HELLO {
            return self.hello(header.version, body, out).map(|()| Event::Quiet);
        }
        if header.kind == kind::ERROR && !self.is_ready() {
            return Err(SessionError::Refused(SwitchError::read(body)?));
        }
        if header.version != VERSION {
            return Err(WireError::Version(header.version).into());
        }
        match header.kind {
            kind::ECHO_REQUEST => message(out, kind::ECHO_REPLY, header.xid, |out| out.put_slice(body)),
            kind::FEATURES_REPLY if self.stage == Stage::Features => {
                self.stage = Stage::Ready;
                let datapath_id = Cursor::new("a features reply", body).u64()?;
                return Ok(Event::Ready { datapath_id });
            }
            kind::ERROR => self.refused(header.xid, SwitchError::read(body)?),
            kind::BARRIER_REPLY => self.confirmed(header.xid, out),
            kind::EXPERIMENTER => self.controlled(header.xid),
            kind::MULTIPART_REPLY => self.listed(header.xid, body)?,
            // Echo replies count as signs of life only; port status and the like are not asked for.
            _ => {}
        }
        Ok(Event::Quiet)
    }

    fn hello(&mut self, version: u8, body: &[u8], out: &mut BytesMut) -> Result<(), SessionError> {
        let versions = versions(version, body)?;
        if !versions.contains(&VERSION) {
            let names: Vec<_> =
                versions.into_iter().map(|version| format!("1.{}", i16::from(version) - 1)).collect();
            return Err(SessionError::Version(names.join(", ")));
        }
        if self.stage == Stage::Hello {
            self.stage = Stage::Features;
            message(out, kind::FEATURES_REQUEST, self.xid(), |_| {});
        }
        Ok(())
    }

    /// The switch refused a message.
    fn refused(&mut self, xid: u32, error: SwitchError) {
        let key = self.belongs.get(&xid).copied().unwrap_or(xid);
        match self.pending.get_mut(&key) {
            Some(Pending::Batch(callers)) => {
                let owner = callers.iter_mut().find_map(|caller| Some((caller.change(xid)?, caller)));
                if let Some((index, caller)) = owner {
                    caller.refuse(Some(index), error);
                }
            }
            Some(Pending::Filling { caller, .. }) => caller.refuse(caller.change(xid), error),
            Some(Pending::Committing { caller }) => {
                caller.refuse(caller.change(xid), error);
                if xid == key {
                    self.finish(key);
                }
            }
            Some(Pending::Listing { .. }) => {
                if let Some(Pending::Listing { reply, .. }) = self.pending.remove(&key) {
                    drop(reply.send(Err(FlowError::List(error))));
                }
            }
            Some(Pending::Nobody) => drop(self.pending.remove(&key)),
            None => tracing::debug!(xid, %error, "the switch refused a message that nobody waits for"),
        }
    }

    /// A barrier was answered: everything before it is done.
    fn confirmed(&mut self, xid: u32, out: &mut BytesMut) {
        match self.pending.remove(&xid) {
            Some(Pending::Batch(callers)) => {
                for caller in callers {
                    self.disown(&caller);
                    caller.answer();
                }
            }
            Some(Pending::Filling { id, caller }) => self.filled(id, caller, out),
            Some(other) => drop(self.pending.insert(xid, other)),
            None => {}
        }
    }

    /// A bundle is filled: commit it, or throw it away if anything was refused.
    fn filled(&mut self, id: u32, caller: Caller, out: &mut BytesMut) {
        self.belongs.remove(&id);
        let xid = self.xid();
        if caller.refusal.is_some() {
            bundle_control(out, xid, id, BUNDLE_DISCARD);
            self.pending.insert(xid, Pending::Nobody);
            self.disown(&caller);
            caller.answer();
        } else {
            bundle_control(out, xid, id, BUNDLE_COMMIT);
            self.own(&caller, xid);
            self.pending.insert(xid, Pending::Committing { caller });
        }
    }

    /// A bundle control was answered; only the commit's and the discard's answers matter.
    fn controlled(&mut self, xid: u32) {
        if matches!(self.pending.get(&xid), Some(Pending::Committing { .. } | Pending::Nobody)) {
            self.finish(xid);
        }
    }

    fn finish(&mut self, key: u32) {
        if let Some(Pending::Committing { caller }) = self.pending.remove(&key) {
            self.disown(&caller);
            caller.answer();
        }
    }

    fn disown(&mut self, caller: &Caller) {
        for (offset, _) in (0_u32..).zip(&caller.changes) {
            self.belongs.remove(&caller.first.wrapping_add(offset));
        }
    }

    /// A part of a listing.
    fn listed(&mut self, xid: u32, body: &[u8]) -> Result<(), SessionError> {
        let mut cursor = Cursor::new("a multipart reply", body);
        let (part, flags) = (cursor.u16()?, cursor.u16()?);
        cursor.u32()?;
        let Some(Pending::Listing { flows, .. }) = self.pending.get_mut(&xid) else { return Ok(()) };
        if part != MULTIPART_FLOW {
            return Err(
                WireError::Kind { what: "a multipart reply to a listing of flows", found: part }.into()
            );
        }
        while !cursor.is_empty() {
            flows.push(read_stats(&mut cursor)?);
            if flows.len() > MAX_FLOWS {
                return Err(SessionError::TooManyFlows);
            }
        }
        if flags & REPLY_MORE == 0
            && let Some(Pending::Listing { flows, reply }) = self.pending.remove(&xid)
        {
            drop(reply.send(Ok(flows)));
        }
        Ok(())
    }

    /// The connection is gone: nobody's outcome is known.
    pub(super) fn abandon(self, socket: &Path) {
        let lost = || FlowError::OutcomeUnknown { socket: socket.to_path_buf() };
        for pending in self.pending.into_values() {
            match pending {
                Pending::Batch(callers) => {
                    for caller in callers {
                        drop(caller.reply.send(Err(lost())));
                    }
                }
                Pending::Filling { caller, .. } | Pending::Committing { caller } => {
                    drop(caller.reply.send(Err(lost())));
                }
                Pending::Listing { reply, .. } => drop(reply.send(Err(lost()))),
                Pending::Nobody => {}
            }
        }
    }
}

fn bundle_control(out: &mut BytesMut, xid: u32, bundle: u32, what: u16) {
    message(out, kind::EXPERIMENTER, xid, |out| {
        out.put_u32(ONF);
        out.put_u32(BUNDLE_CONTROL);
        out.put_u32(bundle);
        out.put_u16(what);
        out.put_u16(BUNDLE_FLAGS);
    });
}

/// The versions that a hello offers: its bitmap's, or all up to its header's (section 6.3.1).
fn versions(version: u8, body: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut cursor = Cursor::new("a hello", body);
    while cursor.left().len() >= 4 {
        let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?));
        let content = length.checked_sub(4).ok_or(WireError::Length { what: "a hello element", length })?;
        let mut content = cursor.part("a hello element", content)?;
        if kind == HELLO_BITMAP && !content.is_empty() {
            let bitmap = content.u32()?;
            return Ok((0..32).filter(|bit| bitmap & (1 << bit) != 0).collect());
        }
        let padding = super::matching::padding(length).min(cursor.left().len());
        cursor.take(padding)?;
    }
    Ok((1..=version).collect())
}

#[cfg(test)]
mod tests;
