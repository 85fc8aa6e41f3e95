//! The ledger of pools and claims.

use trunkline_api::{AllocationOwner, IPAllocationSpec, allocation_name};
use trunkline_ipam::{Family, PickError, PoolSpec};

use super::*;

fn pool(name: &str, first: &str, last: &str) -> PoolObject {
    let parse = |text: &str| text.parse().expect("a test's address");
    PoolObject {
        spec: PoolSpec {
            name: name.to_owned(),
            subnet: Ok("10.0.0.1/24".parse().expect("a test's subnet")),
            ranges: vec![Ok((parse(first), parse(last)))],
            vlan: 100,
        },
        uid: format!("uid-{name}"),
        generation: Some(1),
        guarded: true,
        deleting: false,
        cursor: None,
        usage: None,
        conditions: Vec::new(),
    }
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.pool_applied(pool("a", "10.0.0.10", "10.0.0.12"));
    ledger.pool_applied(pool("b", "10.0.0.20", "10.0.0.22"));
    ledger.pools_done();
    ledger.claims_listing();
    ledger.claims_done(Instant::now());
    ledger
}

fn request(uid: &str, sandbox: &str, interfaces: &[(&str, &str)]) -> Request {
    let ask = |(interface, pool): &(&str, &str)| InterfaceAsk {
        interface: (*interface).to_owned(),
        nad: "ns/net".to_owned(),
        pools: vec![(*pool).to_owned()],
        vlan: None,
        requested: Vec::new(),
    };
    Request {
        namespace: "ns".to_owned(),
        pod: format!("pod-{uid}"),
        uid: uid.to_owned(),
        sandbox: sandbox.to_owned(),
        node: "n1".to_owned(),
        interfaces: interfaces.iter().map(ask).collect(),
    }
}

/// The object that claiming this pick creates.
fn claim(request: &Request, index: usize, pool: &str, address: &str, uid: &str) -> Claim {
    let address = address.parse().expect("a test's address");
    Claim {
        name: allocation_name(pool, address),
        uid: uid.to_owned(),
        spec: IPAllocationSpec {
            pool: pool.to_owned(),
            address,
            node: request.node.clone(),
            owner: AllocationOwner {
                pod_namespace: request.namespace.clone(),
                pod_name: request.pod.clone(),
                pod_uid: request.uid.clone(),
                sandbox: request.sandbox.clone(),
                interface: request.interfaces[index].interface.clone(),
                nad: "ns/net".to_owned(),
            },
        },
    }
}

fn picked(plan: &Plan) -> Vec<String> {
    plan.interfaces.iter().flat_map(|planned| &planned.picks).map(|pick| pick.address.to_string()).collect()
}

fn kept(plan: &Plan) -> Vec<&str> {
    plan.interfaces.iter().flat_map(|planned| &planned.kept).map(|claim| claim.name.as_str()).collect()
}

#[test]
fn a_new_sandbox_of_the_same_pod_gets_the_claims_it_has() {
    let now = Instant::now();
    let mut ledger = ledger();
    let first = request("u1", "s1", &[("eth1", "a"), ("eth2", "b")]);
    let plan = ledger.plan(&first, now).expect("free");
    assert_eq!(picked(&plan), ["10.0.0.10", "10.0.0.20"]);
    ledger.claim_applied(claim(&first, 0, "a", "10.0.0.10", "c1"), now);
    ledger.claim_applied(claim(&first, 1, "b", "10.0.0.20", "c2"), now);
    let again = ledger.plan(&request("u1", "s2", &[("eth1", "a"), ("eth2", "b")]), now).expect("held");
    assert_eq!(picked(&again), [] as [&str; 0]);
    assert_eq!(kept(&again), ["a.ip-10-0-0-10", "b.ip-10-0-0-20"]);
    assert_eq!(again.obsolete, []);
}

#[test]
fn another_pod_of_the_same_name_gets_another_address() {
    let now = Instant::now();
    let mut ledger = ledger();
    let first = request("u1", "s1", &[("eth1", "a")]);
    ledger.claim_applied(claim(&first, 0, "a", "10.0.0.10", "c1"), now);
    let mut second = request("u2", "s2", &[("eth1", "a")]);
    second.pod.clone_from(&first.pod);
    assert_eq!(picked(&ledger.plan(&second, now).expect("free")), ["10.0.0.11"]);
}

