//! The `CNI_*` environment.
//!
//! Owns which variable each command needs (CNI specification 1.1, section 2).

use std::collections::BTreeMap;
use std::ffi::OsStr;

use crate::failure::{PluginFailure, code};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Version,
    Gc,
}

impl Command {
    pub(crate) fn parse(text: &OsStr) -> Result<Self, PluginFailure> {
        Ok(match text.as_encoded_bytes() {
            b"ADD" => Self::Add,
            b"DEL" => Self::Del,
            b"CHECK" => Self::Check,
            b"STATUS" => Self::Status,
            b"VERSION" => Self::Version,
            b"GC" => Self::Gc,
            _ => {
                let msg = format!(
                    "CNI_COMMAND is {:?}; known are ADD, DEL, CHECK, STATUS, VERSION and GC",
                    text.to_string_lossy()
                );
                return Err(PluginFailure::new(code::INVALID_ENVIRONMENT, msg));
            }
        })
    }
}

/// The sandbox that ADD, DEL and CHECK are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
}

impl Sandbox {
    /// Reads and checks it; DEL may come without a namespace, when the runtime has lost it.
    pub(crate) fn from_environment(command: Command) -> Result<Self, PluginFailure> {
        let sandbox = Self {
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
        };
        let netns_needed = command != Command::Del;
        for (name, value, needed) in [
            ("CNI_CONTAINERID", &sandbox.container_id, true),
            ("CNI_NETNS", &sandbox.netns, netns_needed),
            ("CNI_IFNAME", &sandbox.ifname, true),
        ] {
            if needed && value.is_empty() {
                return Err(PluginFailure::new(code::INVALID_ENVIRONMENT, format!("{name} is not set")));
            }
        }
        Ok(sandbox)
    }
}

/// `CNI_ARGS`, split.
pub(crate) fn arguments() -> BTreeMap<String, String> {
    split_arguments(&variable("CNI_ARGS"))
}

fn split_arguments(text: &str) -> BTreeMap<String, String> {
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_specification_is_known_and_others_are_named() {
        for (text, command) in [
            ("ADD", Command::Add),
            ("DEL", Command::Del),
            ("CHECK", Command::Check),
            ("STATUS", Command::Status),
            ("VERSION", Command::Version),
            ("GC", Command::Gc),
        ] {
            assert_eq!(Command::parse(OsStr::new(text)), Ok(command));
        }
        let failure = Command::parse(OsStr::new("add")).expect_err("lower case").0;
        assert_eq!(failure.code, 4);
        assert_eq!(failure.msg, "CNI_COMMAND is \"add\"; known are ADD, DEL, CHECK, STATUS, VERSION and GC");
    }

    #[test]
    fn arguments_are_split_at_semicolons_and_the_first_equals_sign() {
        let args = split_arguments("IgnoreUnknown=1;K8S_POD_NAME=web-0;X=a=b;;broken");
        assert_eq!(args.get("K8S_POD_NAME").map(String::as_str), Some("web-0"));
        assert_eq!(args.get("X").map(String::as_str), Some("a=b"));
        assert_eq!(args.len(), 3);
    }
}
