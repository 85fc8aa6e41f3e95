//! Telling a network who has an address, and asking whether somebody else has it.
//!
//! Owns ARP and neighbour discovery frames as far as announcing and probing need them, and the packet sockets that
//! carry them. Assigns no address; what a conflict means is the caller's business.

mod frame;
mod socket;

pub use frame::{Answer, answer_of, arp_probe, dad_solicitation, gratuitous_arp, unsolicited_advertisement};
pub use socket::{AnnounceError, Announcer, Conflict, ProbeMode};
