//! The OpenFlow 1.3 client: flows of one bridge through its `<bridge>.mgmt` socket.
//!
//! Version 1.3 (wire 0x04) alone is spoken. An OVS bridge answers on `.mgmt` exactly the versions of its `protocols`
//! column (1.0 to 1.5 where that is empty), on OVS 2.17 to 3.5; 1.3 is in every default, its flow-mod and statistics
//! have everything an allow-list needs, and OVS takes bundles on it as the ONF extension EXT-230 (tried on 3.1.0).
//! 1.4 would bring the same bundles and a flow-monitor, but not be there on a bridge that somebody made with
//! `protocols=OpenFlow13`. The socket needs no `set-controller`: it is a service connection, so that `fail_mode`
//! and an operator's own controller are untouched.

mod client;
mod error;
mod flow;
mod matching;
mod session;
mod task;
mod wire;

pub use client::{Connection, OpenFlow, OpenFlowOptions};
pub use error::{FlowError, SwitchError};
pub use flow::{Action, AllowFlow, FlowCommand, FlowFilter, FlowMod, FlowStats};
pub use matching::{Match, Oxm, VlanMatch};
pub use wire::{HEADER_LEN, Header, MessageBuffer, WireError};
