//! Taps: TC programs that count every frame of an interface by tap and by flow, their lifecycle, and their reader.
//!
//! ```text
//!  frame ─► tap_ingress / tap_egress ─► counters of (slot, direction, parity)
//!             (src/bpf/taps.c)       └► flow map of the epoch's parity ─┐
//!                                                                        ▼
//!            TapSet: maps and links, pinned      Reader: flip, wait, read, clear ─► ClosedEpoch
//! ```
//!
//! Programs hang on interfaces by TCX links, or before kernel 6.6 by filters of clsact ([`Way`]).
//!
//! Two things beside: the rate at which a tap is sampled, and questions to name servers with their answers.
//!
//! A *slot* is what the programs know a tap by; who a slot belongs to is the caller's knowledge. Knows interfaces,
//! namespaces and bpffs. Must never know Kubernetes, pods or bridges, and never enters a namespace by itself.

mod attach;
mod btf;
mod budget;
mod clsact;
mod dns;
mod error;
mod flow;
mod front;
mod layout;
mod object;
mod ran;
mod reader;
mod registry;
mod sampling;
mod set;
mod sys;
mod tc;
pub mod variant;

pub use attach::{Hook, LinkState, TapLinks, Way};
pub use budget::{Budget, BudgetError, Capacity, TABLE_ENTRY};
pub use dns::{DnsAnswer, DnsQueries, DnsQuery};
pub use error::TapError;
pub use flow::{
    ClosedEpoch, Conversation, Counters, Direction, FlowKey, FlowTotals, Slot, Tag, TapTotals, Totals,
};
pub use object::Programs;
pub use ran::Ran;
pub use reader::Reader;
pub use set::{Inherited, Tap, TapSet, remove_all};
pub use sys::possible_processors;
