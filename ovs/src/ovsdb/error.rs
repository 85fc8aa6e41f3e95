//! Why a transaction did not do what it should.
//!
//! Owns the words; must never hide which table and row were concerned.

use std::path::PathBuf;
use std::time::Duration;

use super::operation::Table;

/// A transaction failed. Unless it is [`OutcomeUnknown`](Self::OutcomeUnknown), nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactError {
    /// The server could not be reached while the caller waited; nothing was sent.
    #[error("not connected to OVSDB at {} (waited {} ms)", socket.display(), waited.as_millis())]
    NotConnected {
        /// Socket.
        socket: PathBuf,
        /// How long it was waited.
        waited: Duration,
    },
    /// The connection went away after the transaction was sent and before it was answered.
    #[error("the connection to OVSDB at {} was lost while the transaction was in flight: outcome unknown, look again", socket.display())]
    OutcomeUnknown {
        /// Socket.
        socket: PathBuf,
    },
    /// The server refused an operation.
    #[error("OVSDB refused to {operation} {table} {row:?}: {error}{}", Details(details))]
    Refused {
        /// `insert`, `update`, …
        operation: &'static str,
        /// Table; `-` for an operation without one.
        table: &'static str,
        /// Row by name or condition.
        row: String,
        /// The server's error (RFC 7047 section 3.1, `<error>`).
        error: String,
        /// The server's details, may be empty.
        details: String,
    },
    /// The server refused the transaction as a whole, at commit or before looking at it.
    #[error("OVSDB refused the transaction on {rows}: {error}{}", Details(details))]
    Commit {
        /// Tables and rows that the transaction touched.
        rows: String,
        /// The server's error.
        error: String,
        /// The server's details, may be empty.
        details: String,
    },
    /// The transaction was carried out, but a row that it should change is not there.
    #[error("OVSDB has no {table} {row:?} to {operation}")]
    NoSuchRow {
        /// `update` or `mutate`.
        operation: &'static str,
        /// Table.
        table: Table,
        /// Row by name or condition.
        row: String,
    },
    /// More operations than one transaction may have.
    #[error("{count} operations in one transaction; at most {max} are allowed")]
    TooManyOperations {
        /// Asked for.
        count: usize,
        /// Limit, see [`OvsdbOptions::max_operations`](super::OvsdbOptions::max_operations).
        max: usize,
    },
    /// The server answered something that is not an answer.
    #[error("OVSDB answered a transaction with something else: {reply}")]
    UnexpectedReply {
        /// The beginning of the answer.
        reply: String,
    },
    /// The client was stopped.
    #[error("the OVSDB client has stopped")]
    Stopped,
}

impl TransactError {
    /// Whether the same call may succeed later without anybody changing a thing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::OutcomeUnknown { .. } => true,
            Self::Commit { error, .. } | Self::Refused { error, .. } => is_environmental(error),
            Self::NoSuchRow { .. }
            | Self::TooManyOperations { .. }
            | Self::UnexpectedReply { .. }
            | Self::Stopped => false,
        }
    }

    /// Whether the database may or may not hold the change: look at the replica before trying again.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }
}

/// Errors that are no caller's fault, so that splitting a merged transaction finds no culprit (RFC 7047 section 4.1.3).
pub(super) fn is_environmental(error: &str) -> bool {
    matches!(error, "I/O error" | "resources exhausted" | "canceled" | "not allowed")
}

/// `": details"`, or nothing.
struct Details<'a>(&'a str);

impl std::fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}
