//! Flows of this node's secondary interfaces: taps as the attachments want them, a table of named flows, exporters.

pub mod export;
pub mod record;
