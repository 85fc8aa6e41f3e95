//! Typed rows of the four tables that matter, as far as this client reads them.
//!
//! Owns which columns are monitored and how they become fields. Must never fail on a database of another version:
//! a column that is missing gives its default, one of another type is ignored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::operation::Table;
use super::value::{Atom, Value};
use crate::Uuid;

/// A row as the replica keeps it: column name to value; a column at its default may be absent.
pub(super) type RawRow = HashMap<String, Value>;

/// The root row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenVSwitch {
    /// Row.
    pub uuid: Uuid,
    /// All bridges.
    pub bridges: BTreeSet<Uuid>,
    /// Configuration of vswitchd as a whole.
    pub other_config: BTreeMap<String, String>,
    /// Marks of whoever uses the switch.
    pub external_ids: BTreeMap<String, String>,
    /// Version of the running vswitchd, `3.1.0`; kept from the last run while none runs.
    pub ovs_version: Option<String>,
    /// Version of the schema.
    pub db_version: Option<String>,
    /// Datapaths that this vswitchd can make: `netdev`, `system`.
    pub datapath_types: BTreeSet<String>,
    /// Sequence number of the configuration as asked for (bumped by `ovs-vsctl`, never by us).
    pub next_cfg: i64,
    /// Sequence number that vswitchd has carried out.
    pub cur_cfg: i64,
}

/// `Bridge.fail_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMode {
    /// Forwards as a learning switch while no controller is there.
    Standalone,
    /// Forwards by its flows alone.
    Secure,
}

impl FailMode {
    /// The text of the column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Secure => "secure",
        }
    }
}

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Row.
    pub uuid: Uuid,
    /// Name, unique.
    pub name: Arc<str>,
    /// `netdev` or `system`; the empty string is `system`.
    pub datapath_type: String,
    /// What vswitchd says about the datapath: a version, `<built-in>` for netdev, `<unknown>`, or empty.
    pub datapath_version: String,
    /// Datapath id, 16 hex digits, once vswitchd has made the bridge.
    pub datapath_id: Option<String>,
    /// Whether multicast is snooped.
    pub mcast_snooping_enable: bool,
    /// Ports, the bridge's own among them.
    pub ports: BTreeSet<Uuid>,
    /// OpenFlow controllers (rows of a table that is not monitored).
    pub controller: BTreeSet<Uuid>,
    /// OpenFlow versions by name; empty means vswitchd's default, 1.0 to 1.5.
    pub protocols: BTreeSet<String>,
    /// `None` is standalone.
    pub fail_mode: Option<FailMode>,
    /// Whether spanning tree runs on it, of either kind.
    pub stp_enable: bool,
    /// Further configuration.
    pub other_config: BTreeMap<String, String>,
    /// Marks of whoever uses the bridge.
    pub external_ids: BTreeMap<String, String>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Row.
    pub uuid: Uuid,
    /// Name, unique.
    pub name: Arc<str>,
    /// Its interfaces; more than one is a bond.
    pub interfaces: BTreeSet<Uuid>,
    /// Access or native VLAN, 0–4095.
    pub tag: Option<u16>,
    /// VLANs of a trunk; empty means all.
    pub trunks: BTreeSet<u16>,
    /// `access`, `trunk`, `native-tagged`, `native-untagged`, `dot1q-tunnel`; `None` follows from `tag` and `trunks`.
    pub vlan_mode: Option<String>,
    /// Further configuration.
    pub other_config: BTreeMap<String, String>,
    /// Marks of whoever uses the port.
    pub external_ids: BTreeMap<String, String>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Row.
    pub uuid: Uuid,
    /// Name, unique: the network device's.
    pub name: Arc<str>,
    /// Kind; the empty string is an ordinary network device.
    pub kind: String,
    /// OpenFlow port number; −1 when vswitchd could not open it, `None` before it tried.
    pub ofport: Option<i64>,
    /// Number that was asked for.
    pub ofport_request: Option<i64>,
    /// Why vswitchd could not open it.
    pub error: Option<String>,
    /// Whether the carrier is up; `None` where vswitchd does not know.
    pub link_up: Option<bool>,
    /// Whether it is administratively up.
    pub admin_up: Option<bool>,
    /// MTU in bytes as it is.
    pub mtu: Option<i64>,
    /// MTU in bytes as asked for.
    pub mtu_request: Option<i64>,
    /// Index of the network device.
    pub ifindex: Option<i64>,
    /// MAC as it is.
    pub mac_in_use: Option<String>,
    /// Options of the kind.
    pub options: BTreeMap<String, String>,
    /// Further configuration.
    pub other_config: BTreeMap<String, String>,
    /// Marks of whoever uses the interface.
    pub external_ids: BTreeMap<String, String>,
}

impl Interface {
    /// The OpenFlow port number once the interface forwards, 1–65279 or 65534 for the bridge's own.
    pub fn ready_ofport(&self) -> Option<u32> {
        self.ofport.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
    }
}

/// The columns that are asked for, where the server has them.
pub(super) const fn columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::OpenVSwitch => &[
            "bridges",
            "other_config",
            "external_ids",
            "ovs_version",
            "db_version",
            "datapath_types",
            "next_cfg",
            "cur_cfg",
        ],
        Table::Bridge => &[
            "name",
            "datapath_type",
            "datapath_version",
            "datapath_id",
            "mcast_snooping_enable",
            "ports",
            "controller",
            "protocols",
            "fail_mode",
            "stp_enable",
            "rstp_enable",
            "other_config",
            "external_ids",
        ],
        Table::Port => &["name", "interfaces", "tag", "trunks", "vlan_mode", "other_config", "external_ids"],
        Table::Interface => &[
            "name",
            "type",
            "ofport",
            "ofport_request",
            "error",
            "link_state",
            "admin_state",
            "mtu",
            "mtu_request",
            "ifindex",
            "mac_in_use",
            "options",
            "other_config",
            "external_ids",
        ],
    }
}

