//! The whole service against a real API server: one replica, agents of two nodes.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::HashSet;

use support::{ControlPlane, ask, assets, eventually};
use tonic::Code;
use trunkline_ipam::{TOKEN_AUDIENCE, proto};

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_addresses_from_pools_and_give_them_back() {
    let Some(assets) = assets() else { return };
    let plane = ControlPlane::start(&assets).await;
    for node in ["n1", "n2"] {
        plane.node(node).await;
    }
    plane.pool("v4", "10.0.0.1", 24, "10.0.0.0", "10.0.0.12").await;
    plane.pool("v6", "fd00::1", 64, "fd00::", "fd00::ffff:ffff:ffff:ffff").await;
    plane.pool("tiny", "10.1.0.1", 24, "10.1.0.10", "10.1.0.10").await;
    let _controller = plane.controller("c1");
    let mut agent = plane.agent_of("n1").await;

    dual_stack_is_given_and_a_new_sandbox_keeps_it(&plane, &mut agent).await;
    a_partial_failure_leaves_nothing(&plane, &mut agent).await;
    requested_addresses_are_honoured_or_refused(&plane, &mut agent).await;
    callers_are_judged(&plane, &mut agent).await;
    a_conflict_is_noted(&plane, &mut agent).await;
    objects_that_exist_already_are_stepped_over(&plane, &mut agent).await;
    pods_that_go_give_their_addresses_back(&plane, &mut agent).await;
}

async fn dual_stack_is_given_and_a_new_sandbox_keeps_it(plane: &ControlPlane, agent: &mut support::Agent) {
    let pod = plane.pod("dual", "n1").await;
    let interfaces: &[(&str, &[&str])] = &[("eth1", &["v4", "v6"]), ("eth2", &["v4"])];
    let given = agent.addresses(ask(&pod, "n1", "s1", interfaces)).await.expect("given");
    assert_eq!(given, ["eth1 v4 10.0.0.2/24", "eth1 v6 fd00::2/64", "eth2 v4 10.0.0.3/24"]);
    let names = ["v4.ip-10-0-0-2", "v4.ip-10-0-0-3", "v6.ip6-fd000000000000000000000000000002"];
    assert_eq!(plane.allocation_names().await, names);
    let again = agent.addresses(ask(&pod, "n1", "s2", interfaces)).await.expect("given again");
    assert_eq!(again, given);
    let object = plane.allocations().get("v4.ip-10-0-0-2").await.expect("the object");
    assert_eq!((object.spec.owner.sandbox.as_str(), object.spec.node.as_str()), ("s2", "n1"));
    assert_eq!(
        agent.release(&pod, "n1", "s1").await.expect("a success"),
        [] as [&str; 0],
        "s1 holds nothing"
    );
    assert_eq!(agent.list("n1").await.expect("a list").len(), 3);
    eventually("usage is in the status", async || {
        let status = plane.pools().get("v4").await.ok()?.status?;
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        status.usage.filter(|usage| (usage.total, usage.used) == (11, 2) && ready)
    })
    .await;
    assert_eq!(agent.release(&pod, "n1", "s2").await.expect("released").len(), 3);
    assert_eq!(plane.allocation_names().await, [] as [&str; 0]);
}

async fn a_partial_failure_leaves_nothing(plane: &ControlPlane, agent: &mut support::Agent) {
    let (holder, pod) = (plane.pod("holder", "n1").await, plane.pod("partial", "n1").await);
    agent.allocate(ask(&holder, "n1", "s", &[("eth1", &["tiny"])])).await.expect("given");
    let refused = agent.allocate(ask(&pod, "n1", "s", &[("eth1", &["v4"]), ("eth2", &["tiny"])])).await;
    let refused = refused.expect_err("tiny is exhausted");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let expected =
        "interface eth2 (NAD default/net): no IPv4 address is free: IPPool tiny is exhausted, 1 of 1 in use";
    assert_eq!(refused.message(), expected);
    assert_eq!(plane.allocation_names().await, ["tiny.ip-10-1-0-10"]);
    eventually("the condition Exhausted", async || {
        let status = plane.pools().get("tiny").await.ok()?.status?;
        status.conditions.into_iter().find(|c| c.type_ == "Exhausted" && c.status == "True")
    })
    .await;
    agent.release(&holder, "n1", "").await.expect("released");
}

