//! How the plugin says that it failed.
//!
//! Owns the error object of the CNI specification 1.1, section 5. `msg` ends up, word for word, in the pod's
//! `FailedCreatePodSandBox` Event.

use std::fmt::Display;

use serde_json::json;
use trunkline_agent::protocol::Failure;

/// CNI error codes that the plugin itself gives.
pub(crate) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// The agent's own: it has just started and is to be asked again.
    pub(crate) const AGENT_NOT_READY: u32 = 102;
}

/// A failure to be printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PluginFailure(pub(crate) Failure);

impl PluginFailure {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self(Failure { code, msg: msg.into(), details: String::new() })
    }

    pub(crate) fn with_details(mut self, details: impl Display) -> Self {
        self.0.details = details.to_string();
        self
    }

    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(code::IO, what).with_details(error)
    }

    /// The error object, in the version that the configuration asks for.
    pub(crate) fn to_json(&self, version: &str) -> Vec<u8> {
        let Failure { code, msg, details } = &self.0;
        let mut object = json!({ "cniVersion": version, "code": code, "msg": format!("trunkline: {msg}") });
        if !details.is_empty() {
            object["details"] = details.as_str().into();
        }
        object.to_string().into_bytes()
    }
}
