//! Open vSwitch clients: OVSDB ([RFC 7047](https://www.rfc-editor.org/rfc/rfc7047)) and OpenFlow 1.3, over Unix sockets.
//!
//! Owns both codecs, the local replica of typed rows, group commit, and the connections, which are re-made for ever.
//! Must never know Kubernetes or pods, fork a command, or keep a decision about what a bridge should look like.
//!
//! Tasks: each [`Ovsdb`] and each [`OpenFlow`] handle has exactly one task, which owns the socket and ends when the
//! last clone of the handle is dropped.

pub mod openflow;
pub mod ovsdb;
mod pace;
mod uuid;

pub use openflow::{
    Action, AllowFlow, Connection, FlowCommand, FlowError, FlowFilter, FlowMod, FlowStats, Match, OpenFlow,
    OpenFlowOptions, VlanMatch,
};
pub use ovsdb::ops::{
    BridgeSpec, PortSpec, Target, VlanMode, add_bridge, add_port, del_bridge, del_port, init_root,
    mutate_external_ids, mutate_map, set_bridge_columns, set_columns, set_interface_columns,
    set_port_columns,
};
pub use ovsdb::{
    Atom, Bridge, Condition, FailMode, Interface, Mutation, Mutator, OpenVSwitch, Operation, OperationResult,
    Ovsdb, OvsdbCounters, OvsdbOptions, Port, Replica, Row, Table, TransactError, Value, WaitError,
};
pub use uuid::{ParseUuidError, Uuid};
