//! Group commit: many callers' operations in one transaction, and each caller's own answer out of it.
//!
//! Owns merging and splitting. Pure: no socket, no clock. One transaction is in flight at a time; callers that arrive
//! meanwhile form the next. An error is delivered only to a caller whose transaction ran alone: a merged one that fails
//! is split first, because a commit error does not say which operation was at fault (RFC 7047 section 4.1.3).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use super::error::{TransactError, is_environmental};
use super::operation::{Mutator, Operation, OperationResult, Table};
use super::session::DATABASE;
use super::value::{Atom, Value};

/// What a caller gets.
pub(super) type Answer = Result<Vec<OperationResult>, TransactError>;

/// One caller's transaction.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operations: Vec<Operation>,
    pub(super) reply: oneshot::Sender<Answer>,
    pub(super) queued: Instant,
}

/// A transaction in flight.
#[derive(Debug)]
struct Group {
    id: u64,
    calls: Vec<Call>,
    merged: Merged,
}

/// What a completed transaction meant, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All its callers were answered.
    Answered(usize),
    /// It failed and goes out again in parts.
    Split,
    /// It was none of ours.
    Unknown,
}

/// Callers' transactions: waiting, in flight, being split.
#[derive(Debug)]
pub(super) struct GroupCommit {
    max_operations: usize,
    next_id: u64,
    queue: VecDeque<Call>,
    /// Parts of failed groups, oldest first; they go before `queue` and are never merged again.
    retry: VecDeque<Vec<Call>>,
    in_flight: Option<Group>,
}

impl GroupCommit {
    pub(super) fn new(max_operations: usize) -> Self {
        Self { max_operations, next_id: 1, queue: VecDeque::new(), retry: VecDeque::new(), in_flight: None }
    }

    /// Takes a caller in, or answers at once if it can never be served.
    pub(super) fn push(&mut self, call: Call) {
        let count = call.operations.len();
        if count > self.max_operations {
            answer(call, Err(TransactError::TooManyOperations { count, max: self.max_operations }));
        } else if count == 0 {
            answer(call, Ok(Vec::new()));
        } else {
            self.queue.push_back(call);
        }
    }

    /// Callers waiting for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether a transaction is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The parameters and id of the next `transact`, if none is in flight and somebody waits.
    pub(super) fn next(&mut self) -> Option<(u64, Json)> {
        if self.is_busy() {
            return None;
        }
        let calls = self.next_group();
        if calls.is_empty() {
            return None;
        }
        let mut merged = Merged::of(&calls);
        let id = self.next_id;
        self.next_id += 1;
        let mut params = Vec::with_capacity(merged.operations.len() + 1);
        params.push(json!(DATABASE));
        params.extend(merged.operations.iter_mut().map(|part| part.json.take()));
        self.in_flight = Some(Group { id, calls, merged });
        Some((id, Json::Array(params)))
    }

    /// The callers of the next transaction; those that gave up are left out.
    fn next_group(&mut self) -> Vec<Call> {
        while let Some(mut calls) = self.retry.pop_front() {
            calls.retain(|call| !call.reply.is_closed());
            if !calls.is_empty() {
                return calls;
            }
        }
        let mut calls = Vec::new();
        let mut operations = 0;
        while let Some(call) = self.queue.pop_front() {
            if call.reply.is_closed() {
                continue;
            }
            operations += call.operations.len();
            if operations > self.max_operations {
                self.queue.push_front(call);
                break;
            }
            calls.push(call);
        }
        calls
    }

    /// Takes the server's answer.
    pub(super) fn complete(&mut self, id: u64, result: &Json, error: &Json) -> Outcome {
        let Some(group) = self.in_flight.take_if(|group| group.id == id) else { return Outcome::Unknown };
        let Some(failure) = Failure::find(&group.merged, result, error) else {
            return succeed(group, result);
        };
        if group.calls.len() == 1 || is_environmental(&failure.error) {
            let count = group.calls.len();
            for call in group.calls {
                let reason = failure.describe(&call.operations);
                answer(call, Err(reason));
            }
            return Outcome::Answered(count);
        }
        self.split(group.calls, failure.culprit);
        Outcome::Split
    }

    /// Puts a failed group back in parts: a known culprit alone and last, else halves.
    fn split(&mut self, mut calls: Vec<Call>, culprit: Option<usize>) {
        let second = match culprit {
            Some(index) => vec![calls.remove(index)],
            None => calls.split_off(calls.len() / 2),
        };
        self.retry.push_front(second);
        self.retry.push_front(calls);
    }

