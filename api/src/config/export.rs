//! `flows.export`: where flow records go.
//!
//! Owns the keys, their defaults and bounds. Must never open a socket or a file, nor resolve a name.

mod only;
mod otlp;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use only::{AddressRange, AnyOf, InvalidOnly, NetworkName, NetworkVlan, Only, Port, RecordKind};
pub use otlp::{Headers, InvalidOtlp, OtlpConfig, OtlpEndpoint};

/// The enterprise number that RFC 5612 sets aside for examples.
pub const EXAMPLE_ENTERPRISE: u32 = 32_473;

/// All exporters. Empty: records go nowhere but to this node's own table and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ExportConfig {
    /// IPFIX collectors; every one gets every record that its `only` admits.
    pub ipfix: Vec<IpfixConfig>,
    /// OpenTelemetry collectors; every one gets every record that its `only` admits.
    pub otlp: Vec<OtlpConfig>,
    /// Raw records as JSON lines.
    pub json: Option<JsonConfig>,
}

/// One IPFIX collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IpfixConfig {
    /// `host:port`, `address:port` or `[v6 address]:port`.
    pub collector: HostPort,
    /// Default UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// How often templates are sent again over UDP, 1–60 s. Default 60 s.
    #[serde(default)]
    pub template_refresh: TemplateRefresh,
    /// The private enterprise number of Trunkline's own elements. Default [`EXAMPLE_ENTERPRISE`].
    #[serde(default = "example_enterprise")]
    pub enterprise_number: u32,
    /// Longest message, 512–65,507 bytes. Default 1400.
    #[serde(default)]
    pub max_message_bytes: MessageBytes,
    /// Which records it gets. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// One message a datagram; what is lost is lost.
    #[default]
    Udp,
    /// One connection at a time, made again when it ends.
    Tcp,
}

/// Where JSON lines go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JsonConfig {
    /// A file, or `-` for standard output.
    pub path: PathBuf,
    /// The file is rotated before it gets longer than this; not on standard output. Default 100 MiB.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
    /// How many full files are kept beside it, 0–1000: `<path>.1` is the youngest. Default 5.
    #[serde(default = "default_keep")]
    pub keep: u16,
    /// Which records are written. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort(String);

/// 1–60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateRefresh(Duration);

/// 512–65,507 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MessageBytes(u16);

/// A value of `flows.export` that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExport {
    /// No port, or no host.
    #[error("{0:?} is no host and port; write host:port, or [address]:port for IPv6")]
    HostPort(String),
    /// Not a duration, or out of bounds.
    #[error("{0:?} is not a time from 1s to 60s")]
    Duration(String),
    /// Out of bounds.
    #[error("{0} is no length of messages; use 512 to 65507 bytes")]
    MessageBytes(u32),
}

impl HostPort {
    /// As written; what resolvers take.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidExport;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
            let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(is_v6);
            let plain = !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']);
            (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+')
        });
        if fits { Ok(Self(text)) } else { Err(InvalidExport::HostPort(text)) }
    }
}

fn is_v6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

impl From<HostPort> for String {
    fn from(host_port: HostPort) -> Self {
        host_port.0
    }
}

impl TemplateRefresh {
    /// As a duration.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for TemplateRefresh {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

impl TryFrom<String> for TemplateRefresh {
    type Error = InvalidExport;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        up_to_a_minute(text).map(Self)
    }
}

impl From<TemplateRefresh> for String {
    fn from(refresh: TemplateRefresh) -> Self {
        format!("{}s", refresh.0.as_secs())
    }
}

fn up_to_a_minute(text: String) -> Result<Duration, InvalidExport> {
    let seconds = match text.as_bytes() {
        b"1m" => Some(60),
        _ => text.strip_suffix('s').filter(|digits| !digits.starts_with('+')).and_then(|d| d.parse().ok()),
    };
    let fits = seconds.filter(|seconds| (1..=60).contains(seconds));
    fits.map(Duration::from_secs).ok_or(InvalidExport::Duration(text))
}

impl MessageBytes {
    /// As a number.
    pub fn get(self) -> usize {
        self.0.into()
    }
}

impl Default for MessageBytes {
    /// Leaves room for the headers of a tunnel in 1500 bytes.
    fn default() -> Self {
        Self(1400)
    }
}

impl TryFrom<u32> for MessageBytes {
    type Error = InvalidExport;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        let fits = (512..=65_507).contains(&bytes).then(|| u16::try_from(bytes).ok()).flatten();
        fits.map(Self).ok_or(InvalidExport::MessageBytes(bytes))
    }
}

impl From<MessageBytes> for u32 {
    fn from(bytes: MessageBytes) -> Self {
        bytes.0.into()
    }
}

fn example_enterprise() -> u32 {
    EXAMPLE_ENTERPRISE
}

fn default_max_bytes() -> u64 {
    100 << 20
}

fn default_keep() -> u16 {
    5
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config: ExportConfig = serde_json::from_value(json!({
            "ipfix": [{"collector": "flows.example.test:4739"}],
            "json": {"path": "-"},
        }))
        .unwrap();
        let ipfix = &config.ipfix[0];
        assert_eq!(
            (ipfix.protocol, ipfix.template_refresh.get().as_secs(), ipfix.enterprise_number),
            (Protocol::Udp, 60, EXAMPLE_ENTERPRISE)
        );
        assert_eq!(ipfix.max_message_bytes.get(), 1400);
        let json = config.json.unwrap();
        assert_eq!((json.max_bytes, json.keep), (100 << 20, 5));
    }

    #[test]
    fn bad_values_are_refused_with_what_is_right() {
        let refused = |key: &str, value: serde_json::Value| {
            let mut ipfix = json!({"collector": "192.0.2.1:4739"});
            ipfix[key] = value;
            serde_json::from_value::<IpfixConfig>(ipfix).unwrap_err().to_string()
        };
        for collector in
            ["192.0.2.1", ":4739", "192.0.2.1:0", "2001:db8::1:4739", "[host]:1", "a:+1", "a:70000"]
        {
            assert!(refused("collector", collector.into()).contains("host:port"), "{collector}");
        }
        for refresh in ["61s", "0s", "60", "1h", "+5s", ""] {
            assert!(refused("templateRefresh", refresh.into()).contains("1s to 60s"), "{refresh}");
        }
        for bytes in [511, 65_508] {
            assert!(refused("maxMessageBytes", bytes.into()).contains("512 to 65507"), "{bytes}");
        }
        assert!(refused("templateTimeout", "60s".into()).contains("unknown field"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = json!({
            "ipfix": [{
                "collector": "[2001:db8::1]:4739", "protocol": "tcp", "templateRefresh": "30s",
                "enterpriseNumber": 1, "maxMessageBytes": 9000, "only": {"vlans": [0, 100]},
            }],
            "otlp": [{"endpoint": "http://192.0.2.1:4317", "timeoutSeconds": 10, "only": {"ports": [443]}}],
            "json": {"path": "/var/log/flows", "maxBytes": 1000, "keep": 2, "only": {"protocols": ["tcp"]}},
        });
        let config: ExportConfig = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(config).unwrap(), text);
    }
}
