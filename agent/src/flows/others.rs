//! Taps on interfaces that are not ours: which ones `flows.all` comes to, once what is ours is left out.
//!
//! Pure: sightings and what is ours in, wishes out. A pair's two ends see the same frames, so the pod's end of a pair
//! of ours is left to the tap on the node's end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use trunkline_ebpf::{Tap, Way};

use super::record::{Endpoint, TapIdentity};
use crate::attach::is_host_link_name;
use crate::link::LinkForm;
use crate::netns::NetnsFd;
use crate::netwatch::{Inode, Sighting, Sightings};

/// A tap on an interface that is not ours.
#[derive(Clone, Debug)]
pub(super) struct OtherWish {
    /// What to attach.
    pub(super) tap: Tap,
    /// What it is on.
    pub(super) identity: TapIdentity,
    /// Where; `None` in the agent's own namespace.
    pub(super) namespace: Option<NetnsFd>,
    /// Tells the interface from an earlier one of its index.
    pub(super) instance: u64,
    /// Why it cannot have one.
    pub(super) refused: Option<&'static str>,
}

/// What has a tap of its own or is not to have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ours {
    /// Uplinks, by name.
    pub(super) uplinks: BTreeSet<String>,
    /// The node's ends of pods' ports, with the pod's namespace where that is known.
    pub(super) ports: BTreeMap<String, Option<Inode>>,
    /// Whose a namespace is, of the pods that have a port: any interface in it is that pod's.
    pub(super) pods: BTreeMap<Inode, Endpoint>,
}

impl Ours {
    /// Whether this interface is one of ours. `host_link` names a link of the node by its index.
    fn has(&self, sighting: &Sighting, host_link: impl Fn(u32) -> Option<String>) -> bool {
        let link = &sighting.wanted.link;
        if sighting.namespace.is_none() {
            return is_host_link_name(&link.name) || self.uplinks.contains(&link.name);
        }
        let peer = link.elsewhere.filter(|_| link.kind == "veth").and_then(host_link);
        let Some(peer) = peer.filter(|name| is_host_link_name(name)) else { return false };
        // A port that is not known yet is being made, and so is this end of it.
        self.ports.get(&peer).copied().flatten().is_none_or(|inode| inode == sighting.wanted.inode)
    }
}

/// The name of such a tap: nothing else of ours has an `@` between two numbers.
fn name(sighting: &Sighting) -> String {
    format!("{}@{}", sighting.wanted.link.ifindex, sighting.wanted.inode)
}

/// Whether a tap of this name is on an interface that is not ours.
pub(super) fn is_other(tap: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    tap.split_once('@').is_some_and(|(index, inode)| number(index) && number(inode))
}

/// All wishes, the latest interface first: one that has just come is not to wait for all others.
pub(super) fn all(
    sightings: &Sightings,
    ours: &Ours,
    host_link: impl Fn(u32) -> Option<String>,
    way: Way,
) -> Vec<OtherWish> {
    let others = sightings.interfaces.iter().filter(|sighting| !ours.has(sighting, &host_link));
    let mut wishes: Vec<OtherWish> = others.map(|sighting| of(sighting, ours)).collect();
    if way == Way::Clsact {
        // A filter is seen and taken off in its own namespace only.
        let inside = wishes.iter_mut().filter(|wish| wish.namespace.is_some());
        inside.for_each(|wish| {
            wish.refused = Some("taps in other network namespaces need a kernel of 6.6 or newer");
        });
    }
    wishes.sort_by_key(|wish| std::cmp::Reverse(wish.instance));
    wishes
}

