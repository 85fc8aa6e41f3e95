//! The real-component harness: a control plane, nodes and pods out of network namespaces and processes on one
//! machine, and the plumbing its suites share.
//!
//! Nothing here mocks `OVS`, the API server or the kernel. Everything made carries the run's prefix and is written
//! down before it is made, so that a run that dies is cleaned up by its guard process or by the next run.
//!
//! `anyhow` is used throughout, unlike in the product's libraries: the only callers are this crate's binaries and
//! tests, which print a failure and stop.

pub mod bench;
pub mod cluster;
pub mod control_plane;
pub mod debs;
pub mod demo;
pub mod fixtures;
pub mod forward;
pub mod guard;
pub mod guest;
pub mod light;
pub mod manifests;
pub mod netns;
pub mod objects;
pub mod paths;
pub mod pki;
pub mod prereq;
pub mod probe;
pub mod process;
pub mod run;
pub mod runtime;
pub mod suite;
pub mod switch;
pub mod taps;
pub mod tools;
pub mod wait;
