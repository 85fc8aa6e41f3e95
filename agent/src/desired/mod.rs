//! What a pod should have: annotation, NADs, pools and configuration in, attachments out.
//!
//! Owns every rule of the users' contract that can be judged before an address is asked for. Must never do I/O: the
//! caller brings a catalogue of objects and the facts about this node's bridges.

mod attachment;
mod bridges;
mod error;
mod names;
mod rules;
#[cfg(test)]
mod tests;

pub use attachment::{Attachment, Desired, DesiredWarning, NadKey, PodRef, PoolChoice};
pub use bridges::{BridgeFacts, BridgeObstacle};
pub use error::DesiredError;
pub use rules::{Catalogue, Inputs, desired};
