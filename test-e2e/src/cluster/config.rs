//! The configuration files of a node: containerd's, kubelet's, the primary CNI's.
//!
//! Pure text; writing it is the node's.

use std::path::Path;

use serde_json::json;

use super::node::Generation;

/// The socket that kubelets and people look for first.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd's configuration. Version 2 of it is what both generations read.
pub(super) fn containerd(runc: &Path, certs: &Path, sandbox_image: &str) -> String {
    // No negative oom_score_adj without CAP_SYS_RESOURCE, no AppArmor profile on machines without it,
    // and cgroups by path, since a namespace has no systemd.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox_image}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
BinaryName = "{}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{}"
"#,
        runc.display(),
        certs.display(),
    )
}

/// The primary CNI: the reference bridge plugin, in the conflist version of this generation.
pub(super) fn primary_cni(generation: Generation, pod_cidr: &str) -> String {
    json!({
        "cniVersion": generation.conflist_version(),
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": "/var/lib/cni/networks",
                "ranges": [[{"subnet": pod_cidr}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}

/// The folder of a node's static pods.
pub(super) const STATIC_PODS: &str = "/var/lib/kubelet/static";

/// What a kubelet's configuration depends on.
pub(super) struct Kubelet<'a> {
    /// The node's address.
    pub(super) address: &'a str,
    /// The cluster's CA.
    pub(super) ca: &'a Path,
    /// Serving certificate.
    pub(super) cert: &'a Path,
    /// Its key.
    pub(super) key: &'a Path,
    /// The cgroup of this node.
    pub(super) cgroup: &'a str,
}

/// kubelet's configuration, as JSON, which it reads as YAML.
pub(super) fn kubelet(of: &Kubelet<'_>) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": of.address,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": of.ca},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": of.cert,
        "tlsPrivateKeyFile": of.key,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", of.cgroup),
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "volumePluginDir": "/var/lib/kubelet/plugins-exec",
        "staticPodPath": STATIC_PODS,
        "registerNode": true,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "clusterDNS": ["10.96.0.10"],
        // A full disk or little memory of a developer's machine must not evict pods.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%",
            "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        // How soon a changed ConfigMap reaches its pods; the default is a minute.
        "syncFrequency": "10s",
    })
    .to_string()
}
