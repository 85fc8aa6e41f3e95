//! The memory rule: how many flows a budget holds.
//!
//! Pure arithmetic over the kernel's own sizes (`kernel/bpf/hashtab.c`, `kernel/bpf/arraymap.c`), so that what is
//! printed at start is what the maps take, and memory does not grow with the processors' number but for counters.

use crate::flow::{FlowKey, FlowTotals};
use crate::layout::{NEAR, RawCounters, RawDnsKey, RawDnsQuestion, RawFront, RawKey, RawValue};

/// `struct htab_elem` before the key: list node, LRU node, hash.
const HASH_ELEMENT: u64 = 48;
/// `struct bucket`.
const BUCKET: u64 = 16;
/// A flow in the agent's table, bytes: key, totals, bookkeeping, a hash, and up to 2.3 places of nine bytes in its index.
pub const TABLE_ENTRY: u64 = 264;
/// A flow as an epoch's reading hands it on.
const READ_ENTRY: u64 = size_of::<(FlowKey, FlowTotals)>() as u64;
/// Handshakes under way that are remembered.
pub(crate) const HANDSHAKES: u32 = 8192;
const HANDSHAKE: u64 = HASH_ELEMENT + 48 + 8 + BUCKET;
/// Questions to name servers that wait for their answer.
pub(crate) const DNS_QUESTIONS: u32 = 2048;
const DNS_QUESTION: u64 =
    HASH_ELEMENT + (size_of::<RawDnsKey>() + size_of::<RawDnsQuestion>()) as u64 + BUCKET;
/// Bytes of answers that wait for the reader; a power of two, and whole pages wherever a page is.
pub(crate) const DNS_ANSWERS: u32 = 128 << 10;
/// Most places of a processor's front table, and the part that all of them may take of what is left beside the rest: 2/5.
const MOST_PLACES: u32 = 32_768;
const FEWEST_PLACES: u32 = 16;
const FRONT_PART: (u64, u64) = (2, 5);
/// Fewer flows than this are of no use to anybody.
const FEWEST_FLOWS: u64 = 1024;

/// What the operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes for maps of both epochs and the reader's table.
    pub bytes: u64,
    /// Most taps at once, 1–16,384.
    pub taps: u16,
    /// Processors that the kernel may ever use.
    pub processors: u32,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Flows that the agent's table holds. An epoch's maps hold as many, also where one processor sees them all.
    pub flows: u32,
    /// Entries of each epoch's map, for flows without a place in front. A flow takes an entry or a place for every
    /// processor that sees it.
    pub entries: u32,
    /// Places of each processor's front table in each epoch: a power of two.
    pub places: u32,
    /// Taps.
    pub taps: u16,
    /// Bytes of all maps, filled or not: they are allocated ahead.
    pub map_bytes: u64,
    /// Bytes that the agent's table, and an epoch that it takes in, may take.
    pub table_bytes: u64,
}

/// The budget is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a memory budget of {} MiB does not hold {FEWEST_FLOWS} flows beside the counters of {taps} taps on {processors} \
     processors: give at least {} MiB, or fewer taps",
    bytes >> 20,
    needed.div_ceil(1 << 20)
)]
pub struct BudgetError {
    bytes: u64,
    taps: u16,
    processors: u32,
    needed: u64,
}

impl Budget {
    /// The most flows that fit.
    pub fn capacity(self) -> Result<Capacity, BudgetError> {
        let room = self.bytes.saturating_sub(self.fixed());
        // Buckets are a power of two, so the answer is found from above.
        let mut flows = room / TABLE_ENTRY;
        while flows > 0 && of_flows(flows, self.entries(flows)) > room {
            flows -= (flows / 256).max(1);
        }
        if flows < FEWEST_FLOWS {
            let flows = of_flows(FEWEST_FLOWS, FEWEST_FLOWS);
            // What the front tables leave of it holds these flows.
            let (part, of) = FRONT_PART;
            let beside = (flows * of).div_ceil(of - part);
            let needed = self.others() + beside.max(flows + self.front(FEWEST_PLACES));
            return Err(BudgetError {
                bytes: self.bytes,
                taps: self.taps,
                processors: self.processors,
                needed,
            });
        }
        Ok(self.of(flows, self.entries(flows)))
    }

    /// A given number of flows and as many entries, whatever the budget says: for tests and measurements.
    #[must_use]
    pub fn with_flows(self, flows: u32) -> Capacity {
        self.of(flows.into(), flows.into())
    }

    fn of(self, flows: u64, entries: u64) -> Capacity {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Capacity {
            flows: narrow(flows),
            entries: narrow(entries),
            places: self.places(),
            taps: self.taps,
            map_bytes: self.others() + self.front_bytes(self.places()) + 2 * flow_map(entries),
            table_bytes: flows * TABLE_ENTRY + entries * READ_ENTRY + self.front_read(self.places()),
        }
    }

