//! `only`: which records an exporter gets.
//!
//! Owns the keys and what may be in them. Must never look at a record.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::flow_protocol::FlowProtocol;
use crate::k8s_name::{is_label, is_subdomain};
use crate::vlan::VlanId;

/// What a record must be to be exported. Every list that is there must have a match; one that is not admits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Only {
    /// The interface's network. Interfaces without one, such as uplinks, are on none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<AnyOf<NetworkName>>,
    /// The network's VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlans: Option<AnyOf<NetworkVlan>>,
    /// The port at either end. What has no ports, such as ICMP, has none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<AnyOf<Port>>,
    /// The IP address at either end, also of ARP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AnyOf<AddressRange>>,
    /// The protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<AnyOf<FlowProtocol>>,
    /// What it is a record of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<AnyOf<RecordKind>>,
}

impl Only {
    /// The same, with records of this kind alone where nothing is said about it.
    #[must_use]
    pub fn or_records(self, kind: RecordKind) -> Self {
        Self { records: self.records.or_else(|| Some(AnyOf(vec![kind]))), ..self }
    }
}

/// What an exporter is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// `flow`.
    Flow,
    /// `dns`: a question to a name server.
    Dns,
}

/// One or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "Vec<T>",
    into = "Vec<T>",
    bound(serialize = "T: Serialize + Clone", deserialize = "T: Deserialize<'de>")
)]
pub struct AnyOf<T>(Vec<T>);

/// `<namespace>/<name>` of a `NetworkAttachmentDefinition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// A network's VLAN, 1–4094, or 0: an untagged network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u16")]
pub struct NetworkVlan(Option<VlanId>);

/// A port of TCP, UDP, SCTP, DCCP or UDP-Lite, 1–65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u16")]
pub struct Port(u16);

/// An IP address or a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange(IpNet);

/// A value of `only` that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOnly {
    /// Would admit nothing.
    #[error("the list is empty and would admit nothing; leave the key out to admit everything")]
    Empty,
    /// Not a namespace and a name.
    #[error("{0:?} is no network; write <namespace>/<name> of its NetworkAttachmentDefinition")]
    Network(String),
    /// Out of bounds.
    #[error("{0} is no network's VLAN; use 1 to 4094, or 0 for untagged networks")]
    Vlan(u64),
    /// Out of bounds.
    #[error("{0} is not a port; use 1 to 65535")]
    Port(u64),
    /// Neither an address nor a CIDR.
    #[error("{0:?} is no address; use an IP address or a CIDR, such as 10.0.0.0/8 or 2001:db8::1")]
    Address(String),
}

impl<T> AnyOf<T> {
    /// Whether one of them is as asked for.
    pub fn any(&self, matches: impl Fn(&T) -> bool) -> bool {
        self.0.iter().any(matches)
    }
}

impl<T> TryFrom<Vec<T>> for AnyOf<T> {
    type Error = InvalidOnly;

    fn try_from(items: Vec<T>) -> Result<Self, Self::Error> {
        if items.is_empty() { Err(InvalidOnly::Empty) } else { Ok(Self(items)) }
    }
}

impl<T> From<AnyOf<T>> for Vec<T> {
    fn from(any: AnyOf<T>) -> Self {
        any.0
    }
}

impl NetworkName {
    /// `<namespace>/<name>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NetworkName {
    type Error = InvalidOnly;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits =
            text.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && is_subdomain(name));
        if fits { Ok(Self(text)) } else { Err(InvalidOnly::Network(text)) }
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

impl NetworkVlan {
    /// The VLAN; `None` is untagged.
    pub fn get(self) -> Option<VlanId> {
        self.0
    }
}

impl TryFrom<u64> for NetworkVlan {
    type Error = InvalidOnly;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        let vlan = u16::try_from(number).ok().and_then(|tag| VlanId::from_tag(tag).ok());
        vlan.map(Self).ok_or(InvalidOnly::Vlan(number))
    }
}

