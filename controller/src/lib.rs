//! Trunkline's controller: gives addresses of `IPPool`s to pods' interfaces, each claimed by an `IPAllocation` object.
//!
//! Owns the IPAM service, pool status, garbage collection and the CA. Must never touch a node.

pub mod antrea;
pub mod args;
pub mod auth;
pub mod ca;
pub mod cache;
pub mod claims;
pub mod config_file;
pub mod election;
pub mod gc;
pub mod guard;
pub mod http;
pub mod keeper;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod objects;
pub mod pods;
pub mod role;
pub mod run;
pub mod server;
pub mod service;
pub mod turns;
pub mod watches;
