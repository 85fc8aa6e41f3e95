//! The Job's shape, from the agents' manifest itself.

use super::*;

const MANIFEST: &str = include_str!("../../../../manifests/base/agent.yaml");

fn agents() -> DaemonSet {
    serde_norway::from_str(MANIFEST).expect("the agents' manifest is a DaemonSet")
}

#[test]
fn the_job_is_the_agents_pod_with_other_arguments() {
    let job = Template::new(Some(&agents()), None).job("n1", Phase::Undo);
    let pod = job.spec.expect("a spec").template.spec.expect("a pod");
    assert_eq!(pod.node_name.as_deref(), Some("n1"));
    assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
    assert_eq!(pod.host_network, Some(true));
    assert!(pod.affinity.is_none() && pod.node_selector.is_none());
    let [container] = &pod.containers[..] else { panic!("one container") };
    assert_eq!(container.args, Some(vec!["uninstall-node".to_owned()]));
    assert!(container.readiness_probe.is_none() && container.ports.is_none());
    let volumes: BTreeSet<String> =
        pod.volumes.expect("volumes").into_iter().map(|volume| volume.name).collect();
    let mounts = container.volume_mounts.as_ref().expect("mounts");
    assert!(mounts.iter().all(|mount| volumes.contains(&mount.name)));
    for folder in ["/etc/cni/net.d", "/opt/cni/bin", "/run/trunkline", "/var/lib/trunkline"] {
        assert!(mounts.iter().any(|mount| mount.mount_path == folder), "{folder}");
    }
}

#[test]
fn the_second_job_removes_files_alone() {
    let job = Template::new(None, None).job("n1", Phase::Files);
    let pod = job.spec.expect("a spec").template.spec.expect("a pod");
    assert_eq!(pod.containers[0].args, Some(vec!["uninstall-node".to_owned(), "--files".to_owned()]));
}

#[test]
fn without_agents_the_manifests_folders_are_known_all_the_same() {
    let paths = |spec: &PodSpec| -> BTreeSet<String> {
        let volumes = spec.volumes.iter().flatten();
        volumes.filter_map(|volume| Some(volume.host_path.as_ref()?.path.clone())).collect()
    };
    let (known, manifest) = (Template::new(None, Some("x:1")), Template::new(Some(&agents()), None));
    assert_eq!(paths(&known.0), paths(&manifest.0));
    assert_eq!(known.0.containers[0].image.as_deref(), Some("x:1"));
    assert_eq!(known.0.tolerations, manifest.0.tolerations);
}

#[test]
fn outcomes_are_read_from_conditions() {
    for (condition, expected) in
        [(None, Outcome::Running), (Some("Complete"), Outcome::Done), (Some("Failed"), Outcome::Failed)]
    {
        let conditions: Vec<_> =
            condition.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect();
        let job: Job =
            serde_json::from_value(json!({ "status": { "conditions": conditions } })).expect("a Job");
        assert_eq!(outcome(&job), expected);
    }
}