    /// Entries that so many flows need, where one processor sees them all: of `n` flows, `p` places take
    /// `p (1 - exp(-n / p))`, which is more than 3/4 of `p` or half of `n`, whichever is less.
    fn entries(self, flows: u64) -> u64 {
        flows - (u64::from(self.places()) * 3 / 4).min(flows / 2)
    }

    /// The most places that their part holds.
    fn places(self) -> u32 {
        let room = self.bytes.saturating_sub(self.others());
        let (part, of) = FRONT_PART;
        let fits = |places: &u32| self.front(*places) * of <= room * part;
        let sizes = std::iter::successors(Some(MOST_PLACES), |places| Some(places / 2));
        sizes.take_while(|places| *places > FEWEST_PLACES).find(fits).unwrap_or(FEWEST_PLACES)
    }

    /// The front tables of both epochs.
    fn front_bytes(self, places: u32) -> u64 {
        2 * u64::from(places) * size_of::<RawFront>() as u64 * u64::from(self.processors)
    }

    /// What one epoch's hand on when they are full.
    fn front_read(self, places: u32) -> u64 {
        u64::from(places) * READ_ENTRY * u64::from(self.processors)
    }

    /// Both of these.
    fn front(self, places: u32) -> u64 {
        self.front_bytes(places) + self.front_read(places)
    }

    /// What does not grow with the flows.
    fn fixed(self) -> u64 {
        self.others() + self.front(self.places())
    }

    /// Counters, the registry of taps, rates of sampling, handshakes, questions to name servers.
    fn others(self) -> u64 {
        let taps = u64::from(self.taps);
        let counters = taps * 4 * (size_of::<RawCounters>() as u64 * u64::from(self.processors) + 8);
        let drained = taps * 4 * size_of::<RawCounters>() as u64;
        let registry = taps * (HASH_ELEMENT + 16 + BUCKET) + u64::from(NEAR) * 8;
        let sampling = taps * 2 * 8;
        let dns = u64::from(DNS_QUESTIONS) * DNS_QUESTION + u64::from(DNS_ANSWERS);
        counters + drained + registry + sampling + dns + u64::from(HANDSHAKES) * HANDSHAKE
    }
}

fn element() -> u64 {
    HASH_ELEMENT + (size_of::<RawKey>() + size_of::<RawValue>()) as u64
}

/// What so many flows take: two maps, the table, and an epoch that is read.
fn of_flows(flows: u64, entries: u64) -> u64 {
    2 * flow_map(entries) + flows * TABLE_ENTRY + entries * READ_ENTRY
}

fn flow_map(flows: u64) -> u64 {
    flows * element() + flows.next_power_of_two() * BUCKET
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Budget = Budget { bytes: 64 << 20, taps: 1024, processors: 2 };

    #[test]
    fn the_default_budget_holds_what_it_says() {
        let capacity = DEFAULT.capacity().expect("64 MiB");
        assert!((65_000..70_000).contains(&capacity.flows), "{capacity:?}");
        assert!(capacity.map_bytes + capacity.table_bytes <= DEFAULT.bytes, "{capacity:?}");
    }

    #[test]
    fn whatever_the_processors_the_budget_is_kept_and_used() {
        for (processors, mib) in
            [(1, 4), (1, 64), (2, 4), (2, 64), (2, 4096), (16, 64), (128, 64), (512, 256)]
        {
            let budget = Budget { processors, bytes: mib << 20, ..DEFAULT };
            let capacity = budget.capacity().expect("enough");
            let all = capacity.map_bytes + capacity.table_bytes;
            assert!(
                (budget.bytes * 4 / 5..=budget.bytes).contains(&all),
                "{processors}, {mib}: {capacity:?}"
            );
        }
    }

    #[test]
    fn all_flows_fit_into_an_epoch_where_one_processor_sees_them() {
        for (processors, mib) in [(1, 4), (1, 64), (2, 8), (2, 64), (2, 4096), (128, 64)] {
            let capacity =
                Budget { processors, bytes: mib << 20, ..DEFAULT }.capacity().expect("large enough");
            let (flows, places) = (f64::from(capacity.flows), f64::from(capacity.places));
            let in_front = places * (1.0 - (-flows / places).exp());
            assert!(f64::from(capacity.entries) + in_front >= flows, "{processors}, {mib}: {capacity:?}");
        }
    }

    #[test]
    fn a_budget_that_is_too_small_says_what_would_do() {
        let error = Budget { bytes: 1 << 20, ..DEFAULT }.capacity().expect_err("too small");
        assert!(error.to_string().contains("give at least 4 MiB"), "{error}");
        let enough = Budget { bytes: 4 << 20, ..DEFAULT }.capacity().expect("what the message said");
        assert!(enough.flows >= 1024, "{enough:?}");
    }
}
