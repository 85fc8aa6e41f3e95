//! Flows of this node's secondary interfaces: taps as the attachments want them, a table of named flows, exporters.
//!
//! ```text
//!  ADD ──────────► Taps (thread "taps")      ─── attach, reconcile, give up
//!  OVSDB's rows ─►   │ who a slot belongs to
//!                    ▼
//!  every 5 s ────► Reader (thread "reader") ─► FlowTable ─► records ─► exporters
//!                                                 │  └────► metrics
//!  every second ─► Reader: questions to DNS ──────┴────────► records, metrics
//!  IPAllocations ─► Names ────────────────────────┴──────► trunkctl flows
//! ```
//!
//! Tasks: one reconciles taps, drains and reads questions (`service`), one per pool in use watches allocations
//! (`allocations`). The two threads exist because the kernel makes whoever attaches or drains wait for a grace period.

/// Where taps are pinned unless the command line says otherwise.
pub const DEFAULT_BPFFS: &str = "/run/trunkline/bpf";

mod allocations;
pub mod export;
mod loss;
mod names;
mod others;
mod owner;
pub mod record;
mod service;
mod table;
mod taps;
mod view;
mod wishes;

pub use loss::Losses;
pub use names::Names;
pub use service::{FlowService, FlowsOptions, StartError};
pub use table::{Closed, DnsSummary, FlowTable, LiveFlow, Timeouts};
pub use view::{DnsRow, FlowRow, FlowsDump, TCP_FLAGS};
pub use wishes::TapWish;
