//! The versioned protocol between `trunkline-cni` (and `trunkline-agent dump`) and the agent.
//!
//! One JSON object and a newline each way per connection. Owns the wire types only; must never do I/O, and must
//! not pull anything but serde into the plugin.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The protocol version this build speaks. A server answers this one and the one before it.
pub const VERSION: u32 = 1;

/// The part of a request that every version has: read first, since a later version may have changed the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct VersionOnly {
    /// Protocol version of the sender.
    pub version: u32,
}

/// What the plugin asks of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Attach every network that the pod asks for.
    Add,
    /// Undo what `Add` did for this sandbox; succeeds when there is nothing.
    Del,
    /// Verify that the sandbox's interfaces still exist.
    Check,
    /// Print the agent's view of the node.
    Dump,
    /// Print the flows of the node.
    Flows,
    /// Answer, to show that the agent is there.
    Ping,
}

/// One request. Unknown keys are ignored, so that a newer plugin can talk to an older agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Protocol version of the sender.
    pub version: u32,
    /// What to do.
    pub op: Operation,
    /// `CNI_CONTAINERID`: the sandbox.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`: path of the sandbox's network namespace; empty on DEL when the runtime has lost it.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`: the primary interface's name.
    #[serde(default)]
    pub ifname: String,
    /// `name` of the network configuration list: what the primary network is called in network-status.
    #[serde(default)]
    pub network: String,
    /// `CNI_ARGS`, split at `;` and `=`.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// Pod annotations as the runtime handed them over; `None` when it hands over none.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The primary plugin's result, unchanged.
    #[serde(default)]
    pub prev_result: Option<serde_json::Value>,
    /// Milliseconds that the agent has to answer (1–180 000).
    #[serde(default)]
    pub deadline_ms: u64,
    /// Wall-clock start of the plugin's process, milliseconds since the Unix epoch; for `attach_ms`.
    #[serde(default)]
    pub started_unix_ms: u64,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Protocol version of the answer.
    pub version: u32,
    /// Success or failure.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The two ways a request ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It worked; the payload depends on the operation.
    Ok(serde_json::Value),
    /// It did not; in words for the person who reads `kubectl describe pod`.
    Error(Failure),
}

/// A failure as CNI spells it (CNI specification 1.1, section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CNI error code: 4 invalid environment, 7 invalid configuration, 11 try again later, ≥ 100 ours.
    pub code: u32,
    /// One sentence: which object, which field, which value, what would be right.
    pub msg: String,
    /// More, for the node's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}
