//! OVSDB values: atoms, sets and maps, to and from JSON (RFC 7047 section 5.1).
//!
//! Owns the notation; must never know tables or columns.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::Uuid;

/// One scalar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// 64-bit integer.
    Integer(i64),
    /// Floating point number.
    Real(Real),
    /// `true` or `false`.
    Boolean(bool),
    /// Text.
    String(String),
    /// Reference to a row.
    Uuid(Uuid),
    /// Reference to a row that this transaction inserts under a name.
    Named(String),
}

/// A floating point number with a total order, so that sets of them can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Real {}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Exactly one.
    Atom(Atom),
    /// Any number, without order. The wire writes a set of one as a bare atom as well.
    Set(BTreeSet<Atom>),
    /// Keys and values.
    Map(BTreeMap<Atom, Atom>),
}

/// The JSON is not an OVSDB value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Neither a scalar nor a known `["…", …]` form.
    #[error("not an OVSDB value: {0}")]
    Form(String),
    /// A UUID that is none.
    #[error("not a row reference: {0}")]
    Uuid(String),
}

impl Atom {
    /// Reads `<atom>`.
    pub fn from_json(json: &Json) -> Result<Self, ValueError> {
        match json {
            Json::String(text) => Ok(Self::String(text.clone())),
            Json::Bool(value) => Ok(Self::Boolean(*value)),
            Json::Number(number) => number
                .as_i64()
                .map(Self::Integer)
                .or_else(|| number.as_f64().map(|real| Self::Real(Real(real))))
                .ok_or_else(|| form(json)),
            Json::Array(items) => match items.as_slice() {
                [Json::String(tag), Json::String(text)] if tag == "uuid" => {
                    text.parse().map(Self::Uuid).map_err(|_| ValueError::Uuid(excerpt(json)))
                }
                [Json::String(tag), Json::String(text)] if tag == "named-uuid" => {
                    Ok(Self::Named(text.clone()))
                }
                _ => Err(form(json)),
            },
            Json::Null | Json::Object(_) => Err(form(json)),
        }
    }

    /// Writes `<atom>`.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Integer(value) => json!(value),
            Self::Real(value) => json!(value.0),
            Self::Boolean(value) => json!(value),
            Self::String(value) => json!(value),
            Self::Uuid(value) => json!(["uuid", value.to_string()]),
            Self::Named(value) => json!(["named-uuid", value]),
        }
    }
}

impl Value {
    /// Reads `<value>`.
    pub fn from_json(json: &Json) -> Result<Self, ValueError> {
        if let Json::Array(items) = json
            && let [Json::String(tag), Json::Array(members)] = items.as_slice()
        {
            match tag.as_str() {
                "set" => return members.iter().map(Atom::from_json).collect::<Result<_, _>>().map(Self::Set),
                "map" => return members.iter().map(pair).collect::<Result<_, _>>().map(Self::Map),
                _ => {}
            }
        }
        Atom::from_json(json).map(Self::Atom)
    }

    /// Writes `<value>`.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Atom(atom) => atom.to_json(),
            Self::Set(atoms) => json!(["set", atoms.iter().map(Atom::to_json).collect::<Vec<_>>()]),
            Self::Map(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(key, value)| json!([key.to_json(), value.to_json()])).collect();
                json!(["map", pairs])
            }
        }
    }

    /// A set with nothing in it: an optional column without a value.
    pub fn empty() -> Self {
        Self::Set(BTreeSet::new())
    }

    /// The atoms of a set, or the one atom.
    pub fn atoms(&self) -> Vec<&Atom> {
        match self {
            Self::Atom(atom) => vec![atom],
            Self::Set(atoms) => atoms.iter().collect(),
            Self::Map(_) => Vec::new(),
        }
    }
}

fn pair(json: &Json) -> Result<(Atom, Atom), ValueError> {
    match json.as_array().map(Vec::as_slice) {
        Some([key, value]) => Ok((Atom::from_json(key)?, Atom::from_json(value)?)),
        _ => Err(form(json)),
    }
}

fn form(json: &Json) -> ValueError {
    ValueError::Form(excerpt(json))
}

/// The first characters of some JSON, for an error message.
fn excerpt(json: &Json) -> String {
    json.to_string().chars().take(80).collect()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Atom(Atom::String(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Atom(Atom::String(text))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Atom(Atom::Boolean(value))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Atom(Atom::Integer(value))
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Self::Atom(Atom::Uuid(value))
    }
}

impl From<&BTreeMap<String, String>> for Value {
    fn from(map: &BTreeMap<String, String>) -> Self {
        Self::Map(
            map.iter().map(|(key, value)| (Atom::String(key.clone()), Atom::String(value.clone()))).collect(),
        )
    }
}

/// An optional column: nothing is the empty set.
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Self::empty, Into::into)
    }
}

impl FromIterator<Atom> for Value {
    fn from_iter<I: IntoIterator<Item = Atom>>(atoms: I) -> Self {
        Self::Set(atoms.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
