//! `flows.export.otlp`: OpenTelemetry collectors that get records.
//!
//! Owns the keys of one collector, their defaults and bounds. Must never print a header's value: it may be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HostPort, Only};

/// OTLP's port for gRPC, where the endpoint names none.
const DEFAULT_PORT: u16 = 4317;
/// How many headers one request may have, and how long the value of one may be, in bytes.
const MOST_HEADERS: usize = 32;
const LONGEST_HEADER: usize = 4096;
/// Names that HTTP/2 and gRPC keep for themselves.
const RESERVED: [&str; 5] = ["connection", "content-type", "host", "te", "user-agent"];

/// One collector, spoken to by gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct OtlpConfig {
    endpoint: OtlpEndpoint,
    headers: Headers,
    ca_file: Option<PathBuf>,
    timeout: Timeout,
    only: Option<Only>,
}

/// The keys as they are written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    endpoint: OtlpEndpoint,
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    timeout_seconds: Timeout,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<Only>,
}

/// `http://host[:port]` or `https://host[:port]`; 4317 is the port where none is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OtlpEndpoint {
    tls: bool,
    address: HostPort,
}

/// Up to 32 headers that every request carries. Values are not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Headers(BTreeMap<String, String>);

/// 1–60 s. Default 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Timeout(Duration);

/// A value of `flows.export.otlp` that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOtlp {
    /// No URL with a host, or more than that.
    #[error("{0:?} is no endpoint; write http://host:port or https://host:port, without a path")]
    Endpoint(String),
    /// TLS without anybody to trust.
    #[error("an https endpoint needs caFile, a PEM file with the authorities to trust")]
    NoAuthorities,
    /// Authorities without TLS.
    #[error("caFile is for https endpoints; this one is http")]
    AuthoritiesWithoutTls,
    /// Not absolute.
    #[error("caFile {0:?} is not an absolute path")]
    RelativePath(PathBuf),
    /// Out of bounds.
    #[error("timeoutSeconds {0} is out of range; use 1 to 60 seconds")]
    Timeout(u64),
    /// What gRPC does not take for a name, or keeps for itself.
    #[error(
        "header {0:?} cannot be sent; use lower-case letters, digits, '-', '_' and '.', and no name of gRPC's own"
    )]
    HeaderName(String),
    /// Not printable ASCII, or too long.
    #[error("the value of header {0:?} cannot be sent; use 1 to 4096 printable ASCII characters")]
    HeaderValue(String),
    /// More headers than 32.
    #[error("{0} headers; a request may have at most 32")]
    TooManyHeaders(usize),
}

impl OtlpConfig {
    /// Where it listens.
    pub fn endpoint(&self) -> &OtlpEndpoint {
        &self.endpoint
    }

    /// What every request carries beside records.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The authorities to trust, in PEM; there for TLS, and only then.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// How long connecting may take, and how long an answer, 1–60 s.
    pub fn timeout(&self) -> Duration {
        self.timeout.0
    }

    /// Which records it gets; all without it.
    pub fn only(&self) -> Option<&Only> {
        self.only.as_ref()
    }
}

impl TryFrom<Written> for OtlpConfig {
    type Error = InvalidOtlp;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { endpoint, headers, ca_file, timeout_seconds: timeout, only } = written;
        match &ca_file {
            None if endpoint.tls => return Err(InvalidOtlp::NoAuthorities),
            Some(_) if !endpoint.tls => return Err(InvalidOtlp::AuthoritiesWithoutTls),
            Some(path) if !path.is_absolute() => return Err(InvalidOtlp::RelativePath(path.clone())),
            _ => {}
        }
        Ok(Self { endpoint, headers, ca_file, timeout, only })
    }
}

impl From<OtlpConfig> for Written {
    fn from(config: OtlpConfig) -> Self {
        let OtlpConfig { endpoint, headers, ca_file, timeout, only } = config;
        Self { endpoint, headers, ca_file, timeout_seconds: timeout, only }
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

impl TryFrom<String> for OtlpEndpoint {
    type Error = InvalidOtlp;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(InvalidOtlp::Endpoint(text)),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let portless = authority.ends_with(']') || !authority.contains(':');
        let whole = if portless { format!("{authority}:{DEFAULT_PORT}") } else { authority.to_owned() };
        // What a host never has, and what would make it a URL of something else.
        let foreign = |c: char| !c.is_ascii_graphic() || "@?#%\\\"<>^`{|}".contains(c);
        let address = (!whole.contains(foreign)).then(|| HostPort::try_from(whole).ok()).flatten();
        address.map(|address| Self { tls, address }).ok_or(InvalidOtlp::Endpoint(text))
    }
}

impl From<OtlpEndpoint> for String {
    fn from(endpoint: OtlpEndpoint) -> Self {
        endpoint.to_string()
    }
}

impl Headers {
    /// Names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl TryFrom<BTreeMap<String, String>> for Headers {
    type Error = InvalidOtlp;

