//! What can go wrong with taps.

use std::io;
use std::path::PathBuf;

use crate::budget::BudgetError;

/// Why a tap, or all of them, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The folder for pins is not on a BPF file system.
    #[error("{} is not on a BPF file system: mount one there (mount -t bpf bpf …), or give the agent the node's", path.display())]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// The kernel lacks what the programs and their reader call.
    #[error("taps need a kernel of 5.13 or newer")]
    TooOld,
    /// A folder or pin could not be made, read or removed.
    #[error("cannot {what} {}", path.display())]
    Pin {
        /// What was tried: a verb.
        what: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused programs or maps.
    #[error("the kernel does not take the tap programs")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel refused one program.
    #[error("the kernel does not take the tap program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel refused to show or change an interface's filters.
    #[error("cannot {what} of interface {ifindex}")]
    Filters {
        /// What was tried: a verb and its object.
        what: &'static str,
        /// The interface's index in the namespace of the calling thread.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
    /// An interface has the queueing discipline that Open vSwitch polices with, which leaves no room for clsact.
    #[error(
        "the interface {interface} has an ingress qdisc, beside which this kernel takes no tap: it is what Open vSwitch \
         makes for ingress_policing_rate, so take that off the interface"
    )]
    Policed {
        /// The interface.
        interface: String,
    },
    /// Somebody else has filters where ours belongs.
    #[error("the interface {interface} has another's filter at priority {priority}, where the tap's belongs")]
    Occupied {
        /// The interface.
        interface: String,
        /// The priority.
        priority: u16,
    },
    /// A map is not as it should be.
    #[error("the map {map} cannot be used")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// A system call on a map failed.
    #[error("cannot {what} the map {map}")]
    Call {
        /// What was tried: a verb.
        what: &'static str,
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Every slot is taken.
    #[error("all {taps} taps are in use: raise flows.maxTaps")]
    NoSlot {
        /// How many there are.
        taps: u16,
    },
    /// The budget holds no flow.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}
