//! The node's OVS bridges: from the configuration to bridges, uplinks, pod ports and the flows that let them talk.
//!
//! `plan` and `flows` decide and are pure; `task` owns one bridge each and carries the plan out; [`Bridges`] is the
//! handle that the rest of the agent holds. Must never touch a bridge that is not in the configuration and does not
//! carry `trunkline-managed`, nor a key of `external_ids` that does not start with `trunkline-`.

pub mod cookie;
mod exec;
pub mod flows;
mod handle;
mod kernel;
mod manager;
mod nics;
mod observe;
pub mod plan;
mod ports;
mod shared;
mod state;
mod switch;
mod task;
mod uninstall;

pub use cookie::{host_veth_name, pod_cookie};
pub use handle::FlowCount;
pub use manager::{Bridges, BridgesOptions};
pub use ports::{PodPort, PodPortRow, PortError, PortReady, keys};
pub use state::{BridgeCondition, BridgeState, BridgeStates, DatapathKind, Origin, UplinkState};
pub use uninstall::{UninstallError, UninstallReport, uninstall};
