//! Trunkline's node agent as a library: desired state → plan → steps on one node.
//!
//! The pure parts (`desired`, `bridge::plan`, `conflist::plan`) decide; the rest carries out. Nothing here writes
//! an `IPPool`.

pub mod dump;
pub mod protocol;