#[test]
fn when_one_interface_is_refused_none_keeps_an_address() {
    let now = Instant::now();
    let mut ledger = ledger();
    for number in 0..3 {
        let pod = request(&format!("full{number}"), "s", &[("eth1", "b")]);
        ledger.claim_applied(claim(&pod, 0, "b", &format!("10.0.0.2{number}"), &format!("c{number}")), now);
    }
    for _ in 0..5 {
        let refused = ledger.plan(&request("u1", "s1", &[("eth1", "a"), ("eth2", "b")]), now);
        let error = PlanError::Refused { index: 1, error: exhausted("b", 3) };
        assert_eq!(refused.expect_err("b is exhausted"), error);
    }
    assert_eq!(ledger.report("a", now).expect("known").used, 0);
}

fn exhausted(pool: &str, count: u128) -> PickError {
    let usage = trunkline_ipam::PoolUsage {
        name: pool.to_owned(),
        used: count,
        total: count,
        quarantined: 0,
        deleting: false,
        shared_with: Vec::new(),
        problems: Vec::new(),
    };
    PickError::Exhausted { family: Family::V4, pools: vec![usage] }
}

#[test]
fn nothing_is_given_from_a_pool_before_it_carries_the_finalizer() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.pool_applied(PoolObject { guarded: false, ..pool("a", "10.0.0.10", "10.0.0.12") });
    let asked = request("u1", "s1", &[("eth1", "a"), ("eth2", "b")]);
    let unguarded = PlanError::Unguarded(BTreeSet::from(["a".to_owned()]));
    assert_eq!(ledger.plan(&asked, now).expect_err("unguarded"), unguarded);
    assert_eq!(ledger.report("b", now).expect("known").used, 0);
    ledger.set_guarded("a", true);
    assert_eq!(picked(&ledger.plan(&asked, now).expect("guarded")), ["10.0.0.10", "10.0.0.20"]);
}

#[test]
fn the_finalizer_goes_only_while_nothing_is_claimed_or_about_to_be() {
    let now = Instant::now();
    let mut ledger = ledger();
    let asked = request("u1", "s1", &[("eth1", "a")]);
    let plan = ledger.plan(&asked, now).expect("free");
    assert!(!ledger.unguard("a"), "an address is set aside");
    ledger.give_up(&plan.interfaces[0].picks[0], &asked.owner("eth1"), now);
    assert!(ledger.unguard("a"));
    assert!(matches!(ledger.plan(&asked, now), Err(PlanError::Unguarded(_))));
}

#[test]
fn an_address_that_turns_out_to_be_taken_is_marked_and_the_next_one_picked() {
    let now = Instant::now();
    let mut ledger = ledger();
    let asked = request("u1", "s1", &[("eth1", "a")]);
    let plan = ledger.plan(&asked, now).expect("free");
    let holder = claim(&request("u9", "s9", &[("eth1", "a")]), 0, "a", "10.0.0.10", "c9");
    let next = ledger.pick_instead(&asked, 0, &plan.interfaces[0].picks[0], Some(holder), now).expect("free");
    assert_eq!(next.address.to_string(), "10.0.0.11");
    assert_eq!(ledger.of_pod("u9", "", &[]).len(), 1);
    assert_eq!(ledger.report("a", now).expect("known").used, 2);
}

#[test]
fn what_an_earlier_sandbox_had_and_the_new_one_does_not_ask_for_is_obsolete() {
    let now = Instant::now();
    let mut ledger = ledger();
    let first = request("u1", "s1", &[("eth1", "a"), ("eth2", "b")]);
    ledger.claim_applied(claim(&first, 0, "a", "10.0.0.10", "c1"), now);
    ledger.claim_applied(claim(&first, 1, "b", "10.0.0.20", "c2"), now);
    let names = |plan: &Plan| plan.obsolete.iter().map(|claim| claim.name.clone()).collect::<Vec<_>>();
    let moved = ledger.plan(&request("u1", "s2", &[("eth1", "b")]), now).expect("free");
    assert_eq!(names(&moved), ["a.ip-10-0-0-10", "b.ip-10-0-0-20"]);
    let same_sandbox = ledger.plan(&request("u1", "s1", &[("eth1", "a")]), now).expect("held");
    assert_eq!(
        names(&same_sandbox),
        [] as [&str; 0],
        "an interface that is attached later names itself alone"
    );
}

#[test]
fn the_end_of_an_old_object_does_not_free_the_new_one_s_address() {
    let now = Instant::now();
    let mut ledger = ledger();
    let (old, new) = (request("u1", "s1", &[("eth1", "a")]), request("u2", "s2", &[("eth1", "a")]));
    let old = claim(&old, 0, "a", "10.0.0.10", "c1");
    ledger.claim_applied(old.clone(), now);
    ledger.claim_removed(&old, Release::NeverAnnounced, now);
    ledger.claim_applied(claim(&new, 0, "a", "10.0.0.10", "c2"), now);
    // The watch is late: it tells of the first object's life and death now.
    ledger.claim_applied(old.clone(), now);
    ledger.claim_deleted(&old.name, "c1", now);
    assert_eq!(ledger.of_pod("u2", "", &[]).len(), 1);
    assert_eq!(ledger.of_pod("u1", "", &[]), []);
    assert_eq!(ledger.report("a", now).expect("known").used, 1);
}

