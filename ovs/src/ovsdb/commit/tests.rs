//! Merging, splitting, and who is told what; the server is a closure.

use tokio::sync::oneshot::Receiver;

use super::super::operation::Row;
use super::super::ops::{PortSpec, add_port, del_port, init_root};
use super::*;
use crate::Uuid;

fn call(operations: Vec<Operation>) -> (Call, Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    (Call { operations, reply, queued: Instant::now() }, answer)
}

fn commit_of(callers: Vec<Vec<Operation>>) -> (GroupCommit, Vec<Receiver<Answer>>) {
    let mut commit = GroupCommit::new(1000);
    let mut answers = Vec::new();
    for operations in callers {
        let (call, answer) = call(operations);
        commit.push(call);
        answers.push(answer);
    }
    (commit, answers)
}

fn port(name: &str) -> Vec<Operation> {
    add_port("br0", &PortSpec::new(name))
}

/// Results for operations that all succeed.
fn granted(operations: &[Json]) -> Vec<Json> {
    let result = |operation: &Json| match operation["op"].as_str() {
        Some("insert") => json!({"uuid": ["uuid", Uuid::from_u128(1).to_string()]}),
        _ => json!({"count": 1}),
    };
    operations.iter().map(result).collect()
}

/// Serves everything that waits; `judge` sees each transaction's operations. Gives the number of transactions.
fn serve(commit: &mut GroupCommit, judge: impl Fn(&[Json]) -> Vec<Json>) -> usize {
    let mut sent = 0;
    while let Some((id, params)) = commit.next() {
        sent += 1;
        assert!(sent < 1000, "it does not end");
        let operations = &params.as_array().expect("a list")[1..];
        commit.complete(id, &Json::Array(judge(operations)), &Json::Null);
    }
    sent
}

fn told(answer: &mut Receiver<Answer>) -> Answer {
    answer.try_recv().expect("an answer")
}

#[test]
fn callers_share_a_transaction_and_one_mutate_of_the_bridge() {
    let (mut commit, mut answers) = commit_of((0..5).map(|index| port(&format!("v{index}"))).collect());
    let (id, params) = commit.next().expect("a transaction");
    let operations = &params.as_array().expect("a list")[1..];
    assert_eq!(operations.len(), 11, "two inserts each and one mutate");
    let names: std::collections::HashSet<_> =
        operations.iter().filter_map(|part| part["uuid-name"].as_str()).collect();
    assert_eq!(names.len(), 10, "the names of rows are the callers' own");
    let mutate = operations.iter().find(|part| part["op"] == "mutate").expect("one");
    assert_eq!(mutate["mutations"][0][2][1].as_array().map(Vec::len), Some(5));
    assert!(commit.next().is_none(), "one is in flight at a time");
    assert_eq!(commit.complete(id, &Json::Array(granted(operations)), &Json::Null), Outcome::Answered(5));
    for answer in &mut answers {
        assert_eq!(told(answer).expect("success").len(), 3);
    }
}

#[test]
fn equal_names_of_two_callers_do_not_collide() {
    let (mut commit, _answers) = commit_of(vec![port("v"), port("v")]);
    let (_, params) = commit.next().expect("a transaction");
    let names: Vec<_> =
        params.as_array().expect("a list").iter().filter_map(|part| part["uuid-name"].as_str()).collect();
    assert_eq!(names, ["c0_iface_v", "c0_port_v", "c1_iface_v", "c1_port_v"]);
}