    fn try_from(headers: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        if headers.len() > MOST_HEADERS {
            return Err(InvalidOtlp::TooManyHeaders(headers.len()));
        }
        for (name, value) in &headers {
            let letters = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
            let free =
                !name.starts_with("grpc-") && !name.ends_with("-bin") && !RESERVED.contains(&name.as_str());
            if name.is_empty() || !name.bytes().all(letters) || !free {
                return Err(InvalidOtlp::HeaderName(name.clone()));
            }
            let printable = value.bytes().all(|c| (0x20..0x7f).contains(&c));
            if value.trim().is_empty() || value.len() > LONGEST_HEADER || !printable {
                return Err(InvalidOtlp::HeaderValue(name.clone()));
            }
        }
        Ok(Self(headers))
    }
}

impl From<Headers> for BTreeMap<String, String> {
    fn from(headers: Headers) -> Self {
        headers.0
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl TryFrom<u64> for Timeout {
    type Error = InvalidOtlp;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        let fits = (1..=60).contains(&seconds);
        fits.then(|| Self(Duration::from_secs(seconds))).ok_or(InvalidOtlp::Timeout(seconds))
    }
}

impl From<Timeout> for u64 {
    fn from(timeout: Timeout) -> Self {
        timeout.0.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<OtlpConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config = read(json!({"endpoint": "http://otel.example.test"})).unwrap();
        assert_eq!(config.endpoint().to_string(), "http://otel.example.test:4317");
        assert_eq!((config.timeout(), config.ca_file()), (Duration::from_secs(10), None));
        assert_eq!(config.headers().iter().count(), 0);
    }

    #[test]
    fn endpoints_are_urls_of_a_host_and_nothing_more() {
        for (text, shown) in [
            ("http://h:1", "http://h:1"),
            ("http://h/", "http://h:4317"),
            ("http://[2001:db8::1]", "http://[2001:db8::1]:4317"),
            ("http://[2001:db8::1]:9", "http://[2001:db8::1]:9"),
            ("http://192.0.2.1:4317/", "http://192.0.2.1:4317"),
        ] {
            let config = read(json!({"endpoint": text})).unwrap();
            assert_eq!(config.endpoint().to_string(), shown, "{text}");
        }
        for text in [
            "h:4317",
            "http://",
            "http://:4317",
            "http://h:0",
            "http://h:70000",
            "ftp://h",
            "HTTP://h",
            "http://h/v1/logs",
            "http://u@h",
            "http://h?x",
            "http://h#x",
            "http://2001:db8::1",
            "http://h h",
            "http://h:+1",
            "http:///",
            "",
        ] {
            let refused = read(json!({"endpoint": text})).unwrap_err();
            assert!(refused.contains("is no endpoint; write http://host:port"), "{text}: {refused}");
        }
    }

    #[test]
    fn tls_needs_authorities_and_nothing_else_has_them() {
        let https = |ca_file: Value| read(json!({"endpoint": "https://h", "caFile": ca_file}));
        assert_eq!(https(json!("/ca.pem")).unwrap().ca_file(), Some(Path::new("/ca.pem")));
        assert!(https(Value::Null).unwrap_err().contains("needs caFile"));
        assert!(https(json!("ca.pem")).unwrap_err().contains("not an absolute path"));
        let http = read(json!({"endpoint": "http://h", "caFile": "/ca.pem"}));
        assert!(http.unwrap_err().contains("caFile is for https"));
    }

    #[test]
    fn bad_values_are_refused_with_what_is_right() {
        let refused = |key: &str, value: Value| {
            let mut config = json!({"endpoint": "http://h"});
            config[key] = value;
            read(config).unwrap_err()
        };
        for seconds in [0, 61] {
            assert!(refused("timeoutSeconds", json!(seconds)).contains("1 to 60 seconds"), "{seconds}");
        }
        for name in ["", "X-Tenant", "x tenant", "grpc-timeout", "x-bin", "te", "host", "ü"] {
            assert!(
                refused("headers", json!({name: "v"})).contains("cannot be sent; use lower-case"),
                "{name}"
            );
        }
        for value in ["", " ", "a\nb", "ü", &"x".repeat(4097)] {
            assert!(refused("headers", json!({"x": value})).contains("printable ASCII"), "{value:?}");
        }
        let many: BTreeMap<_, _> = (0..33).map(|number| (format!("x{number}"), "v")).collect();
        assert!(refused("headers", json!(many)).contains("at most 32"));
        assert!(refused("protocol", json!("http")).contains("unknown field"));
    }

    #[test]
    fn values_of_headers_are_not_shown() {
        let config =
            read(json!({"endpoint": "http://h", "headers": {"authorization": "Bearer hidden"}})).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("authorization") && !shown.contains("hidden"), "{shown}");
        assert_eq!(config.headers().iter().next(), Some(("authorization", "Bearer hidden")));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = json!({
            "endpoint": "https://h:1", "headers": {"x-tenant": "shop"}, "caFile": "/ca.pem", "timeoutSeconds": 60,
        });
        assert_eq!(serde_json::to_value(read(text.clone()).unwrap()).unwrap(), text);
    }
}
