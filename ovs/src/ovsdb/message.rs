//! JSON-RPC messages and table updates as the server sends them (RFC 7047 section 4, ovsdb-server(7)).
//!
//! Owns their reading. Must tolerate what it does not know: tables, columns and members of later versions are skipped.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::operation::Table;
use super::rows::RawRow;
use super::value::Value;
use crate::Uuid;

/// A message from the server.
#[derive(Debug)]
pub(super) enum Message {
    /// It wants something (`echo`).
    Request {
        /// What.
        method: String,
        /// With what.
        params: Json,
        /// To be repeated in the answer.
        id: Json,
    },
    /// It tells something.
    Notification {
        /// What.
        method: String,
        /// With what.
        params: Vec<Json>,
    },
    /// It answers.
    Response {
        /// The request's.
        id: Json,
        /// Present on success.
        result: Json,
        /// Null on success.
        error: Json,
    },
}

/// A message that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// Not JSON.
    #[error("a message is not JSON")]
    Json(#[source] serde_json::Error),
    /// JSON, but no JSON-RPC message.
    #[error("a message is neither request, notification nor response")]
    Form,
}

/// What happened to one row.
#[derive(Debug, PartialEq)]
pub(super) enum RowChange {
    /// These are its columns now; those not named are at their defaults.
    Set(RawRow),
    /// These differ (`update2`).
    Modify(RawRow),
    /// It is gone.
    Delete,
}

/// Changes of rows, table by table.
pub(super) type TableChanges = Vec<(Table, Uuid, RowChange)>;

/// Reads one message.
pub(super) fn parse(frame: &[u8]) -> Result<Message, MessageError> {
    let mut json: Map<String, Json> = serde_json::from_slice(frame).map_err(MessageError::Json)?;
    let mut take = |key: &str| json.remove(key).unwrap_or(Json::Null);
    let (id, params) = (take("id"), take("params"));
    match (take("method"), id) {
        (Json::String(method), Json::Null) => match params {
            Json::Array(params) => Ok(Message::Notification { method, params }),
            _ => Err(MessageError::Form),
        },
        (Json::String(method), id) => Ok(Message::Request { method, params, id }),
        (Json::Null, Json::Null) => Err(MessageError::Form),
        (Json::Null, id) => Ok(Message::Response { id, result: take("result"), error: take("error") }),
        _ => Err(MessageError::Form),
    }
}

/// A request's bytes; `method` is one of RFC 7047's names, which need no quoting.
pub(super) fn request(method: &str, params: &Json, id: &Json) -> Vec<u8> {
    format!(r#"{{"method":"{method}","params":{params},"id":{id}}}"#).into_bytes()
}

/// The answer to a server's request.
pub(super) fn response(result: &Json, error: &Json, id: &Json) -> Vec<u8> {
    format!(r#"{{"result":{result},"error":{error},"id":{id}}}"#).into_bytes()
}

/// Reads `<table-updates>` of `monitor` and `update` (RFC 7047 section 4.1.6).
pub(super) fn updates(json: &Json) -> TableChanges {
    changes(json, |update| match (update.get("new"), update.get("old")) {
        (Some(new), _) => Some(RowChange::Set(row(new))),
        (None, Some(_)) => Some(RowChange::Delete),
        (None, None) => None,
    })
}

/// Reads `<table-updates2>` of `monitor_cond` and `update2` (ovsdb-server(7), 4.1.14).
pub(super) fn updates2(json: &Json) -> TableChanges {
    changes(json, |update| {
        let (kind, value) = update.iter().next()?;
        match kind.as_str() {
            "initial" | "insert" => Some(RowChange::Set(row(value))),
            "modify" => Some(RowChange::Modify(row(value))),
            "delete" => Some(RowChange::Delete),
            _ => None,
        }
    })
}

fn changes(json: &Json, read: impl Fn(&Map<String, Json>) -> Option<RowChange>) -> TableChanges {
    let mut all = Vec::new();
    for (table, rows) in json.as_object().into_iter().flatten() {
        let Some(table) = Table::from_name(table) else { continue };
        for (uuid, update) in rows.as_object().into_iter().flatten() {
            let change = update.as_object().and_then(&read);
            if let (Ok(uuid), Some(change)) = (uuid.parse(), change) {
                all.push((table, uuid, change));
            } else {
                tracing::warn!(%table, row = %uuid, "row update not understood, skipped");
            }
        }
    }
    all
}

/// Columns of a row; one that is no OVSDB value is left out.
fn row(json: &Json) -> RawRow {
    let mut row = HashMap::new();
    for (column, value) in json.as_object().into_iter().flatten() {
        match Value::from_json(value) {
            Ok(value) => drop(row.insert(column.clone(), value)),
            Err(error) => tracing::warn!(%column, %error, "column not understood, skipped"),
        }
    }
    row
}

#[cfg(test)]
mod tests;
