//! Trunkline's node agent as a library: desired state → plan → steps on one node.
//!
//! The pure parts (`desired`, `bridge::plan`, `conflist::plan`) decide; the rest carries out. Nothing here writes
//! an `IPPool`.

pub mod announce;
pub mod attach;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod conflist;
pub mod desired;
pub mod dump;
pub mod dump_client;
pub mod flows;
pub mod gc;
pub mod http;
pub mod ipam_client;
pub mod journal;
pub mod kube;
pub mod link;
pub mod metrics;
pub mod netns;
pub mod netwatch;
pub mod ovs_init;
pub mod protocol;
pub mod run;
pub mod server;
pub mod uninstall;
