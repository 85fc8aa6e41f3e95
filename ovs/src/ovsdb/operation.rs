//! Operations of a transaction and their results (RFC 7047 section 5.2).
//!
//! Owns the typed form and its JSON; must never decide what to write. There is no way to ask for a `wait` that blocks:
//! inside a shared transaction it would hold up everybody.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::value::{Atom, Value, ValueError};
use crate::Uuid;

/// Columns and their values.
pub type Row = BTreeMap<Cow<'static, str>, Value>;

/// A table of the `Open_vSwitch` database that this client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `Open_vSwitch`: one row, the root of everything.
    OpenVSwitch,
    /// `Bridge`.
    Bridge,
    /// `Port`.
    Port,
    /// `Interface`.
    Interface,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OpenVSwitch, Self::Bridge, Self::Port, Self::Interface];

    /// The name in the schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenVSwitch => "Open_vSwitch",
            Self::Bridge => "Bridge",
            Self::Port => "Port",
            Self::Interface => "Interface",
        }
    }

    /// From the name in the schema.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which rows: `column == value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Column; `_uuid` for the row's own identifier.
    pub column: Cow<'static, str>,
    /// What it must equal.
    pub value: Value,
}

/// How a mutation changes a set or a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutator {
    /// Adds elements or pairs; a key that is there already is kept as it is.
    Insert,
    /// Removes elements, keys or pairs.
    Delete,
}

/// A change of part of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Column.
    pub column: Cow<'static, str>,
    /// Kind of change.
    pub mutator: Mutator,
    /// The elements, keys or pairs.
    pub value: Value,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes a row. A row of a table other than `Open_vSwitch` that nothing refers to is dropped at commit.
    Insert {
        /// Table.
        table: Table,
        /// Its columns; the others get their defaults.
        row: Row,
        /// Name for [`Atom::Named`] in the same caller's operations; `[a-zA-Z_][a-zA-Z0-9_]*`.
        name: Option<String>,
    },
    /// Sets columns of rows.
    Update {
        /// Table.
        table: Table,
        /// Which rows; none is all.
        conditions: Vec<Condition>,
        /// Columns to set.
        row: Row,
        /// Report [`TransactError::NoSuchRow`](super::TransactError::NoSuchRow) when no row matched.
        must_match: bool,
    },
    /// Changes parts of columns of rows.
    Mutate {
        /// Table.
        table: Table,
        /// Which rows; none is all.
        conditions: Vec<Condition>,
        /// Changes, in order.
        mutations: Vec<Mutation>,
        /// As for [`Operation::Update`].
        must_match: bool,
    },
    /// Removes rows.
    Delete {
        /// Table.
        table: Table,
        /// Which rows; none is all.
        conditions: Vec<Condition>,
    },
    /// Reads rows as the transaction sees them.
    Select {
        /// Table.
        table: Table,
        /// Which rows; none is all.
        conditions: Vec<Condition>,
        /// Columns; none is all.
        columns: Vec<Cow<'static, str>>,
    },
    /// Fails the transaction at once unless the columns of the matching rows are exactly these.
    Check {
        /// Table.
        table: Table,
        /// Which rows; none is all.
        conditions: Vec<Condition>,
        /// Columns that are compared.
        columns: Vec<Cow<'static, str>>,
        /// What they must be.
        rows: Vec<Row>,
    },
    /// A note for the database's log.
    Comment(String),
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// The new row.
    Inserted(Uuid),
    /// Rows changed or removed.
    Count(u64),
    /// Rows read.
    Rows(Vec<BTreeMap<String, Value>>),
    /// Nothing to tell.
    Done,
}

impl Operation {
    /// The table that it concerns; `None` for a comment.
    pub fn table(&self) -> Option<Table> {
        match self {
            Self::Insert { table, .. }
            | Self::Update { table, .. }
            | Self::Mutate { table, .. }
            | Self::Delete { table, .. }
            | Self::Select { table, .. }
            | Self::Check { table, .. } => Some(*table),
            Self::Comment(_) => None,
        }
    }

