//! Builders of operations for bridges, ports and interfaces.
//!
//! Owns how rows hang together (a bridge's own port, references from parents); must never read or send anything.
//! All of them may be concatenated into one transaction, except two that insert for one caller under the same name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::operation::{Condition, Mutation, Mutator, Operation, Row, Table};
use super::rows::FailMode;
use super::value::{Atom, Value};
use crate::Uuid;

/// Which row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By name (not in `Open_vSwitch`).
    Name(String),
    /// By identifier.
    Uuid(Uuid),
    /// The only row of the table (`Open_vSwitch`).
    Only,
}

impl Target {
    fn conditions(&self) -> Vec<Condition> {
        match self {
            Self::Name(name) => vec![Condition { column: "name".into(), value: name.as_str().into() }],
            Self::Uuid(uuid) => vec![Condition { column: "_uuid".into(), value: (*uuid).into() }],
            Self::Only => Vec::new(),
        }
    }
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<Uuid> for Target {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

/// A bridge to be made, with its own internal port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Name, also of its own port and interface.
    pub name: String,
    /// `netdev` or `system`.
    pub datapath_type: String,
    /// What it does without flows. Secure unless said otherwise.
    pub fail_mode: FailMode,
    /// OpenFlow versions; 1.0 (for `ovs-ofctl` as people call it) and 1.3 (ours) unless said otherwise.
    pub protocols: Vec<String>,
    /// Snoop multicast.
    pub mcast_snooping_enable: bool,
    /// MTU in bytes of its own interface, where one is wanted.
    pub mtu_request: Option<u32>,
    /// `other_config`: `mac-table-size`, `hwaddr`, `mcast-snooping-disable-flood-unregistered`, …
    pub other_config: BTreeMap<String, String>,
    /// `external_ids` of the bridge.
    pub external_ids: BTreeMap<String, String>,
}

impl BridgeSpec {
    /// A secure bridge of this name and datapath type with nothing else set.
    pub fn new(name: impl Into<String>, datapath_type: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            datapath_type: datapath_type.into(),
            fail_mode: FailMode::Secure,
            protocols: vec!["OpenFlow10".to_owned(), "OpenFlow13".to_owned()],
            mcast_snooping_enable: false,
            mtu_request: None,
            other_config: BTreeMap::new(),
            external_ids: BTreeMap::new(),
        }
    }
}

/// `Port.vlan_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// One VLAN, untagged on the wire.
    Access,
    /// Several VLANs, tagged on the wire.
    Trunk,
    /// A trunk whose native VLAN is untagged on the wire.
    NativeUntagged,
    /// A trunk whose native VLAN is tagged on the wire.
    NativeTagged,
}

impl VlanMode {
    /// The text of the column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Trunk => "trunk",
            Self::NativeUntagged => "native-untagged",
            Self::NativeTagged => "native-tagged",
        }
    }
}

/// A port to be made, with one interface of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSpec {
    /// Name, also of the interface: an existing network device unless `interface_type` says otherwise.
    pub name: String,
    /// Access or native VLAN, 1–4094; `None` leaves the port without one.
    pub tag: Option<u16>,
    /// How `tag` and `trunks` are meant; `None` lets OVS infer it.
    pub vlan_mode: Option<VlanMode>,
    /// VLANs of a trunk, 0–4095; none means all.
    pub trunks: Vec<u16>,
    /// `Interface.type`: empty for a network device, else `internal`, `patch`, …
    pub interface_type: String,
    /// MTU in bytes that vswitchd shall set on the interface (internal ones, mostly).
    pub mtu_request: Option<u32>,
    /// `Port.other_config`: `mcast-snooping-flood`, `mcast-snooping-flood-reports`, …
    pub other_config: BTreeMap<String, String>,
    /// `external_ids` of the port.
    pub external_ids: BTreeMap<String, String>,
}

