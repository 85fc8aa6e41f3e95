//! What is known of pods.

use super::*;

fn pod(json: serde_json::Value) -> PodFacts {
    PodFacts::read(&serde_json::from_value(json).expect("a test's pod"))
}

fn plain() -> PodFacts {
    pod(serde_json::json!({
        "metadata": {"namespace": "a", "name": "p", "uid": "u1"}, "spec": {"nodeName": "n1", "containers": []},
    }))
}

#[test]
fn a_caller_may_ask_only_for_a_living_pod_of_its_own_node() {
    let facts = plain();
    assert_eq!(check(Some(&facts), "a/p", "u1", "n1"), Ok(()));
    let other = PodRefused::OtherNode {
        pod: "a/p".to_owned(),
        known: Some("n1".to_owned()),
        caller: "n2".to_owned(),
    };
    assert_eq!(check(Some(&facts), "a/p", "u1", "n2"), Err(other));
    assert_eq!(check(None, "a/p", "u1", "n1"), Err(PodRefused::Absent { pod: "a/p".to_owned() }));
    let unbound = PodFacts { node: None, ..facts };
    assert!(matches!(
        check(Some(&unbound), "a/p", "u1", "n1"),
        Err(PodRefused::OtherNode { known: None, .. })
    ));
}

#[test]
fn a_pod_of_the_same_name_that_was_created_anew_is_another_pod() {
    let error = check(Some(&plain()), "a/p", "u0", "n1").expect_err("another UID");
    assert_eq!(error.to_string(), "pod a/p has UID u1, not u0: the one that asks is gone");
}

#[test]
fn a_static_pod_is_known_by_its_configuration_hash_and_by_its_mirror_s_uid() {
    let facts = pod(serde_json::json!({
        "metadata": {"namespace": "a", "name": "p-n1", "uid": "u1", "annotations": {
            "kubernetes.io/config.hash": "c0ffee", "kubernetes.io/config.mirror": "c0ffee"}},
        "spec": {"nodeName": "n1", "containers": []},
    }));
    for uid in ["u1", "c0ffee"] {
        assert_eq!(check(Some(&facts), "a/p-n1", uid, "n1"), Ok(()), "{uid}");
    }
}

#[test]
fn succeeded_and_failed_pods_are_terminal() {
    for (phase, terminal) in [("Running", false), ("Pending", false), ("Succeeded", true), ("Failed", true)] {
        let facts = pod(serde_json::json!({"metadata": {"name": "p"}, "status": {"phase": phase}}));
        assert_eq!(facts.terminal, terminal, "{phase}");
    }
}
