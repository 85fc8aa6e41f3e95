//! The OVSDB client (RFC 7047): connection, replica, transactions.
//!
//! [`Ovsdb`] is the handle; one task owns the socket. Must never block a caller on another caller's mistake: see
//! [`commit`] for how merged transactions are split.

mod client;
mod commit;
mod error;
mod frame;
mod message;
mod operation;
pub mod ops;
mod replica;
mod rows;
mod schema;
mod session;
mod task;
mod value;

pub use client::{Ovsdb, OvsdbCounters, OvsdbOptions, WaitError};
pub use error::TransactError;
pub use frame::{FrameError, Framer, MAX_DEPTH, MAX_FRAME, MAX_VALUES};
pub use operation::{Condition, Mutation, Mutator, Operation, OperationResult, Row, Table};
pub use replica::Replica;
pub use rows::{Bridge, FailMode, Interface, OpenVSwitch, Port};
pub use value::{Atom, Value, ValueError};