fn of(sighting: &Sighting, ours: &Ours) -> OtherWish {
    let Sighting { wanted, namespace } = sighting;
    let link = &wanted.link;
    let pod = ours.pods.get(&wanted.inode).filter(|_| namespace.is_some());
    let pod = pod.map(|pod| Endpoint { interface: link.name.clone(), ..pod.clone() });
    OtherWish {
        tap: Tap {
            name: name(sighting),
            interface: link.name.clone(),
            ifindex: link.ifindex,
            host_side: false,
            no_ethernet: link.form == LinkForm::Network,
            guarded: false,
        },
        identity: TapIdentity {
            device: link.name.clone(),
            ifindex: link.ifindex,
            interface: link.name.clone(),
            netns: Some(wanted.namespace.clone()),
            pod,
            network: None,
            vlan: None,
            bridge: None,
            since: SystemTime::now(),
        },
        namespace: namespace.clone(),
        instance: wanted.instance,
        refused: (link.form == LinkForm::Unknown)
            .then_some("its frames begin with neither an Ethernet nor an IP header"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::link::LinkSeen;
    use crate::netwatch::Wanted;

    fn sighting(inode: Inode, ifindex: u32, name: &str, instance: u64) -> Sighting {
        let link = LinkSeen {
            ifindex,
            name: name.to_owned(),
            kind: "veth".to_owned(),
            form: LinkForm::Ethernet,
            mac: None,
            elsewhere: None,
        };
        let namespace = if inode == 1 { "host".to_owned() } else { format!("ns{inode}") };
        Sighting { wanted: Wanted { inode, namespace, link, instance }, namespace: None }
    }

    /// As of another namespace; which one is open does not matter here.
    fn inside(inode: Inode, ifindex: u32, peer: Option<u32>) -> Sighting {
        let mut sighting = sighting(inode, ifindex, "eth1", 5);
        sighting.wanted.link.elsewhere = peer;
        sighting.namespace = Some(NetnsFd::own().expect("procfs"));
        sighting
    }

    fn names(sightings: Vec<Sighting>, ours: &Ours) -> Vec<String> {
        let all_of = Sightings { complete: true, namespaces: 1, interfaces: sightings };
        let host_link = |index| (index == 40).then(|| "tl0123456789abc".to_owned());
        all(&all_of, ours, host_link, Way::Tcx).into_iter().map(|wish| wish.tap.name).collect()
    }

    #[test]
    fn equal_interfaces_of_two_namespaces_are_two_taps_and_the_latest_comes_first() {
        let both = vec![sighting(1, 2, "eth0", 1), sighting(7, 2, "eth0", 2)];
        assert_eq!(names(both, &Ours::default()), ["2@7", "2@1"]);
        assert!(
            is_other("2@7") && !is_other("up1") && !is_other("a@1") && !is_other("1@") && !is_other("@1")
        );
    }

    #[test]
    fn uplinks_and_the_nodes_ends_of_pods_are_left_to_their_own_taps() {
        let ours = Ours { uplinks: ["up1".to_owned()].into(), ..Ours::default() };
        let all = ["up1", "tl0123456789abc", "tl0", "eth0"];
        let all = (2..).zip(all).map(|(index, name)| sighting(1, index, name, 9)).collect();
        assert_eq!(names(all, &ours), ["4@1", "5@1"]);
    }

    #[test]
    fn the_pods_end_of_a_pair_of_ours_is_left_to_the_tap_on_the_nodes_end() {
        let mut ours = Ours::default();
        assert!(names(vec![inside(7, 2, Some(40))], &ours).is_empty(), "its port is being made");
        ours.ports.insert("tl0123456789abc".to_owned(), Some(7));
        assert!(names(vec![inside(7, 2, Some(40))], &ours).is_empty());
        assert_eq!(names(vec![inside(8, 2, Some(40))], &ours), ["2@8"], "another namespace's 40");
        assert_eq!(names(vec![inside(7, 2, Some(41)), inside(7, 3, None)], &ours), ["2@7", "3@7"]);
    }

    #[test]
    fn by_clsact_there_are_taps_in_the_agents_own_namespace_only() {
        let interfaces = vec![sighting(1, 2, "eth0", 1), inside(7, 2, None)];
        let sightings = Sightings { complete: true, namespaces: 2, interfaces };
        let refused = all(&sightings, &Ours::default(), |_| None, Way::Clsact);
        let refused: Vec<_> =
            refused.iter().map(|wish| (wish.tap.name.as_str(), wish.refused.is_some())).collect();
        assert_eq!(refused, [("2@7", true), ("2@1", false)]);
    }

    #[test]
    fn interfaces_in_the_namespace_of_a_pod_that_has_a_port_are_that_pods() {
        let pod = Endpoint {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            interface: "net1".to_owned(),
        };
        let ours = Ours { pods: [(7, pod.clone())].into(), ..Ours::default() };
        let found = |sighting| of(&sighting, &ours).identity.pod;
        assert_eq!(found(inside(7, 2, None)), Some(Endpoint { interface: "eth1".to_owned(), ..pod }));
        assert_eq!(found(inside(8, 2, None)), None);
        assert_eq!(found(sighting(7, 2, "eth0", 1)), None, "the node's own, whatever a pod shares with it");
    }

    #[test]
    fn frames_without_an_ethernet_header_are_said_to_be_so() {
        let mut tunnel = sighting(1, 2, "wg0", 1);
        tunnel.wanted.link.form = LinkForm::Network;
        assert!(
            of(&tunnel, &Ours::default()).tap.no_ethernet && of(&tunnel, &Ours::default()).refused.is_none()
        );
        tunnel.wanted.link.form = LinkForm::Unknown;
        assert!(of(&tunnel, &Ours::default()).refused.is_some());
        assert!(Path::new(&of(&tunnel, &Ours::default()).tap.name).as_os_str().len() <= 60);
    }
}
