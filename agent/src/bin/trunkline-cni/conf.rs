//! The plugin's network configuration on standard input.
//!
//! Owns the keys of our entry and where the runtime puts annotations and the previous result. Knows no agent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::failure::{PluginFailure, code};
use crate::json::{self, Malformed};

/// Versions of the specification that a conflist of ours may have.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The capability by which containerd and CRI-O hand over a pod's annotations.
const ANNOTATIONS_CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// The annotation by which a pod asks for secondary networks.
const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// The agent's socket, unless the configuration says otherwise.
const DEFAULT_SOCKET: &str = "/run/trunkline/agent.sock";

/// Seconds that ADD may take: default and bounds.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 5..=180;

/// Namespaces whose pods start without being asked about where the runtime hands over no annotations: the ones that
/// have to run before the agent can.
const DEFAULT_ALLOWED: [&str; 2] = ["kube-system", "trunkline-system"];

/// What the runtime says about the pod's annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Annotations<'a> {
    /// The pod asks for no secondary network.
    AsksNothing,
    /// The pod asks; these are all its annotations.
    Asks(&'a [u8]),
    /// The runtime hands over none (containerd before 1.5).
    Unknown,
}

/// Our entry of the conflist, as the runtime completed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conf<'a> {
    version: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    prev_result: Option<&'a [u8]>,
    runtime_config: Option<&'a [u8]>,
    socket: Option<&'a [u8]>,
    timeout: Option<&'a [u8]>,
    without_annotations: Option<&'a [u8]>,
}

impl<'a> Conf<'a> {
    /// Finds the keys that we know; everything else is other people's.
    pub(crate) fn parse(input: &'a [u8]) -> Result<Self, PluginFailure> {
        Self::find(input).map_err(|Malformed| {
            PluginFailure::new(
                code::DECODE,
                "the network configuration on standard input is not a JSON object",
            )
        })
    }

    fn find(input: &'a [u8]) -> Result<Self, Malformed> {
        let mut conf = Self::default();
        for member in json::members(input)? {
            let (key, value) = member?;
            let slot = if json::key_is(key, "cniVersion") {
                &mut conf.version
            } else if json::key_is(key, "name") {
                &mut conf.name
            } else if json::key_is(key, "prevResult") {
                &mut conf.prev_result
            } else if json::key_is(key, "runtimeConfig") {
                &mut conf.runtime_config
            } else if json::key_is(key, "socket") {
                &mut conf.socket
            } else if json::key_is(key, "timeoutSeconds") {
                &mut conf.timeout
            } else if json::key_is(key, "podsWithoutAnnotations") {
                &mut conf.without_annotations
            } else {
                continue;
            };
            *slot = Some(value).filter(|value| *value != b"null");
        }
        Ok(conf)
    }

    /// The conflist's version, refused when we do not speak it.
    pub(crate) fn version(&self) -> Result<Cow<'a, str>, PluginFailure> {
        let version = self.version.and_then(json::text).unwrap_or(Cow::Borrowed("0.1.0"));
        if VERSIONS.contains(&&*version) {
            return Ok(version);
        }
        let msg = format!("cniVersion {version} is not supported; known are {}", VERSIONS.join(", "));
        Err(PluginFailure::new(code::INCOMPATIBLE_VERSION, msg))
    }

    /// The conflist's name: what the primary network is called.
    pub(crate) fn name(&self) -> Cow<'a, str> {
        self.name.and_then(json::text).unwrap_or_default()
    }

    /// The previous plugin's result, byte by byte.
    pub(crate) fn prev_result(&self) -> Option<&'a [u8]> {
        self.prev_result
    }

    /// What is known of the pod's annotations.
    pub(crate) fn annotations(&self) -> Result<Annotations<'a>, PluginFailure> {
        self.find_annotations().map_err(|Malformed| {
            let msg = format!("runtimeConfig[{ANNOTATIONS_CAPABILITY:?}] is not an object of strings");
            PluginFailure::new(code::DECODE, msg)
        })
    }

    fn find_annotations(&self) -> Result<Annotations<'a>, Malformed> {
        let Some(runtime_config) = self.runtime_config else { return Ok(Annotations::Unknown) };
        for member in json::members(runtime_config)? {
            let (key, value) = member?;
            if !json::key_is(key, ANNOTATIONS_CAPABILITY) {
                continue;
            }
            // `null` is how a Go runtime writes that the pod has no annotation at all.
            if value == b"null" {
                return Ok(Annotations::AsksNothing);
            }
            let networks = json::member(value, NETWORKS_ANNOTATION)?;
            let asks = match networks {
                None => false,
                Some(networks) => !asks_nothing(&json::text(networks).ok_or(Malformed)?),
            };
            return Ok(if asks { Annotations::Asks(value) } else { Annotations::AsksNothing });
        }
        Ok(Annotations::Unknown)
    }

    /// Path of the agent's socket.
    pub(crate) fn socket(&self) -> Result<Cow<'a, str>, PluginFailure> {
        match self.socket {
            None => Ok(Cow::Borrowed(DEFAULT_SOCKET)),
            Some(value) => json::text(value).filter(|path| path.starts_with('/')).ok_or_else(|| {
                PluginFailure::new(code::INVALID_CONFIG, "socket must be an absolute path, as a string")
            }),
        }
    }

    /// How long ADD may take.
    pub(crate) fn timeout(&self) -> Result<Duration, PluginFailure> {
        let Some(value) = self.timeout else { return Ok(DEFAULT_TIMEOUT) };
        let seconds: Option<u64> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match seconds.filter(|seconds| TIMEOUT_SECONDS.contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            None => Err(PluginFailure::new(
                code::INVALID_CONFIG,
                format!("timeoutSeconds is {}; it must be 5 to 180", String::from_utf8_lossy(value)),
            )),
        }
    }

    /// Whether a pod of this namespace starts unasked where the runtime hands over no annotations.
    pub(crate) fn allows_without_annotations(&self, namespace: &str) -> Result<bool, PluginFailure> {
        let Some(value) = self.without_annotations else { return Ok(DEFAULT_ALLOWED.contains(&namespace)) };
        let invalid = || {
            let msg = "podsWithoutAnnotations must be {\"allowNamespaces\": [<namespace>, …]}";
            PluginFailure::new(code::INVALID_CONFIG, msg)
        };
        let mut setting: BTreeMap<String, Value> = serde_json::from_slice(value).map_err(|_| invalid())?;
        match setting.remove("allowNamespaces") {
            None => Ok(DEFAULT_ALLOWED.contains(&namespace)),
            Some(Value::Array(names)) => Ok(names.iter().any(|name| name == namespace || name == "*")),
            Some(_) => Err(invalid()),
        }
    }
}

/// The version to answer in when something is wrong with the rest.
pub(crate) fn version_of(input: &[u8]) -> &'static str {
    let asked = json::member(input, "cniVersion").ok().flatten().and_then(json::text);
    let known = asked.and_then(|asked| VERSIONS.into_iter().find(|version| *version == asked));
    known.unwrap_or("1.1.0")
}

fn asks_nothing(networks: &str) -> bool {
    let networks = networks.trim();
    let inside = networks.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    networks.is_empty() || inside.is_some_and(|inside| inside.trim().is_empty())
}

#[cfg(test)]
mod tests;