    /// The `op` of the wire.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "insert",
            Self::Update { .. } => "update",
            Self::Mutate { .. } => "mutate",
            Self::Delete { .. } => "delete",
            Self::Select { .. } => "select",
            Self::Check { .. } => "wait",
            Self::Comment(_) => "comment",
        }
    }

    /// The row for people: its name where that is known, else how it was asked for. Empty for "all rows".
    pub fn row_label(&self) -> String {
        match self {
            Self::Insert { row, name, .. } => {
                row.get("name").map(label).or_else(|| name.clone()).unwrap_or_default()
            }
            Self::Update { conditions, .. }
            | Self::Mutate { conditions, .. }
            | Self::Delete { conditions, .. }
            | Self::Select { conditions, .. }
            | Self::Check { conditions, .. } => {
                conditions.iter().map(|condition| label(&condition.value)).collect::<Vec<_>>().join(",")
            }
            Self::Comment(_) => String::new(),
        }
    }

    /// Whether no matching row is an error of the caller's.
    pub(crate) fn must_match(&self) -> bool {
        matches!(self, Self::Update { must_match: true, .. } | Self::Mutate { must_match: true, .. })
    }

    /// The JSON of the wire; `rename` makes the names of inserted rows unique to the caller.
    pub(crate) fn to_json(&self, rename: &dyn Fn(&str) -> String) -> Json {
        let mut json = Map::new();
        json.insert("op".to_owned(), json!(self.verb()));
        if let Some(table) = self.table() {
            json.insert("table".to_owned(), json!(table.as_str()));
        }
        match self {
            Self::Insert { row, name, .. } => {
                json.insert("row".to_owned(), row_json(row, rename));
                if let Some(name) = name {
                    json.insert("uuid-name".to_owned(), json!(rename(name)));
                }
            }
            Self::Update { conditions, row, .. } => {
                json.insert("where".to_owned(), conditions_json(conditions));
                json.insert("row".to_owned(), row_json(row, rename));
            }
            Self::Mutate { conditions, mutations, .. } => {
                let mutations = mutations.iter().map(|mutation| mutation.to_json(rename)).collect();
                json.insert("where".to_owned(), conditions_json(conditions));
                json.insert("mutations".to_owned(), Json::Array(mutations));
            }
            Self::Delete { conditions, .. } => {
                json.insert("where".to_owned(), conditions_json(conditions));
            }
            Self::Select { conditions, columns, .. } => {
                json.insert("where".to_owned(), conditions_json(conditions));
                if !columns.is_empty() {
                    json.insert("columns".to_owned(), json!(columns));
                }
            }
            Self::Check { conditions, columns, rows, .. } => {
                json.insert("timeout".to_owned(), json!(0));
                json.insert("until".to_owned(), json!("=="));
                json.insert("where".to_owned(), conditions_json(conditions));
                json.insert("columns".to_owned(), json!(columns));
                json.insert("rows".to_owned(), rows.iter().map(|row| row_json(row, rename)).collect());
            }
            Self::Comment(text) => {
                json.insert("comment".to_owned(), json!(text));
            }
        }
        Json::Object(json)
    }

    /// Reads the result of this operation. `None` when the server's answer has another shape.
    pub(crate) fn result(&self, json: &Json) -> Option<OperationResult> {
        match self {
            Self::Insert { .. } => match Atom::from_json(json.get("uuid")?).ok()? {
                Atom::Uuid(uuid) => Some(OperationResult::Inserted(uuid)),
                _ => None,
            },
            Self::Update { .. } | Self::Mutate { .. } | Self::Delete { .. } => {
                json.get("count")?.as_u64().map(OperationResult::Count)
            }
            Self::Select { .. } => {
                let rows = json.get("rows")?.as_array()?;
                rows.iter().map(|row| read_row(row).ok()).collect::<Option<_>>().map(OperationResult::Rows)
            }
            Self::Check { .. } | Self::Comment(_) => Some(OperationResult::Done),
        }
    }
}

impl Mutation {
    fn to_json(&self, rename: &dyn Fn(&str) -> String) -> Json {
        let mutator = match self.mutator {
            Mutator::Insert => "insert",
            Mutator::Delete => "delete",
        };
        json!([self.column, mutator, renamed(&self.value, rename)])
    }
}

fn read_row(json: &Json) -> Result<BTreeMap<String, Value>, ValueError> {
    let columns = json.as_object().into_iter().flatten();
    columns.map(|(column, value)| Ok((column.clone(), Value::from_json(value)?))).collect()
}

fn row_json(row: &Row, rename: &dyn Fn(&str) -> String) -> Json {
    Json::Object(row.iter().map(|(column, value)| (column.to_string(), renamed(value, rename))).collect())
}

fn conditions_json(conditions: &[Condition]) -> Json {
    conditions.iter().map(|condition| json!([condition.column, "==", condition.value.to_json()])).collect()
}

/// A value's JSON with the names of rows replaced.
fn renamed(value: &Value, rename: &dyn Fn(&str) -> String) -> Json {
    let atom = |atom: &Atom| match atom {
        Atom::Named(name) => Atom::Named(rename(name)),
        other => other.clone(),
    };
    match value {
        Value::Atom(one) => atom(one).to_json(),
        Value::Set(atoms) => Value::Set(atoms.iter().map(atom).collect()).to_json(),
        Value::Map(pairs) => {
            Value::Map(pairs.iter().map(|(key, item)| (atom(key), atom(item))).collect()).to_json()
        }
    }
}

/// A value for people.
fn label(value: &Value) -> String {
    let text = |atom: &Atom| match atom {
        Atom::Integer(value) => value.to_string(),
        Atom::Real(value) => value.0.to_string(),
        Atom::Boolean(value) => value.to_string(),
        Atom::String(value) | Atom::Named(value) => value.clone(),
        Atom::Uuid(value) => value.to_string(),
    };
    value.atoms().into_iter().map(text).collect::<Vec<_>>().join(",")
}