async fn requested_addresses_are_honoured_or_refused(plane: &ControlPlane, agent: &mut support::Agent) {
    let (first, second) = (plane.pod("wish1", "n1").await, plane.pod("wish2", "n1").await);
    let wish = |pod: &proto::Pod, ip: &str| {
        let mut request = ask(pod, "n1", "s", &[("eth1", &["v4"])]);
        request.interfaces[0].ips = vec![ip.to_owned()];
        request
    };
    assert_eq!(agent.addresses(wish(&first, "10.0.0.9/24")).await.expect("given"), ["eth1 v4 10.0.0.9/24"]);
    for (ip, code, expected) in [
        ("10.0.0.9", Code::AlreadyExists, "in use by interface eth1 of pod default/wish1 (IPPool v4)"),
        ("10.0.0.1", Code::InvalidArgument, "it is the gateway of IPPool v4"),
        ("10.0.0.200", Code::InvalidArgument, "it is in no range of IPPool v4 (10.0.0.0-10.0.0.12)"),
    ] {
        let refused = agent.allocate(wish(&second, ip)).await.expect_err(expected);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(expected), "{refused}");
    }
    agent.release(&first, "n1", "").await.expect("released");
}

async fn callers_are_judged(plane: &ControlPlane, agent: &mut support::Agent) {
    let other = plane.pod("other", "n2").await;
    let refused = agent.allocate(ask(&other, "n1", "s", &[("eth1", &["v4"])])).await.expect_err("n2's pod");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = agent.allocate(ask(&other, "n2", "s", &[("eth1", &["v4"])])).await.expect_err("n2's call");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut of_n2 = plane.agent_of("n2").await;
    of_n2.allocate(ask(&other, "n2", "s", &[("eth1", &["v4"])])).await.expect("its own");
    assert_eq!(
        agent.release(&other, "n1", "").await.expect("no error"),
        [] as [&str; 0],
        "not ours to release"
    );
    assert_eq!(of_n2.release(&other, "n2", "").await.expect("released").len(), 1);
    let ghost = proto::Pod { uid: "00000000-0000-0000-0000-000000000000".to_owned(), ..other.clone() };
    let refused = of_n2.allocate(ask(&ghost, "n2", "s", &[("eth1", &["v4"])])).await.expect_err("an old UID");
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    for (account, audience, node, code) in [
        ("trunkline-agent", TOKEN_AUDIENCE, None, Code::PermissionDenied),
        ("default", TOKEN_AUDIENCE, Some("n1"), Code::PermissionDenied),
        ("trunkline-agent", "https://kubernetes.default.svc", Some("n1"), Code::Unauthenticated),
    ] {
        let token = plane.token(account, audience, node).await;
        let refused = plane.agent(&token).await.list("n1").await.expect_err("refused");
        assert_eq!(refused.code(), code, "{account} {audience} {node:?}: {refused}");
    }
}

