//! The conversation of one connection: schema, monitor, updates, echoes.
//!
//! Owns which message may come when. Pure: takes messages, returns events, appends what is to be sent to a buffer.
//! Must never keep anything over a reconnection: the next session starts from an empty replica.

use bytes::BytesMut;
use serde_json::{Value as Json, json};

use super::message::{self, Message, updates, updates2};
use super::replica::{Builder, Replica};
use super::schema::Schema;

/// The database that vswitchd works from.
pub(super) const DATABASE: &str = "Open_vSwitch";

const ID_SCHEMA: &str = "schema";
const ID_MONITOR_COND: &str = "monitor_cond";
const ID_MONITOR: &str = "monitor";
const ID_ECHO: &str = "echo";

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The server has no such database, or refuses to show it.
    #[error("the server does not serve database {DATABASE}: {0}")]
    Schema(String),
    /// The schema is another product's.
    #[error("the server's database {DATABASE} has no table Bridge")]
    NotOvs,
    /// Neither way of monitoring works.
    #[error("the server refuses to be monitored: {0}")]
    Monitor(String),
    /// The server ended the monitor, as it does when the schema is converted.
    #[error("the server cancelled the monitor")]
    Cancelled,
}

/// What a message led to.
#[derive(Debug)]
pub(super) enum Event {
    /// Nothing that anybody waits for.
    Quiet,
    /// The replica changed (also: is complete for the first time).
    Changed,
    /// A transaction's answer.
    Answer {
        /// Which.
        id: u64,
        /// Its result.
        result: Json,
        /// Null, or why it was refused as a whole.
        error: Json,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Schema,
    Monitor,
    Ready,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Session {
    stage: Stage,
    schema: Schema,
    builder: Builder,
}

impl Session {
    /// Begins: asks for the schema.
    pub(super) fn start(out: &mut BytesMut) -> Self {
        out.extend_from_slice(&message::request("get_schema", &json!([DATABASE]), &json!(ID_SCHEMA)));
        Self { stage: Stage::Schema, schema: Schema::default(), builder: Builder::default() }
    }

    /// Whether the replica is complete and transactions may be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// The rows as known now.
    pub(super) fn snapshot(&self) -> Replica {
        self.builder.snapshot()
    }

    /// Asks whether the server is alive.
    pub(super) fn probe(out: &mut BytesMut) {
        out.extend_from_slice(&message::request("echo", &json!([]), &json!(ID_ECHO)));
    }

    /// Takes a message of the server's.
    pub(super) fn receive(&mut self, message: Message, out: &mut BytesMut) -> Result<Event, SessionError> {
        match message {
            Message::Request { method, params, id } => {
                let answer = if method == "echo" {
                    message::response(&params, &Json::Null, &id)
                } else {
                    message::response(&Json::Null, &json!("unknown method"), &id)
                };
                out.extend_from_slice(&answer);
                Ok(Event::Quiet)
            }
            Message::Notification { method, params } => self.notified(&method, &params),
            Message::Response { id, result, error } => self.answered(&id, result, error, out),
        }
    }

    fn notified(&mut self, method: &str, params: &[Json]) -> Result<Event, SessionError> {
        let changes = match (method, params) {
            ("update2", [_, changes, ..]) => updates2(changes),
            ("update", [_, changes, ..]) => updates(changes),
            ("monitor_canceled", _) => return Err(SessionError::Cancelled),
            _ => return Ok(Event::Quiet),
        };
        self.builder.apply(&self.schema, changes);
        Ok(if self.is_ready() { Event::Changed } else { Event::Quiet })
    }

    fn answered(
        &mut self,
        id: &Json,
        result: Json,
        error: Json,
        out: &mut BytesMut,
    ) -> Result<Event, SessionError> {
        if let Some(id) = id.as_u64() {
            return Ok(Event::Answer { id, result, error });
        }
        match (id.as_str(), error.is_null()) {
            (Some(ID_SCHEMA), true) => {
                self.schema = Schema::read(&result);
                if !self.schema.has_bridges() {
                    return Err(SessionError::NotOvs);
                }
                self.stage = Stage::Monitor;
                self.monitor("monitor_cond", ID_MONITOR_COND, out);
                Ok(Event::Quiet)
            }
            (Some(ID_SCHEMA), false) => Err(SessionError::Schema(error.to_string())),
            (Some(ID_MONITOR_COND), true) => Ok(self.complete(updates2(&result))),
            (Some(ID_MONITOR), true) => Ok(self.complete(updates(&result))),
            (Some(ID_MONITOR_COND), false) => {
                tracing::debug!(%error, "monitor_cond refused, falling back to monitor");
                self.monitor("monitor", ID_MONITOR, out);
                Ok(Event::Quiet)
            }
            (Some(ID_MONITOR), false) => Err(SessionError::Monitor(error.to_string())),
            _ => Ok(Event::Quiet),
        }
    }

    fn monitor(&self, method: &str, id: &str, out: &mut BytesMut) {
        let params = json!([DATABASE, id, self.schema.monitor_requests()]);
        out.extend_from_slice(&message::request(method, &params, &json!(id)));
    }

    fn complete(&mut self, initial: message::TableChanges) -> Event {
        self.builder.apply(&self.schema, initial);
        self.stage = Stage::Ready;
        Event::Changed
    }
}

#[cfg(test)]
mod tests;
