//! The part of the server's schema that this client uses: which of our columns exist, and which hold several values.
//!
//! Owns tolerance towards OVS 2.17–3.5: a column that a server lacks is never asked for.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::operation::Table;
use super::rows::columns;

/// Our columns that the server has, and whether each holds more than one value.
#[derive(Debug, Default)]
pub(super) struct Schema {
    plural: HashMap<(Table, &'static str), bool>,
}

impl Schema {
    /// Reads the result of `get_schema` (RFC 7047 section 3.2).
    pub(super) fn read(json: &Json) -> Self {
        let mut plural = HashMap::new();
        for table in Table::ALL {
            let known = &json["tables"][table.as_str()]["columns"];
            for column in columns(table) {
                if let Some(definition) = known.get(column) {
                    plural.insert((table, *column), is_plural(&definition["type"]));
                }
            }
        }
        Self { plural }
    }

    /// Whether the server has a table that nothing works without.
    pub(super) fn has_bridges(&self) -> bool {
        self.plural.contains_key(&(Table::Bridge, "name"))
    }

    /// Whether `update2` sends differences for this column.
    pub(super) fn is_plural(&self, table: Table, column: &str) -> bool {
        let known = columns(table).iter().find(|known| **known == column);
        known.and_then(|column| self.plural.get(&(table, *column))).copied().unwrap_or(false)
    }

    /// The `<monitor-requests>`.
    pub(super) fn monitor_requests(&self) -> Json {
        let request = |table: Table| {
            let present: Vec<_> =
                columns(table).iter().filter(|column| self.plural.contains_key(&(table, **column))).collect();
            (!present.is_empty()).then(|| (table.as_str().to_owned(), json!([{ "columns": present }])))
        };
        Json::Object(Table::ALL.into_iter().filter_map(request).collect())
    }
}

/// `max` above one (RFC 7047 section 3.2, `<type>`).
fn is_plural(kind: &Json) -> bool {
    match &kind["max"] {
        Json::String(text) => text == "unlimited",
        Json::Number(max) => max.as_u64().is_some_and(|max| max > 1),
        _ => false,
    }
}
