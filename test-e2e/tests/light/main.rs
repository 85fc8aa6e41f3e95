//! The light tier: real control planes, real Open vSwitch, real namespaces; the harness plays kubelet and runtime.
//!
//! One program, so that what all suites share is compiled once. Each module has a cluster of its own, which goes when
//! the next one's begins; run it with `--test-threads=1`.

mod all_mode;
mod antrea;
mod attach;
mod bootstrap;
mod control_plane;
mod crds;
mod datapath;
mod flows;
mod harness;
mod isolation;
mod mesh;
mod operations;
mod outages;
mod restart;
mod tokens;
