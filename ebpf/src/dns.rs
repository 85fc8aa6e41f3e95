//! Questions to name servers, and what became of them.
//!
//! The programs match answers to questions and leave each pair in a ring buffer; what waits for an answer too long is
//! taken out of their map here. Owns the three maps of this; names nobody.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, RingBuf};

use crate::error::TapError;
use crate::flow::{FlowKey, Slot};
use crate::layout::{RawDnsAnswer, RawDnsKey, RawDnsQuestion, RawKey};
use crate::set::map_error;
use crate::sys;

/// A resolver has given up by then (RFC 1035 7.2 leaves it to it; glibc asks twice for five seconds each).
const PATIENCE: Duration = Duration::from_secs(10);

/// One question to a name server and what became of it, as one tap saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsQuery {
    /// The flow of the answer; where none came, that of the question.
    pub key: FlowKey,
    /// Its id (RFC 1035 4.1.1).
    pub id: u16,
    /// When it was answered, or where it was not, when it was asked first: `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// How often it was asked, at least once: a client repeats a question with its id.
    pub asked: u32,
    /// `None`: no answer within ten seconds.
    pub answer: Option<DnsAnswer>,
}

/// What a name server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// RCODE of the header, 0–15 (RFC 1035 4.1.1, RFC 6895 2.3).
    pub code: u8,
    /// From the first time that it was asked.
    pub latency: Duration,
}

/// What came to an end since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsQueries {
    /// In the order of their answers; then those without one.
    pub queries: Vec<DnsQuery>,
    /// Answers for which the buffer had no room.
    pub lost: u64,
}

/// The maps.
pub(crate) struct Dns {
    answers: RingBuf<MapData>,
    /// The same map twice: to walk over, and to take from.
    waiting: MapData,
    questions: HashMap<MapData, RawDnsKey, RawDnsQuestion>,
    lost: MapData,
    lost_before: u64,
}

impl Dns {
    pub(crate) fn open(maps: &Path) -> Result<Self, TapError> {
        let pinned = |name: &'static str| MapData::from_pin(maps.join(name)).map_err(map_error(name));
        let mut dns = Self {
            answers: RingBuf::try_from(Map::RingBuf(pinned("tl_dns")?)).map_err(map_error("tl_dns"))?,
            waiting: pinned("tl_dns_asked")?,
            questions: HashMap::try_from(Map::LruHashMap(pinned("tl_dns_asked")?))
                .map_err(map_error("tl_dns_asked"))?,
            lost: pinned("tl_dns_lost")?,
            lost_before: 0,
        };
        dns.lost_before = dns.lost()?;
        Ok(dns)
    }

    fn lost(&self) -> Result<u64, TapError> {
        let failed = |source| TapError::Call { what: "read", map: "tl_dns_lost", source };
        let each: Vec<u64> = sys::read_part(self.lost.fd().as_fd(), 0, 1).map_err(failed)?;
        Ok(each.iter().sum())
    }

    /// Everything that came to an end.
    pub(crate) fn take(&mut self) -> Result<DnsQueries, TapError> {
        let mut queries = Vec::new();
        while let Some(bytes) = self.answers.next() {
            queries.extend(sys::of_bytes::<RawDnsAnswer>(&bytes).map(|raw| answered(&raw)));
        }
        let now = sys::monotonic();
        let late = |_: &RawDnsKey, question: &RawDnsQuestion| {
            u128::from(now.saturating_sub(question.since)) >= PATIENCE.as_nanos()
        };
        let left = self.remove_where(late)?;
        queries.extend(left.iter().map(|(key, question)| unanswered(key, question)));
        let lost = self.lost()?;
        let lost = lost - std::mem::replace(&mut self.lost_before, lost);
        Ok(DnsQueries { queries, lost })
    }

    /// What waits at a tap that is gone is of no interest to the next that gets its slot.
    pub(crate) fn forget(&mut self, slot: Slot) -> Result<(), TapError> {
        self.remove_where(|key, _| key.tap == slot.0).map(|_| ())
    }

    /// Takes questions out. One whose answer comes in this moment is the programs'.
    fn remove_where(
        &mut self,
        wanted: impl Fn(&RawDnsKey, &RawDnsQuestion) -> bool,
    ) -> Result<Vec<(RawDnsKey, RawDnsQuestion)>, TapError> {
        let mut found = Vec::new();
        sys::for_each(self.waiting.fd().as_fd(), |key: &RawDnsKey, question: &RawDnsQuestion| {
            if wanted(key, question) {
                found.push((*key, *question));
            }
        })
        .map_err(|source| TapError::Call { what: "read", map: "tl_dns_asked", source })?;
        found.retain(|(key, _)| self.questions.remove(key).is_ok());
        Ok(found)
    }
}

fn answered(raw: &RawDnsAnswer) -> DnsQuery {
    DnsQuery {
        key: FlowKey::of(raw.key),
        id: u16::from_be(raw.id),
        at: raw.at,
        asked: raw.asked,
        answer: Some(DnsAnswer {
            code: u8::try_from(raw.code).unwrap_or(u8::MAX),
            latency: Duration::from_nanos(raw.latency),
        }),
    }
}

fn unanswered(key: &RawDnsKey, question: &RawDnsQuestion) -> DnsQuery {
    let flow = RawKey {
        src: key.client,
        dst: key.server,
        sport: key.client_port,
        dport: key.server_port,
        outer: key.outer,
        inner: key.inner,
        tap: key.tap,
        kind: key.kind,
        protocol: key.protocol,
        direction: key.direction,
        ..RawKey::default()
    };
    DnsQuery {
        key: FlowKey::of(flow),
        id: u16::from_be(key.id),
        at: question.since,
        asked: question.asked,
        answer: None,
    }
}
