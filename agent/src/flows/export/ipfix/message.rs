//! IPFIX messages (RFC 7011, 3): many records in each, templates before the first record that needs them.
//!
//! Pure: records and times in, bytes out; no socket, no clock. A template goes out before its first use in every
//! refresh period, so that a collector that starts later, or loses a datagram, understands records again within one
//! period, and templates that nobody needs cost nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use super::element::Source;
use super::template::{self, Shape, TYPES_TEMPLATE};
use crate::flows::record::Record;

const VERSION: u16 = 10;
const MESSAGE_HEADER: usize = 16;
const SET_HEADER: usize = 4;
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Longest text that is sent whole: `<namespace>/<name>` of Kubernetes' longest names is 317.
const LONGEST: usize = 320;
/// What texts are cut to where a record does not fit into a message otherwise.
const SHORTER: [usize; 3] = [128, 48, 20];

/// Shortest message that has room for any record cut to [`SHORTER`], and for any template.
pub(super) const SMALLEST_MESSAGE: usize = 512;
/// Longest payload of a UDP datagram over IPv4.
pub(super) const LARGEST_MESSAGE: usize = 65_507;

/// What an exporting process says in all its messages.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) domain: u32,
    pub(super) enterprise: u32,
    pub(super) node: String,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// How many records of flows and questions are in it.
    pub(super) records: usize,
    /// Whether it defines templates; it holds none of those then.
    pub(super) defines: bool,
}

/// One transport session's state.
#[derive(Debug)]
pub(super) struct Encoder {
    identity: Identity,
    max_bytes: usize,
    /// `None` where the transport loses nothing.
    refresh: Option<Duration>,
    refreshed: Option<Instant>,
    types_announced: bool,
    announced: BTreeSet<Shape>,
    /// Data records sent before the open message, options records included (RFC 7011, 3.1).
    sequence: u32,
    open: Open,
}

/// The message that is being filled.
#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    /// Number and place of the last set.
    set: Option<(u16, usize)>,
    records: usize,
    data_records: u32,
}

impl Encoder {
    /// A new session's encoder. `max_bytes` is clamped to what fits a record and a datagram.
    pub(super) fn new(identity: Identity, max_bytes: usize, refresh: Option<Duration>) -> Self {
        Self {
            identity,
            max_bytes: max_bytes.clamp(SMALLEST_MESSAGE, LARGEST_MESSAGE),
            refresh,
            refreshed: None,
            types_announced: false,
            announced: BTreeSet::new(),
            sequence: 0,
            open: Open::default(),
        }
    }

    /// Sends templates again before the next records: the collector may have lost them.
    pub(super) fn announce_again(&mut self) {
        self.types_announced = false;
        self.announced.clear();
    }

    /// A new transport session: templates again, sequence from 0.
    pub(super) fn restart(&mut self) {
        self.announce_again();
        self.sequence = 0;
    }

    /// The messages that carry these records.
    pub(super) fn encode<'a>(
        &mut self,
        now: Instant,
        time: SystemTime,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Vec<Message> {
        if let Some(refresh) = self.refresh
            && self.refreshed.is_none_or(|last| now.saturating_duration_since(last) >= refresh)
        {
            self.announce_again();
            self.refreshed = Some(now);
        }
        let mut messages = Vec::new();
        let records: Vec<_> = records.into_iter().map(|record| (Shape::of(record), record)).collect();
        self.define(&records, time, &mut messages);
        for (shape, record) in records {
            let body = self.body(shape, record);
            self.append(shape.template(), &body, time, &mut messages);
            self.open.records += 1;
            self.open.data_records += 1;
        }
        self.close(time, &mut messages);
        messages
    }

    /// Templates that these records need and that were not announced, in messages of their own (RFC 7011, 8: in
    /// advance of the data).
    fn define(&mut self, records: &[(Shape, &Record)], time: SystemTime, messages: &mut Vec<Message>) {
        if records.is_empty() {
            return;
        }
        self.announce_types(time, messages);
        for (shape, _) in records {
            if self.announced.insert(*shape) {
                let definition = shape.define(self.identity.enterprise);
                self.append(TEMPLATE_SET, &definition, time, messages);
            }
        }
        self.close(time, messages);
        for message in messages {
            message.defines = true;
        }
    }

    fn announce_types(&mut self, time: SystemTime, messages: &mut Vec<Message>) {
        if std::mem::replace(&mut self.types_announced, true) {
            return;
        }
        self.append(OPTIONS_TEMPLATE_SET, &template::define_types(), time, messages);
        for record in template::types(self.identity.enterprise) {
            self.append(TYPES_TEMPLATE, &record, time, messages);
            self.open.data_records += 1;
        }
    }

    /// The record, its texts cut as far as it takes to fit into an empty message.
    fn body(&self, shape: Shape, record: &Record) -> Vec<u8> {
        let source = Source { record, node: &self.identity.node };
        let room = self.max_bytes - MESSAGE_HEADER - SET_HEADER;
        let mut body = shape.encode(&source, LONGEST);
        for longest in SHORTER {
            if body.len() <= room {
                break;
            }
            body = shape.encode(&source, longest);
        }
        body
    }

    /// Appends a record to the open set if it is of its kind, else to a new one; to a new message where it is full.
    fn append(&mut self, set: u16, record: &[u8], time: SystemTime, messages: &mut Vec<Message>) {
        if self.open.grown_by(set, record) > self.max_bytes {
            self.close(time, messages);
        }
        self.open.append(set, record);
    }

    fn close(&mut self, time: SystemTime, messages: &mut Vec<Message>) {
        let open = std::mem::take(&mut self.open);
        if open.bytes.is_empty() {
            return;
        }
        let (records, data_records) = (open.records, open.data_records);
        messages.push(Message {
            bytes: open.finish(time, self.sequence, self.identity.domain),
            records,
            defines: false,
        });
        self.sequence = self.sequence.wrapping_add(data_records);
    }
}

impl Open {
    fn grown_by(&self, set: u16, record: &[u8]) -> usize {
        let header = if self.bytes.is_empty() { MESSAGE_HEADER } else { 0 };
        let set_header = if self.set.is_some_and(|(open, _)| open == set) { 0 } else { SET_HEADER };
        self.bytes.len() + header + set_header + record.len()
    }

    fn append(&mut self, set: u16, record: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(MESSAGE_HEADER, 0);
        }
        if self.set.is_none_or(|(open, _)| open != set) {
            self.end_set();
            self.set = Some((set, self.bytes.len()));
            self.bytes.extend(set.to_be_bytes());
            self.bytes.extend([0; 2]);
        }
        self.bytes.extend(record);
    }

    /// Writes the open set's length. Sets are not padded (RFC 7011, 3.3.1 leaves it open).
    fn end_set(&mut self) {
        if let Some((_, start)) = self.set.take() {
            let length = length(self.bytes.len() - start);
            self.bytes[start + 2..start + 4].copy_from_slice(&length);
        }
    }

    fn finish(mut self, time: SystemTime, sequence: u32, domain: u32) -> Vec<u8> {
        self.end_set();
        // Wraps in 2106, as the format does.
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() & 0xffff_ffff;
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let length = length(self.bytes.len());
        self.bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&length);
        self.bytes[4..8].copy_from_slice(&seconds.to_be_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        self.bytes[12..16].copy_from_slice(&domain.to_be_bytes());
        self.bytes
    }
}

/// No message is longer than [`LARGEST_MESSAGE`].
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}