impl From<NetworkVlan> for u16 {
    fn from(vlan: NetworkVlan) -> Self {
        vlan.0.map_or(0, Self::from)
    }
}

impl Port {
    /// As a number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for Port {
    type Error = InvalidOnly;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.map(Self).ok_or(InvalidOnly::Port(number))
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.0
    }
}

impl AddressRange {
    /// Whether the address is it, or in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl FromStr for AddressRange {
    type Err = InvalidOnly;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map(Self).map_err(|_| InvalidOnly::Address(text.to_owned()))
    }
}

impl TryFrom<String> for AddressRange {
    type Error = InvalidOnly;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Only, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn bad_values_are_refused_with_what_is_right() {
        for (key, value, said) in [
            ("networks", json!(["vlan100"]), "\"vlan100\" is no network; write <namespace>/<name>"),
            ("networks", json!(["shop/*"]), "\"shop/*\" is no network"),
            ("networks", json!(["Shop/a"]), "\"Shop/a\" is no network"),
            ("networks", json!(["a/b/c"]), "\"a/b/c\" is no network"),
            ("vlans", json!([100, 4095]), "4095 is no network's VLAN; use 1 to 4094, or 0"),
            ("vlans", json!([70_000]), "70000 is no network's VLAN"),
            ("ports", json!([0]), "0 is not a port; use 1 to 65535"),
            ("ports", json!([65_536]), "65536 is not a port"),
            ("ports", json!(["443"]), "expected u64"),
            (
                "addresses",
                json!(["10.0.0.0/33"]),
                "\"10.0.0.0/33\" is no address; use an IP address or a CIDR",
            ),
            ("addresses", json!(["host"]), "\"host\" is no address"),
            ("protocols", json!(["tpc"]), "\"tpc\" is no protocol; use tcp, udp"),
            ("protocols", json!([256]), "256 is no protocol"),
            ("protocols", json!([-1]), "-1 is no protocol"),
            ("protocols", json!([true]), "expected a protocol's name or number"),
            ("records", json!(["flows"]), "unknown variant `flows`, expected `flow` or `dns`"),
            ("pods", json!(["a/b"]), "unknown field `pods`"),
        ] {
            let refused = read(json!({ key: value })).unwrap_err();
            assert!(refused.contains(said), "{key}: {refused}");
        }
    }

    #[test]
    fn a_list_may_be_left_out_but_not_empty() {
        assert_eq!(read(json!({})), Ok(Only::default()));
        assert_eq!(read(json!({"networks": null})), Ok(Only::default()));
        for key in ["networks", "vlans", "ports", "addresses", "protocols", "records"] {
            let refused = read(json!({ key: [] })).unwrap_err();
            assert!(refused.contains("the list is empty and would admit nothing"), "{key}: {refused}");
        }
    }

    #[test]
    fn what_is_said_of_records_is_not_overridden() {
        let of = |value| read(value).unwrap().or_records(RecordKind::Flow);
        assert_eq!(of(json!({})), read(json!({"records": ["flow"]})).unwrap());
        assert_eq!(of(json!({"records": ["dns"]})), read(json!({"records": ["dns"]})).unwrap());
    }

    #[test]
    fn an_address_is_a_range_of_one() {
        let range: AddressRange = "10.1.0.7".parse().unwrap();
        let [same, next] = ["10.1.0.7", "10.1.0.8"].map(|text| text.parse().unwrap());
        assert!(range.contains(same) && !range.contains(next));
        let wide: AddressRange = "10.1.0.7/24".parse().unwrap();
        assert!(wide.contains(next) && !wide.contains("::ffff:10.1.0.7".parse().unwrap()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = json!({
            "networks": ["shop/vlan100"], "vlans": [0, 100], "ports": [443],
            "addresses": ["10.0.0.0/8", "2001:db8::1"], "protocols": ["tcp", "89", "0x88cc"],
            "records": ["flow", "dns"],
        });
        assert_eq!(serde_json::to_value(read(text.clone()).unwrap()).unwrap(), text);
    }
}
