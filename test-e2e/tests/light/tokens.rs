//! What an agent's token is good for: its own node's pods, our annotation, and nothing else.

use std::fs;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use trunkline_e2e::control_plane::User;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::node::IPAM_AUDIENCE;
use trunkline_e2e::light::{LightCluster, LightOptions};
use trunkline_e2e::objects::{self, PodSpec, kubelet_client, node_bound_token};
use trunkline_e2e::suite::Suite;

static SUITE: Suite = Suite::new("tokens", || LightOptions::nodes(2), setup);

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        network("default", "net", &json!({"ipam": ipam(&["a4"])})),
    ];
    cluster.apply(&all.concat())
}

async fn patch_status(client: &Client, pod: &str, patch: Value) -> kube::Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(patch)).await
}

fn annotate(key: &str) -> Value {
    json!({"metadata": {"annotations": {key: "[]"}}})
}

#[test]
fn an_agent_may_write_our_annotation_on_its_own_nodes_pods_only() -> Result<()> {
    SUITE.test(async |cluster| {
        let key = "k8s.v1.cni.cncf.io/network-status";
        for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
            objects::create_pod(cluster.client(), &PodSpec::plain(name), node).await?;
        }
        let agent = cluster.plane().client_as(&User::Token(cluster.node(1).api_token()?)).await?;
        patch_status(&agent, "mine", annotate(key)).await.context("our own annotation was refused")?;
        let cases = [
            ("theirs", annotate(key), "own node"),
            ("mine", annotate("example.test/other"), key),
            ("mine", json!({"status": {"phase": "Failed"}}), "status"),
        ];
        for (pod, patch, word) in cases {
            let refusal = patch_status(&agent, pod, patch.clone()).await.err();
            let refusal = refusal.with_context(|| format!("{patch} of {pod} was accepted"))?.to_string();
            assert!(refusal.contains(word), "{refusal}");
        }
        // A kubelet's own patches are never judged.
        let kubelet = kubelet_client(cluster.plane(), "n2").await?;
        patch_status(&kubelet, "theirs", json!({"status": {"phase": "Running"}}))
            .await
            .context("a kubelet was judged")?;
        for name in ["mine", "theirs"] {
            objects::delete_pod(cluster.client(), "default", name).await?;
        }
        Ok(())
    })
}

#[test]
fn no_other_token_gets_addresses_for_a_nodes_pods() -> Result<()> {
    SUITE.test(async |cluster| {
        let (client, node) = (cluster.client(), cluster.node(1));
        let own = fs::read_to_string(node.ipam_token())?;
        let theirs = fs::read_to_string(cluster.node(2).ipam_token())?;
        let cases = [
            ("the other node's", theirs),
            (
                "one of another audience",
                node_bound_token(client, "trunkline-agent", &node.object(), "").await?,
            ),
            (
                "another account's",
                node_bound_token(client, "trunkline-controller", &node.object(), IPAM_AUDIENCE).await?,
            ),
            ("an invented one", "ey.ey.ey".to_owned()),
        ];
        for (number, (whose, token)) in cases.into_iter().enumerate() {
            fs::write(node.ipam_token(), token)?;
            restart(cluster).await?;
            let name = format!("thief-{number}");
            let object = objects::create_pod(client, &PodSpec::with_networks(&name, "net"), "n1").await?;
            let refusal = cluster
                .try_pod(node, &object)
                .await?
                .err()
                .with_context(|| format!("{whose} token was good"))?;
            eprintln!("{whose} token: {}", refusal.msg);
            assert_eq!(objects::allocations(client).await?.len(), 0, "{whose} token");
            objects::delete_pod(client, "default", &name).await?;
        }
        fs::write(node.ipam_token(), own)?;
        restart(cluster).await?;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("honest", "net")).await?;
        cluster.delete_pod(pod).await
    })
}

/// A restarted agent holds no token that it read before.
async fn restart(cluster: &LightCluster) -> Result<()> {
    cluster.node(1).kill_agent();
    cluster.node(1).start_agent(cluster.plane())?;
    cluster.node(1).wait_agent_ready().await
}