#[test]
fn a_relist_that_is_older_than_a_claim_does_not_forget_it() {
    let now = Instant::now();
    let mut ledger = ledger();
    let (old, new) = (request("u1", "s1", &[("eth1", "a")]), request("u2", "s2", &[("eth1", "a")]));
    let old = claim(&old, 0, "a", "10.0.0.10", "c1");
    ledger.claim_applied(old.clone(), now);
    ledger.claims_listing();
    ledger.claim_applied(claim(&new, 0, "a", "10.0.0.11", "c2"), now);
    ledger.claims_done(now);
    assert_eq!(ledger.of_pod("u1", "", &[]), [], "not in the list, and older than it");
    assert_eq!(ledger.of_pod("u2", "", &[]).len(), 1, "created while the list was read");
    ledger.claim_removed(&claim(&new, 0, "a", "10.0.0.11", "c2"), Release::Announced, now);
    ledger.claims_listing();
    ledger.claims_done(now);
    assert!(ledger.buried.is_empty(), "what a whole list did not name needs no memory");
}

#[test]
fn claims_are_found_by_pod_sandbox_interface_and_node() {
    let now = Instant::now();
    let mut ledger = ledger();
    let asked = request("u1", "s1", &[("eth1", "a"), ("eth2", "b")]);
    ledger.claim_applied(claim(&asked, 0, "a", "10.0.0.10", "c1"), now);
    ledger.claim_applied(claim(&asked, 1, "b", "10.0.0.20", "c2"), now);
    let eth2 = ["eth2".to_owned()];
    assert_eq!(ledger.of_pod("u1", "", &[]).len(), 2);
    assert_eq!(
        ledger.of_pod("u1", "s0", &[]).len(),
        0,
        "an older sandbox's end frees nothing of the new one"
    );
    assert_eq!(ledger.of_pod("u1", "s1", &eth2).len(), 1);
    assert_eq!((ledger.of_node("n1").len(), ledger.of_node("n2").len()), (2, 0));
}

#[test]
fn a_restarted_controller_goes_on_from_the_saved_cursor() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    ledger.pool_applied(PoolObject {
        cursor: Some("10.0.0.11".to_owned()),
        ..pool("a", "10.0.0.10", "10.0.0.12")
    });
    let plan = ledger.plan(&request("u1", "s1", &[("eth1", "a")]), now).expect("free");
    assert_eq!(picked(&plan), ["10.0.0.11"]);
    // The watch's echo of an old cursor does not set it back.
    ledger.pool_applied(PoolObject {
        cursor: Some("10.0.0.11".to_owned()),
        ..pool("a", "10.0.0.10", "10.0.0.12")
    });
    let plan = ledger.plan(&request("u2", "s2", &[("eth1", "a")]), now).expect("free");
    assert_eq!(picked(&plan), ["10.0.0.12"]);
}

#[test]
fn networks_decide_which_pools_overlap() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.pool_applied(PoolObject {
        spec: PoolSpec { vlan: 200, ..pool("c", "10.0.0.10", "10.0.0.12").spec },
        ..pool("c", "10.0.0.10", "10.0.0.12")
    });
    let overlaps = |ledger: &mut Ledger| ledger.report("a", now).expect("known").overlaps.len();
    assert_eq!(overlaps(&mut ledger), 0);
    ledger.take_dirty();
    let nad = NadFacts { vlan: Some(100), bridge: None, pools: vec!["c".to_owned()] };
    ledger.set_nad("ns/other".to_owned(), Some(nad));
    assert_eq!(overlaps(&mut ledger), 1);
    assert_eq!(ledger.take_dirty(), ["a", "c"], "both are told");
    ledger.set_nad("ns/other".to_owned(), None);
    assert_eq!(overlaps(&mut ledger), 0);
}

#[test]
fn a_conflict_is_reported_until_its_rest_ends() {
    let now = Instant::now();
    let mut ledger = ledger();
    let at = "10.0.0.10".parse().expect("an address");
    ledger.quarantine("a", at, Duration::from_secs(600), now);
    assert_eq!(ledger.report("a", now).expect("known").conflicts, [at]);
    assert_eq!(
        ledger.report("a", now + Duration::from_secs(600)).expect("known").conflicts,
        [] as [IpAddr; 0]
    );
}