#[test]
fn a_commit_error_is_told_to_the_culprit_alone() {
    let (mut commit, mut answers) = commit_of((0..16).map(|index| port(&format!("v{index}"))).collect());
    let sent = serve(&mut commit, |operations| {
        let mut results = granted(operations);
        if operations.iter().any(|part| part["row"]["name"] == "v11") {
            results.push(json!({"error": "constraint violation", "details": "taken"}));
        }
        results
    });
    assert!(sent <= 10, "{sent} transactions to find one of 16");
    for (index, answer) in answers.iter_mut().enumerate() {
        match told(answer) {
            Ok(_) => assert_ne!(index, 11),
            Err(TransactError::Commit { rows, error, details }) => {
                assert_eq!((index, error.as_str(), details.as_str()), (11, "constraint violation", "taken"));
                assert!(rows.contains("Port \"v11\"") && rows.contains("Bridge \"br0\""), "{rows}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_operation_error_needs_one_split_and_names_table_and_row() {
    let (mut commit, mut answers) = commit_of((0..16).map(|index| port(&format!("v{index}"))).collect());
    let sent = serve(&mut commit, |operations| {
        let bad = operations.iter().position(|part| part["row"]["name"] == "v11");
        let mut results = granted(operations);
        if let Some(bad) = bad {
            results[bad] = json!({"error": "constraint violation", "details": "tag"});
            results[bad + 1..].fill(Json::Null);
        }
        results
    });
    assert_eq!(sent, 3);
    let error = told(&mut answers[11]).expect_err("the culprit");
    assert_eq!(error.to_string(), "OVSDB refused to insert Interface \"v11\": constraint violation: tag");
    assert!(
        answers
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| *index != 11)
            .all(|(_, answer)| told(answer).is_ok())
    );
}

#[test]
fn a_fault_of_the_servers_is_told_to_everybody_without_splitting() {
    let (mut commit, mut answers) = commit_of((0..4).map(|index| port(&format!("v{index}"))).collect());
    let sent = serve(&mut commit, |operations| {
        let mut results = granted(operations);
        results.push(json!({"error": "I/O error", "details": "disk full"}));
        results
    });
    assert_eq!(sent, 1);
    assert!(answers.iter_mut().all(|answer| told(answer).is_err_and(|error| error.is_transient())));
}

#[test]
fn removals_join_and_do_not_overtake_what_depends_on_order() {
    let gone = |number| del_port("br0", Uuid::from_u128(number));
    let merged = |callers: Vec<Vec<Operation>>| {
        let (mut commit, _answers) = commit_of(callers);
        let (_, params) = commit.next().expect("a transaction");
        params.as_array().expect("a list").iter().filter(|part| part["op"] == "mutate").count()
    };
    assert_eq!(
        merged(vec![gone(1), gone(2), port("a"), gone(3), port("b")]),
        2,
        "one for removals, one for additions"
    );
    let bridge = vec![Operation::Delete { table: Table::Bridge, conditions: Vec::new() }];
    assert_eq!(
        merged(vec![gone(1), bridge, gone(2)]),
        2,
        "what follows another change of the table stays behind it"
    );
    let other = add_port("br1", &PortSpec::new("c"));
    assert_eq!(merged(vec![port("a"), other, port("b")]), 2, "one for each bridge");
}

#[test]
fn callers_that_gave_up_before_their_turn_are_left_out() {
    let (mut commit, mut answers) = commit_of(vec![port("a"), port("b")]);
    drop(answers.remove(0));
    let (_, params) = commit.next().expect("a transaction");
    assert_eq!(params.as_array().map(Vec::len), Some(4), "the database's name and one caller's operations");
}

#[test]
fn a_lost_connection_leaves_the_outcome_open_only_for_what_was_sent() {
    let (mut commit, mut answers) = commit_of(vec![port("a")]);
    let (id, _) = commit.next().expect("a transaction");
    let (later, mut waiting) = call(port("b"));
    commit.push(later);
    commit.disconnected(&TransactError::OutcomeUnknown { socket: "db.sock".into() });
    assert!(told(&mut answers[0]).expect_err("lost").is_outcome_unknown());
    assert_eq!(commit.complete(id, &json!([]), &Json::Null), Outcome::Unknown, "a late answer is nobody's");
    assert!(waiting.try_recv().is_err(), "what was not sent goes on waiting");
    assert_eq!(serve(&mut commit, granted), 1);
    assert!(told(&mut waiting).is_ok());
}

#[test]
fn the_number_of_operations_is_limited_and_nothing_is_done_for_nothing() {
    let mut commit = GroupCommit::new(4);
    let (five, mut refused) = call((0..5).flat_map(|_| init_root()).collect());
    let (none, mut nothing) = call(Vec::new());
    commit.push(five);
    commit.push(none);
    assert_eq!(told(&mut refused), Err(TransactError::TooManyOperations { count: 5, max: 4 }));
    assert_eq!(told(&mut nothing), Ok(Vec::new()));
    for name in ["a", "b"] {
        commit.push(call(port(name)).0);
    }
    let (callers, _answers): (Vec<_>, Vec<_>) = [port("a"), port("b")].map(call).into_iter().unzip();
    for call in callers {
        commit.push(call);
    }
    assert_eq!(serve(&mut commit, granted), 2, "two callers with three operations each do not fit into four");
}

#[test]
fn waiting_callers_run_out_of_patience_one_by_one() {
    let (mut commit, mut answers) = commit_of(vec![port("a"), port("b")]);
    let limit = Duration::from_secs(10);
    let first = commit.next_expiry(limit).expect("somebody waits");
    commit.expire(first + limit, limit, |waited| TransactError::NotConnected {
        socket: "db.sock".into(),
        waited,
    });
    assert!(answers.iter_mut().all(|answer| matches!(told(answer), Err(TransactError::NotConnected { .. }))));
    assert_eq!(commit.next_expiry(limit), None);
}

#[test]
fn a_row_that_is_not_there_and_an_answer_that_is_none_are_errors() {
    let update =
        Operation::Update { table: Table::Port, conditions: Vec::new(), row: Row::new(), must_match: true };
    let (mut commit, mut answers) = commit_of(vec![vec![update.clone()]]);
    serve(&mut commit, |_| vec![json!({"count": 0})]);
    assert!(matches!(told(&mut answers[0]), Err(TransactError::NoSuchRow { table: Table::Port, .. })));
    for nonsense in [vec![], vec![json!({})], vec![json!("x")]] {
        let (mut commit, mut answers) = commit_of(vec![vec![update.clone()]]);
        serve(&mut commit, |_| nonsense.clone());
        assert!(told(&mut answers[0]).is_err(), "{nonsense:?}");
    }
    let (mut commit, mut answers) = commit_of(vec![vec![update]]);
    let (id, _) = commit.next().expect("a transaction");
    commit.complete(id, &Json::Null, &json!("unknown database"));
    assert!(told(&mut answers[0]).expect_err("refused").to_string().contains("unknown database"));
}