    /// The connection is gone: what was in flight may or may not have been written; what waits goes on waiting.
    pub(super) fn disconnected(&mut self, reason: &TransactError) {
        for call in self.in_flight.take().into_iter().flat_map(|group| group.calls) {
            answer(call, Err(reason.clone()));
        }
    }

    /// Answers callers that have waited longer than `limit` without a connection.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        limit: Duration,
        reason: impl Fn(Duration) -> TransactError,
    ) {
        let waited = |call: &Call| now.saturating_duration_since(call.queued);
        let waiting = self.retry.drain(..).flatten().chain(self.queue.drain(..));
        let (late, early): (Vec<_>, Vec<_>) = waiting.partition(|call| waited(call) >= limit);
        self.queue = early.into();
        for call in late {
            let reason = reason(waited(&call));
            answer(call, Err(reason));
        }
    }

    /// When the longest-waiting caller runs out of patience.
    pub(super) fn next_expiry(&self, limit: Duration) -> Option<Instant> {
        let waiting = self.retry.iter().flatten().chain(&self.queue);
        waiting.map(|call| call.queued + limit).min()
    }
}

/// Tells a caller; one that has gone does not mind.
fn answer(call: Call, answer: Answer) {
    drop(call.reply.send(answer));
}

/// Gives every caller its own results.
fn succeed(group: Group, result: &Json) -> Outcome {
    let count = group.calls.len();
    for (call, slots) in group.calls.into_iter().zip(&group.merged.slots) {
        let results = call
            .operations
            .iter()
            .zip(slots)
            .map(|(operation, slot)| read(operation, &result[*slot]))
            .collect();
        answer(call, results);
    }
    Outcome::Answered(count)
}

/// One operation's result.
fn read(operation: &Operation, json: &Json) -> Result<OperationResult, TransactError> {
    let unexpected =
        || TransactError::UnexpectedReply { reply: json.to_string().chars().take(200).collect() };
    let result = operation.result(json).ok_or_else(unexpected)?;
    match (&result, operation.table()) {
        (OperationResult::Count(0), Some(table)) if operation.must_match() => {
            Err(TransactError::NoSuchRow { operation: operation.verb(), table, row: operation.row_label() })
        }
        _ => Ok(result),
    }
}

/// Callers' operations as one list.
#[derive(Debug)]
struct Merged {
    operations: Vec<Part>,
    /// For each caller, for each of its operations, the index in `operations`.
    slots: Vec<Vec<usize>>,
}

/// One operation of the merged list.
#[derive(Debug)]
struct Part {
    json: Json,
    /// The caller, unless several share it.
    caller: Option<usize>,
}

/// What two callers' operations must have in common to become one.
#[derive(PartialEq, Eq, Hash)]
struct Shape {
    table: Table,
    conditions: String,
    column: String,
    mutator: &'static str,
}

impl Merged {
    fn of(calls: &[Call]) -> Self {
        let mut merged = Self { operations: Vec::new(), slots: Vec::with_capacity(calls.len()) };
        let mut open: HashMap<Shape, usize> = HashMap::new();
        for (caller, call) in calls.iter().enumerate() {
            let rename = |name: &str| format!("c{caller}_{name}");
            let mut slots = Vec::with_capacity(call.operations.len());
            for operation in &call.operations {
                slots.push(merged.add(caller, operation, operation.to_json(&rename), &mut open));
            }
            merged.slots.push(slots);
        }
        merged
    }

    /// Adds an operation, or joins it to an earlier one of the same shape; returns where its result will be.
    ///
    /// 1,000 `mutate`s of one bridge cost the server a pass over its ports each; joined they cost one.
    fn add(
        &mut self,
        caller: usize,
        operation: &Operation,
        json: Json,
        open: &mut HashMap<Shape, usize>,
    ) -> usize {
        let shape = shape(operation, &json);
        if let Some(index) = shape.as_ref().and_then(|shape| open.get(shape)).copied() {
            let part = &mut self.operations[index];
            join(&mut part.json, &json);
            part.caller = part.caller.filter(|first| *first == caller);
            return index;
        }
        let index = self.operations.len();
        self.operations.push(Part { json, caller: Some(caller) });
        match shape {
            Some(shape) => drop(open.insert(shape, index)),
            // Whatever else touches the table may depend on the order: what comes later must stay later.
            None => open.retain(|shape, _| operation.table().is_some_and(|table| table != shape.table)),
        }
        index
    }
}