/// A typed row that can be made from a raw one.
pub(super) trait Typed: Sized {
    /// Makes it; columns that are absent or odd give defaults.
    fn read(uuid: Uuid, raw: &RawRow) -> Self;
    /// The indexed name, if the table has one.
    fn name(&self) -> Option<&Arc<str>>;
}

impl Typed for OpenVSwitch {
    fn read(uuid: Uuid, raw: &RawRow) -> Self {
        let row = Reader(raw);
        Self {
            uuid,
            bridges: row.uuids("bridges"),
            other_config: row.map("other_config"),
            external_ids: row.map("external_ids"),
            ovs_version: row.text("ovs_version"),
            db_version: row.text("db_version"),
            datapath_types: row.texts("datapath_types"),
            next_cfg: row.integer("next_cfg").unwrap_or(0),
            cur_cfg: row.integer("cur_cfg").unwrap_or(0),
        }
    }

    fn name(&self) -> Option<&Arc<str>> {
        None
    }
}

impl Typed for Bridge {
    fn read(uuid: Uuid, raw: &RawRow) -> Self {
        let row = Reader(raw);
        Self {
            uuid,
            name: row.text("name").unwrap_or_default().into(),
            datapath_type: row.text("datapath_type").unwrap_or_default(),
            datapath_version: row.text("datapath_version").unwrap_or_default(),
            datapath_id: row.text("datapath_id"),
            mcast_snooping_enable: row.boolean("mcast_snooping_enable"),
            ports: row.uuids("ports"),
            controller: row.uuids("controller"),
            protocols: row.texts("protocols"),
            fail_mode: row.text("fail_mode").and_then(|text| match text.as_str() {
                "secure" => Some(FailMode::Secure),
                "standalone" => Some(FailMode::Standalone),
                _ => None,
            }),
            stp_enable: row.boolean("stp_enable") || row.boolean("rstp_enable"),
            other_config: row.map("other_config"),
            external_ids: row.map("external_ids"),
        }
    }

    fn name(&self) -> Option<&Arc<str>> {
        Some(&self.name)
    }
}

impl Typed for Port {
    fn read(uuid: Uuid, raw: &RawRow) -> Self {
        let row = Reader(raw);
        let vlan = |number: i64| u16::try_from(number).ok();
        Self {
            uuid,
            name: row.text("name").unwrap_or_default().into(),
            interfaces: row.uuids("interfaces"),
            tag: row.integer("tag").and_then(vlan),
            trunks: row.integers("trunks").filter_map(vlan).collect(),
            vlan_mode: row.text("vlan_mode"),
            other_config: row.map("other_config"),
            external_ids: row.map("external_ids"),
        }
    }

    fn name(&self) -> Option<&Arc<str>> {
        Some(&self.name)
    }
}

impl Typed for Interface {
    fn read(uuid: Uuid, raw: &RawRow) -> Self {
        let row = Reader(raw);
        Self {
            uuid,
            name: row.text("name").unwrap_or_default().into(),
            kind: row.text("type").unwrap_or_default(),
            ofport: row.integer("ofport"),
            ofport_request: row.integer("ofport_request"),
            error: row.text("error"),
            link_up: row.text("link_state").map(|state| state == "up"),
            admin_up: row.text("admin_state").map(|state| state == "up"),
            mtu: row.integer("mtu"),
            mtu_request: row.integer("mtu_request"),
            ifindex: row.integer("ifindex"),
            mac_in_use: row.text("mac_in_use"),
            options: row.map("options"),
            other_config: row.map("other_config"),
            external_ids: row.map("external_ids"),
        }
    }

    fn name(&self) -> Option<&Arc<str>> {
        Some(&self.name)
    }
}

/// Reads columns of a raw row with defaults.
struct Reader<'a>(&'a RawRow);

impl Reader<'_> {
    fn atoms(&self, column: &str) -> Vec<&Atom> {
        self.0.get(column).map(Value::atoms).unwrap_or_default()
    }

    fn text(&self, column: &str) -> Option<String> {
        self.texts(column).pop_first()
    }

    fn texts(&self, column: &str) -> BTreeSet<String> {
        let text = |atom: &Atom| if let Atom::String(text) = atom { Some(text.clone()) } else { None };
        self.atoms(column).into_iter().filter_map(text).collect()
    }

    fn integers(&self, column: &str) -> impl Iterator<Item = i64> {
        let number = |atom: &Atom| if let Atom::Integer(number) = atom { Some(*number) } else { None };
        self.atoms(column).into_iter().filter_map(number)
    }

    fn integer(&self, column: &str) -> Option<i64> {
        self.integers(column).next()
    }

    fn boolean(&self, column: &str) -> bool {
        self.atoms(column).first() == Some(&&Atom::Boolean(true))
    }

    fn uuids(&self, column: &str) -> BTreeSet<Uuid> {
        let uuid = |atom: &Atom| if let Atom::Uuid(uuid) = atom { Some(*uuid) } else { None };
        self.atoms(column).into_iter().filter_map(uuid).collect()
    }

    fn map(&self, column: &str) -> BTreeMap<String, String> {
        let Some(Value::Map(pairs)) = self.0.get(column) else { return BTreeMap::new() };
        let pair = |(key, value): (&Atom, &Atom)| match (key, value) {
            (Atom::String(key), Atom::String(value)) => Some((key.clone(), value.clone())),
            _ => None,
        };
        pairs.iter().filter_map(pair).collect()
    }
}
