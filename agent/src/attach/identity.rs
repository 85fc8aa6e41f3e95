//! Who is being attached, and the names that follow from it.
//!
//! Owns the pod's identity as a CNI call states it and everything derived from identity: MAC addresses, network namespace paths. Pure; must never look at the node.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use trunkline_api::MacAddr;

use crate::server::SandboxRequest;

/// Prefix of every host-side link that the agent makes.
pub const HOST_LINK_PREFIX: &str = "tl";

/// One pod sandbox, as the runtime names it in a CNI call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sandbox {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod UID. A static pod's is its configuration hash, not its mirror pod's UID (design decision 4).
    pub uid: String,
    /// CNI container id.
    pub id: String,
    /// Path of the sandbox's network namespace, as seen by the agent.
    pub netns: PathBuf,
}

impl Sandbox {
    /// Reads the identity out of a request. A runtime that names no UID (containerd before 1.5) gives the pod's
    /// namespace and name instead; such a pod is known by those.
    pub fn from_request(request: &SandboxRequest) -> Self {
        let uid = request.pod_uid.clone();
        Self {
            uid: uid.unwrap_or_else(|| format!("{}/{}", request.pod_namespace, request.pod_name)),
            namespace: request.pod_namespace.clone(),
            name: request.pod_name.clone(),
            id: request.container_id.clone(),
            netns: request.netns.as_deref().map(node_path).unwrap_or_default(),
        }
    }

    /// `namespace/name`, as people write it.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// `/var/run` is a link to `/run` on every current distribution; the agent's own mount namespace only has `/run`.
fn node_path(netns: &Path) -> PathBuf {
    match netns.strip_prefix("/var/run/") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => netns.to_owned(),
    }
}

/// Is this the name of a host link that the agent made.
pub fn is_host_link_name(name: &str) -> bool {
    name.len() == 15
        && name
            .strip_prefix(HOST_LINK_PREFIX)
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// The MAC address of an interface that requests none: unicast, locally administered, and the same for every
/// sandbox of the pod, so that neighbours' caches stay right over a restart of the sandbox.
pub fn stable_mac(uid: &str, interface: &str) -> MacAddr {
    let digest = Sha256::digest(format!("mac/{uid}/{interface}"));
    MacAddr::local([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::host_veth_name;

    #[test]
    fn host_links_of_ours_are_told_from_everybody_elses() {
        assert!(is_host_link_name(&host_veth_name("0123456789abcdef", "eth1")));
        for foreign in ["tl", "tlan0", "eth0", "tl0123456789abz", "tl0123456789abcd"] {
            assert!(!is_host_link_name(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_stable_mac_is_unicast_and_local_and_follows_the_pod() {
        let mac = stable_mac("uid-1", "eth1");
        assert_eq!(mac, stable_mac("uid-1", "eth1"));
        assert_ne!(mac, stable_mac("uid-1", "eth2"));
        let first = mac.octets()[0];
        assert_eq!(first & 0x03, 0x02);
    }

    #[test]
    fn namespaces_are_looked_for_where_the_agent_sees_them() {
        assert_eq!(node_path(Path::new("/var/run/netns/x")), PathBuf::from("/run/netns/x"));
        assert_eq!(node_path(Path::new("/proc/7/ns/net")), PathBuf::from("/proc/7/ns/net"));
    }
}
