//! Two replicas against a real API server: one leads, the other takes over.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use support::{ControlPlane, ask, assets, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_other_replica_takes_over_and_nothing_is_given_twice() {
    let Some(assets) = assets() else { return };
    let plane = ControlPlane::start(&assets).await;
    plane.node("n1").await;
    plane.pool("v4", "10.0.0.1", 24, "10.0.0.10", "10.0.0.200").await;
    let mut replicas = [plane.controller("c1"), plane.controller("c2")];
    let mut agent = plane.agent_of("n1").await;
    let pods = [plane.pod("a", "n1").await, plane.pod("b", "n1").await, plane.pod("c", "n1").await];
    let given = agent.addresses(ask(&pods[0], "n1", "s", &[("eth1", &["v4"])])).await.expect("given");

    let (leader, _) = plane.leader().await.expect("a leader");
    let index = usize::from(leader.starts_with("c2"));
    replicas[index].kill();
    eventually("the other leads", async || plane.leader().await.filter(|(holder, _)| *holder != leader))
        .await;
    let mut agent = plane.agent_of("n1").await;
    let again = agent.addresses(ask(&pods[0], "n1", "s2", &[("eth1", &["v4"])])).await.expect("kept");
    assert_eq!(again, given, "the same key keeps its address over a change of the leader");
    let next = agent.addresses(ask(&pods[1], "n1", "s", &[("eth1", &["v4"])])).await.expect("given");
    assert_ne!(next, given);

    // A replica that ends in order gives the Lease up; the next one need not wait for it to run out.
    let name = if index == 0 { "c1" } else { "c2" };
    replicas[index] = plane.controller(name);
    let (leader, _) = plane.leader().await.expect("a leader");
    eventually("the new replica follows", async || plane.log(name).contains("serving").then_some(())).await;
    let start = std::time::Instant::now();
    replicas[1 - index].terminate();
    eventually("the new one leads", async || plane.leader().await.filter(|(holder, _)| *holder != leader))
        .await;
    assert!(start.elapsed().as_secs() < 6, "it took {:?}", start.elapsed());
    let mut agent = plane.agent_of("n1").await;
    assert_eq!(agent.list("n1").await.expect("a list").len(), 2);
    agent.addresses(ask(&pods[2], "n1", "s", &[("eth1", &["v4"])])).await.expect("given");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_lead_names_the_one_that_does() {
    let Some(assets) = assets() else { return };
    let plane = ControlPlane::start(&assets).await;
    plane.node("n1").await;
    let _first = plane.controller("c1");
    let mut agent = plane.agent_of("n1").await;
    agent.list("n1").await.expect("served");
    let (leader, address) = plane.leader().await.expect("a leader");
    let _second = plane.controller("c2");
    let line = eventually("c2 serves", async || {
        plane.log("c2").lines().find(|line| line.contains("serving")).map(str::to_owned)
    })
    .await;
    let other = line.rsplit_once("address=").expect("it says where").1.trim().to_owned();
    assert_ne!(other, address);
    let token = plane.token("trunkline-agent", trunkline_ipam::TOKEN_AUDIENCE, Some("n1")).await;
    let refused = eventually("c2 knows the leader", async || {
        let refused = plane.agent_at(&other, &token).await.list("n1").await.expect_err("a follower");
        refused.message().contains(&leader).then_some(refused)
    })
    .await;
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}