async fn a_conflict_is_noted(plane: &ControlPlane, agent: &mut support::Agent) {
    let pod = plane.pod("conflict", "n1").await;
    let given = agent.allocate(ask(&pod, "n1", "s", &[("eth1", &["tiny"])])).await.expect("given");
    let address = given.interfaces[0].addresses[0].address.clone();
    let report = proto::ReportConflictRequest {
        pod: Some(pod.clone()),
        node: "n1".to_owned(),
        interface: "eth1".to_owned(),
        address,
        pool: "tiny".to_owned(),
        answered_by: "02:00:00:00:00:01".to_owned(),
    };
    agent.report(report.clone()).await.expect("noted");
    agent.release(&pod, "n1", "").await.expect("released");
    let refused = agent.allocate(ask(&pod, "n1", "s", &[("eth1", &["tiny"])])).await.expect_err("it rests");
    assert!(refused.message().contains("1 resting after an address conflict"), "{refused}");
    assert_eq!(agent.report(report).await.expect_err("not held").code(), Code::NotFound);
    eventually("the Event", async || {
        let events: kube::Api<k8s_openapi::api::events::v1::Event> = kube::Api::all(plane.client.clone());
        let events = events.list(&kube::api::ListParams::default()).await.ok()?;
        events.into_iter().find(|event| {
            event.reason.as_deref() == Some("AddressConflict")
                && event.reporting_controller.as_deref() == Some("trunkline.io/controller")
                && event.note.as_ref().is_some_and(|note| note.contains("02:00:00:00:00:01"))
        })
    })
    .await;
}

async fn objects_that_exist_already_are_stepped_over(plane: &ControlPlane, agent: &mut support::Agent) {
    // As another leader would have claimed them, unseen by this one until it asks.
    let pod = plane.pod("late", "n1").await;
    let next = plane.pools().get("v4").await.expect("the pool").status.and_then(|status| status.cursor);
    let next: std::net::IpAddr = next.expect("a cursor").parse().expect("an address");
    let object = trunkline_api::IPAllocation::new(
        &trunkline_api::allocation_name("v4", next),
        trunkline_api::IPAllocationSpec {
            pool: "v4".to_owned(),
            address: next,
            node: "n2".to_owned(),
            owner: trunkline_api::AllocationOwner {
                pod_namespace: "default".to_owned(),
                pod_name: "other".to_owned(),
                pod_uid: "gone".to_owned(),
                sandbox: "s".to_owned(),
                interface: "eth1".to_owned(),
                nad: "default/net".to_owned(),
            },
        },
    );
    plane.allocations().create(&kube::api::PostParams::default(), &object).await.expect("created");
    let given = agent.addresses(ask(&pod, "n1", "s", &[("eth1", &["v4"])])).await.expect("given");
    assert!(!given[0].contains(&format!("{next}/")), "{given:?}");
    agent.release(&pod, "n1", "").await.expect("released");
    // Its pod does not exist, so it is collected after the grace period.
    eventually("the stranger is collected", async || plane.allocation_names().await.is_empty().then_some(()))
        .await;
}

async fn pods_that_go_give_their_addresses_back(plane: &ControlPlane, agent: &mut support::Agent) {
    let pods = [plane.pod("g1", "n1").await, plane.pod("g2", "n1").await];
    let mut given = HashSet::new();
    for pod in &pods {
        given.extend(agent.addresses(ask(pod, "n1", "s", &[("eth1", &["v4"])])).await.expect("given"));
    }
    assert_eq!(given.len(), 2);
    let pool = plane.pools().get("v4").await.expect("the pool");
    assert_eq!(pool.metadata.finalizers, Some(vec![trunkline_api::POOL_FINALIZER.to_owned()]));
    plane.pools().delete("v4", &kube::api::DeleteParams::default()).await.expect("asked");
    plane.delete_pod("g1").await;
    eventually("g1's address is collected", async || {
        (plane.allocation_names().await.len() == 1).then_some(())
    })
    .await;
    assert!(plane.pools().get_opt("v4").await.expect("read").is_some(), "g2 still has an address of it");
    let late = plane.pod("g3", "n1").await;
    let refused = agent.allocate(ask(&late, "n1", "s", &[("eth1", &["v4"])])).await.expect_err("deleting");
    assert!(refused.message().contains("IPPool v4 is being deleted"), "{refused}");
    agent.release(&pods[1], "n1", "").await.expect("released");
    eventually("the pool goes", async || plane.pools().get_opt("v4").await.ok()?.is_none().then_some(()))
        .await;
}
