//! What is collected, and what is kept.

use trunkline_api::{AllocationOwner, IPAllocationSpec};

use super::*;

const GRACE: Duration = Duration::from_secs(120);

fn claim(uid: &str) -> Claim {
    Claim {
        name: "a.ip-10-0-0-5".to_owned(),
        uid: uid.to_owned(),
        spec: IPAllocationSpec {
            pool: "a".to_owned(),
            address: "10.0.0.5".parse().expect("an address"),
            node: "n1".to_owned(),
            owner: AllocationOwner { pod_uid: "u1".to_owned(), ..AllocationOwner::default() },
        },
    }
}

fn pod(uids: &[&str], terminal: bool) -> PodFacts {
    PodFacts { uids: uids.iter().map(|uid| (*uid).to_owned()).collect(), node: None, terminal }
}

#[test]
fn a_claim_looks_abandoned_when_pod_or_node_is_gone_or_the_pod_has_ended() {
    let cases = [
        (Some(pod(&["u1"], false)), true, None),
        (None, true, Some(Reason::PodGone)),
        (Some(pod(&["u2"], false)), true, Some(Reason::PodGone)),
        (Some(pod(&["mirror", "u1"], false)), true, None),
        (Some(pod(&["u1"], true)), true, Some(Reason::PodEnded)),
        (Some(pod(&["u1"], false)), false, Some(Reason::NodeGone)),
    ];
    for (pod, node_exists, expected) in cases {
        assert_eq!(judge(&claim("c"), pod.as_ref(), node_exists), expected, "{pod:?} {node_exists}");
    }
}

#[test]
fn only_what_looks_abandoned_for_the_whole_grace_period_is_due() {
    let start = Instant::now();
    let mut suspects = Suspects::default();
    let look = |suspects: &mut Suspects, after: u64, reason| {
        let now = start + Duration::from_secs(after);
        suspects.look(vec![(claim("c"), start, reason)], GRACE, now).len()
    };
    let gone = Some(Reason::PodGone);
    assert_eq!(look(&mut suspects, 200, gone), 0, "first seen abandoned now");
    assert_eq!(look(&mut suspects, 319, gone), 0);
    assert_eq!(look(&mut suspects, 320, gone), 1);
    assert_eq!(look(&mut suspects, 330, None), 0, "the pod is back");
    assert_eq!(look(&mut suspects, 340, gone), 0, "and counts anew");
}

#[test]
fn a_claim_younger_than_the_grace_period_is_never_due() {
    let start = Instant::now();
    let mut suspects = Suspects::default();
    let now = start + GRACE;
    suspects.look(vec![(claim("c"), start, Some(Reason::PodGone))], GRACE, start);
    let born = start + Duration::from_secs(1);
    assert!(suspects.look(vec![(claim("c"), born, Some(Reason::PodGone))], GRACE, now).is_empty());
}

#[test]
fn a_new_claim_of_the_same_name_is_another_suspect() {
    let start = Instant::now();
    let mut suspects = Suspects::default();
    suspects.look(vec![(claim("c1"), start, Some(Reason::PodGone))], GRACE, start);
    let due = suspects.look(vec![(claim("c2"), start, Some(Reason::PodGone))], GRACE, start + GRACE);
    assert!(due.is_empty());
}