/// The shape of a joinable operation: adding new rows to one set of references, or removing old ones from it. Those
/// two commute with themselves and each other, because new rows and old ones are never the same.
fn shape(operation: &Operation, json: &Json) -> Option<Shape> {
    let Operation::Mutate { table, mutations, .. } = operation else { return None };
    let [mutation] = mutations.as_slice() else { return None };
    let Value::Set(atoms) = &mutation.value else { return None };
    let (fits, mutator): (fn(&Atom) -> bool, _) = match mutation.mutator {
        Mutator::Insert => (|atom| matches!(atom, Atom::Named(_)), "insert"),
        Mutator::Delete => (|atom| matches!(atom, Atom::Uuid(_)), "delete"),
    };
    let conditions = json["where"].to_string();
    (!atoms.is_empty() && atoms.iter().all(fits)).then(|| Shape {
        table: *table,
        conditions,
        column: mutation.column.to_string(),
        mutator,
    })
}

/// Appends the second `mutate`'s set of atoms to the first's: `mutations[0][2]` is `["set", [...]]`.
fn join(into: &mut Json, from: &Json) {
    let atoms = from["mutations"][0][2][1].as_array().cloned().unwrap_or_default();
    if let Some(set) = into["mutations"][0][2][1].as_array_mut() {
        for atom in atoms {
            set.push(atom);
        }
    }
}

/// Why a transaction failed, as the server put it.
struct Failure {
    /// Index of the operation in the caller's own list, where the server named one and one caller owned it.
    operation: Option<usize>,
    culprit: Option<usize>,
    error: String,
    details: String,
}

impl Failure {
    /// Looks for an error in the server's answer.
    fn find(merged: &Merged, result: &Json, error: &Json) -> Option<Self> {
        if !error.is_null() {
            let (error, details) = match error {
                Json::String(text) => (text.clone(), String::new()),
                other => (text(&other["error"], other), text(&other["details"], &Json::Null)),
            };
            return Some(Self { operation: None, culprit: None, error, details });
        }
        let Some(results) = result.as_array().filter(|results| results.len() >= merged.operations.len())
        else {
            let details = result.to_string().chars().take(200).collect();
            return Some(Self {
                operation: None,
                culprit: None,
                error: "answer of another shape".to_owned(),
                details,
            });
        };
        let index =
            results.iter().position(|result| result.get("error").is_some_and(|error| !error.is_null()))?;
        let culprit = merged.operations.get(index).and_then(|part| part.caller);
        let operation =
            culprit.and_then(|caller| merged.slots[caller].iter().position(|slot| *slot == index));
        let failed = &results[index];
        Some(Self {
            operation,
            culprit,
            error: text(&failed["error"], failed),
            details: text(&failed["details"], &Json::Null),
        })
    }

    /// The error for a caller that was alone, or that shares a fault of the server's.
    fn describe(&self, operations: &[Operation]) -> TransactError {
        let (error, details) = (self.error.clone(), self.details.clone());
        match self.operation.and_then(|index| operations.get(index)) {
            Some(operation) => TransactError::Refused {
                operation: operation.verb(),
                table: operation.table().map_or("-", Table::as_str),
                row: operation.row_label(),
                error,
                details,
            },
            None => TransactError::Commit { rows: rows(operations), error, details },
        }
    }
}

/// A JSON text, or another value's JSON, or nothing.
fn text(json: &Json, otherwise: &Json) -> String {
    match (json, otherwise) {
        (Json::String(text), _) => text.clone(),
        (_, Json::Null) => String::new(),
        (_, other) => other.to_string(),
    }
}

/// The tables and rows that operations touch, each once, for people.
fn rows(operations: &[Operation]) -> String {
    let mut rows: Vec<String> = Vec::new();
    for operation in operations {
        let Some(table) = operation.table() else { continue };
        let label = format!("{table} {:?}", operation.row_label());
        if !rows.contains(&label) {
            rows.push(label);
        }
        if rows.len() == 8 {
            rows.push("…".to_owned());
            break;
        }
    }
    rows.join(", ")
}

#[cfg(test)]
mod tests;
