//! What is ownerless. Pure but for one question to the kernel: is a namespace still there.
//!
//! Owns the two-looks rule; must never remove anything.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use trunkline_ipam::proto::Claim;

use crate::attach::Sandbox;
use crate::bridge::PodPortRow;
use crate::netns::{NetnsError, NetnsFd};

/// One ownerless thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sighting {
    /// A port whose sandbox's namespace is gone.
    Port {
        /// Whose it was.
        sandbox: Sandbox,
        /// Its name.
        port: String,
    },
    /// A host link of ours that no port uses.
    Link {
        /// Its name.
        name: String,
    },
    /// Addresses claimed for a sandbox that has no port.
    Claim {
        /// Whose they are.
        sandbox: Sandbox,
        /// On which interface.
        interface: String,
    },
}

impl Sighting {
    /// UID of the pod that it belonged to; empty when it cannot be told.
    pub(super) fn uid(&self) -> &str {
        match self {
            Self::Port { sandbox, .. } | Self::Claim { sandbox, .. } => &sandbox.uid,
            Self::Link { .. } => "",
        }
    }

    /// For the metric.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Port { .. } => "port",
            Self::Link { .. } => "link",
            Self::Claim { .. } => "address",
        }
    }
}

/// Confirms a sighting when it is made twice in a row.
#[derive(Default)]
pub(super) struct TwoLooks {
    before: BTreeSet<Sighting>,
    fresh: bool,
}

impl TwoLooks {
    /// What was seen now and the time before.
    pub(super) fn confirm(&mut self, now: BTreeSet<Sighting>) -> Vec<Sighting> {
        let confirmed = now.intersection(&self.before).cloned().collect();
        self.fresh = now.difference(&self.before).next().is_some();
        self.before = now;
        confirmed
    }

    /// Was something seen that the look before had not seen.
    pub(super) fn awaits_another(&self) -> bool {
        self.fresh
    }
}

/// Is the namespace certainly gone: no such path, or nothing mounted on it any more. Trouble of another kind is not
/// an answer.
pub(super) fn is_gone(netns: &Path) -> bool {
    match NetnsFd::open(netns) {
        Err(NetnsError::NotANetns { .. }) => true,
        Err(NetnsError::Open { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
        Ok(_) | Err(_) => false,
    }
}

/// Claims of sandboxes that have no port at all on this node.
pub(super) fn claims_without_port(claims: &[Claim], rows: &[PodPortRow]) -> Vec<Sighting> {
    let with_port: HashSet<(&str, &str)> =
        rows.iter().map(|row| (row.sandbox.as_str(), row.interface.as_str())).collect();
    claims
        .iter()
        .filter(|claim| !with_port.contains(&(claim.sandbox.as_str(), claim.interface.as_str())))
        .filter_map(|claim| {
            let pod = claim.pod.as_ref()?;
            let sandbox = Sandbox {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                id: claim.sandbox.clone(),
                netns: std::path::PathBuf::new(),
            };
            Some(Sighting::Claim { sandbox, interface: claim.interface.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Sighting {
        Sighting::Link { name: name.to_owned() }
    }

    #[test]
    fn only_what_is_seen_twice_in_a_row_is_confirmed() {
        let mut looks = TwoLooks::default();
        assert!(looks.confirm(BTreeSet::from([link("a"), link("b")])).is_empty());
        assert!(looks.awaits_another());
        assert_eq!(looks.confirm(BTreeSet::from([link("b"), link("c")])), [link("b")]);
        assert!(looks.confirm(BTreeSet::from([link("c")])).contains(&link("c")));
        assert!(!looks.awaits_another());
        assert!(looks.confirm(BTreeSet::from([link("a")])).is_empty());
    }

    #[test]
    fn a_claim_is_ownerless_where_its_sandbox_has_no_port_for_that_interface() {
        let claim = |sandbox: &str, interface: &str| Claim {
            pod: Some(trunkline_ipam::proto::Pod {
                namespace: "default".into(),
                name: "p".into(),
                uid: "u".into(),
            }),
            sandbox: sandbox.into(),
            interface: interface.into(),
            ..Claim::default()
        };
        let row = |sandbox: &str, interface: &str| PodPortRow {
            sandbox: sandbox.into(),
            interface: interface.into(),
            ..PodPortRow::default()
        };
        let nameless = Claim { pod: None, ..claim("s3", "eth1") };
        let claims = [claim("s1", "eth1"), claim("s1", "eth2"), claim("s2", "eth1"), nameless];
        let seen = claims_without_port(&claims, &[row("s1", "eth1"), row("s2", "eth2")]);
        let seen: Vec<_> = seen
            .iter()
            .map(|one| match one {
                Sighting::Claim { sandbox, interface } => (sandbox.id.as_str(), interface.as_str()),
                other => panic!("{other:?} is no claim"),
            })
            .collect();
        assert_eq!(seen, [("s1", "eth2"), ("s2", "eth1")], "nobody is asked to release what names no pod");
    }

    #[test]
    fn a_namespace_is_gone_when_its_path_is_missing_or_nothing_is_mounted_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").expect("writable");
        assert!(is_gone(&plain));
        assert!(is_gone(&dir.path().join("missing")));
        assert!(!is_gone(Path::new("/proc/self/ns/net")));
    }
}