impl PortSpec {
    /// A port of a network device, without VLAN.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// Makes the root row, for a database that has none.
pub fn init_root() -> Vec<Operation> {
    vec![Operation::Insert { table: Table::OpenVSwitch, row: Row::new(), name: None }]
}

/// Makes a bridge with its own port and interface. Refused by the server if one of that name exists.
pub fn add_bridge(spec: &BridgeSpec) -> Vec<Operation> {
    let local = PortSpec {
        name: spec.name.clone(),
        interface_type: "internal".to_owned(),
        mtu_request: spec.mtu_request,
        ..PortSpec::default()
    };
    let [interface, port] = insert_port(&local);
    let row = columns([
        ("name", spec.name.as_str().into()),
        ("datapath_type", spec.datapath_type.as_str().into()),
        ("fail_mode", spec.fail_mode.as_str().into()),
        ("protocols", texts(&spec.protocols)),
        ("mcast_snooping_enable", spec.mcast_snooping_enable.into()),
        ("other_config", (&spec.other_config).into()),
        ("external_ids", (&spec.external_ids).into()),
        ("ports", Value::Atom(Atom::Named(row_name("port", &spec.name)))),
    ]);
    let name = row_name("bridge", &spec.name);
    let bridge = Operation::Insert { table: Table::Bridge, row, name: Some(name.clone()) };
    vec![
        interface,
        port,
        bridge,
        change_set(Table::OpenVSwitch, &Target::Only, "bridges", Mutator::Insert, Atom::Named(name)),
    ]
}

/// Removes a bridge, its ports and interfaces. No error if it is gone.
pub fn del_bridge(bridge: Uuid) -> Vec<Operation> {
    vec![change_set(Table::OpenVSwitch, &Target::Only, "bridges", Mutator::Delete, Atom::Uuid(bridge))]
}

/// Makes a port on a bridge. [`TransactError::NoSuchRow`](super::TransactError::NoSuchRow) if there is no such bridge (nothing is left then).
pub fn add_port(bridge: &str, spec: &PortSpec) -> Vec<Operation> {
    let [interface, port] = insert_port(spec);
    let reference = Atom::Named(row_name("port", &spec.name));
    vec![interface, port, change_set(Table::Bridge, &bridge.into(), "ports", Mutator::Insert, reference)]
}

/// Removes a port and its interfaces from a bridge. No error if the port is gone.
pub fn del_port(bridge: &str, port: Uuid) -> Vec<Operation> {
    vec![change_set(Table::Bridge, &bridge.into(), "ports", Mutator::Delete, Atom::Uuid(port))]
}

/// Sets columns of one row.
pub fn set_columns<N, V>(
    table: Table,
    target: impl Into<Target>,
    row: impl IntoIterator<Item = (N, V)>,
) -> Vec<Operation>
where
    N: Into<Cow<'static, str>>,
    V: Into<Value>,
{
    let row = row.into_iter().map(|(column, value)| (column.into(), value.into())).collect();
    vec![Operation::Update { table, conditions: target.into().conditions(), row, must_match: true }]
}

/// Sets columns of a bridge.
pub fn set_bridge_columns(
    bridge: impl Into<Target>,
    row: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Operation> {
    set_columns(Table::Bridge, bridge, row)
}

/// Sets columns of a port.
pub fn set_port_columns(
    port: impl Into<Target>,
    row: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Operation> {
    set_columns(Table::Port, port, row)
}

/// Sets columns of an interface.
pub fn set_interface_columns(
    interface: impl Into<Target>,
    row: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Operation> {
    set_columns(Table::Interface, interface, row)
}

/// Sets and removes keys of `external_ids`, leaving all other keys alone.
pub fn mutate_external_ids(
    table: Table,
    target: impl Into<Target>,
    set: &BTreeMap<String, String>,
    remove: &[&str],
) -> Vec<Operation> {
    mutate_map(table, target, "external_ids", set, remove)
}

/// Sets and removes keys of a map column of texts, leaving all other keys alone.
pub fn mutate_map(
    table: Table,
    target: impl Into<Target>,
    column: &'static str,
    set: &BTreeMap<String, String>,
    remove: &[&str],
) -> Vec<Operation> {
    // An insert keeps the value of a key that exists, so every key is deleted first (RFC 7047 section 5.1).
    let keys = set.keys().map(String::as_str).chain(remove.iter().copied());
    let keys: Value = keys.map(|key| Atom::String(key.to_owned())).collect();
    let mutations = vec![
        Mutation { column: column.into(), mutator: Mutator::Delete, value: keys },
        Mutation { column: column.into(), mutator: Mutator::Insert, value: set.into() },
    ];
    vec![Operation::Mutate { table, conditions: target.into().conditions(), mutations, must_match: true }]
}

/// The interface and the port that refers to it.
fn insert_port(spec: &PortSpec) -> [Operation; 2] {
    let interface_name = row_name("iface", &spec.name);
    let mut interface =
        columns([("name", spec.name.as_str().into()), ("type", spec.interface_type.as_str().into())]);
    if let Some(mtu) = spec.mtu_request {
        interface.insert("mtu_request".into(), i64::from(mtu).into());
    }
    let mut port = columns([
        ("name", spec.name.as_str().into()),
        ("interfaces", Value::Atom(Atom::Named(interface_name.clone()))),
        ("external_ids", (&spec.external_ids).into()),
        ("other_config", (&spec.other_config).into()),
    ]);
    if let Some(tag) = spec.tag {
        port.insert("tag".into(), i64::from(tag).into());
    }
    if let Some(mode) = spec.vlan_mode {
        port.insert("vlan_mode".into(), mode.as_str().into());
    }
    if !spec.trunks.is_empty() {
        port.insert(
            "trunks".into(),
            spec.trunks.iter().map(|vlan| Atom::Integer(i64::from(*vlan))).collect(),
        );
    }
    [
        Operation::Insert { table: Table::Interface, row: interface, name: Some(interface_name) },
        Operation::Insert { table: Table::Port, row: port, name: Some(row_name("port", &spec.name)) },
    ]
}

fn columns<const N: usize>(columns: [(&'static str, Value); N]) -> Row {
    columns.into_iter().map(|(column, value)| (Cow::Borrowed(column), value)).collect()
}

fn texts(texts: &[String]) -> Value {
    texts.iter().map(|text| Atom::String(text.clone())).collect()
}

/// A change of a parent's set of references.
fn change_set(
    table: Table,
    target: &Target,
    column: &'static str,
    mutator: Mutator,
    atom: Atom,
) -> Operation {
    let value = std::iter::once(atom).collect();
    let must_match = mutator == Mutator::Insert;
    let mutations = vec![Mutation { column: column.into(), mutator, value }];
    Operation::Mutate { table, conditions: target.conditions(), mutations, must_match }
}

/// A name for a new row that RFC 7047's `<id>` allows: other bytes are written in hexadecimal.
fn row_name(kind: &str, name: &str) -> String {
    let mut id = format!("{kind}_");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            id.push(char::from(byte));
        } else {
            write!(id, "_{byte:02x}").expect("writing to a String cannot fail");
        }
    }
    id
}
