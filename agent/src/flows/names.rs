//! Who an address of a network was, at a time.
//!
//! Pure. An address alone names nobody: networks overlap. A peer is named by an allocation of the same VLAN, and where
//! several claim the address, by the one of the tap's own network; if that leaves several, by none. Freed addresses
//! are remembered for a while, since a flow is named when it is read, and may be older than the release.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_api::{MacAddr, VlanId};

use super::record::{Endpoint, TapIdentity};

/// How long a freed address keeps its last owner for flows from before.
const REMEMBER: Duration = Duration::from_mins(5);

/// One claim of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The network's VLAN.
    pub vlan: Option<VlanId>,
    /// The address.
    pub address: IpAddr,
    /// `<namespace>/<name>` of the network.
    pub network: String,
    /// Who has it.
    pub owner: Arc<Endpoint>,
}

#[derive(Clone, Debug)]
struct Held {
    claim: Claim,
    until: Option<SystemTime>,
}

impl Held {
    fn covers(&self, at: SystemTime) -> bool {
        // Clocks of machines differ, and an allocation comes before its first packet anyway: the beginning is not
        // held against it.
        self.until.is_none_or(|until| at <= until)
    }
}

/// All claims of the networks that this node is on.
#[derive(Debug, Default)]
pub struct Names {
    /// By the claim's object, so that it can be taken back.
    claims: BTreeMap<String, Held>,
    by_address: HashMap<(Option<VlanId>, IpAddr), Vec<String>>,
    by_mac: HashMap<(String, [u8; 6]), Arc<Endpoint>>,
}

impl Names {
    /// A claim appeared or changed; `object` is the name of its `IPAllocation`.
    pub fn put(&mut self, object: &str, claim: Claim) {
        self.remove(object);
        let key = (claim.vlan, claim.address);
        self.by_address.entry(key).or_default().push(object.to_owned());
        self.claims.insert(object.to_owned(), Held { claim, until: None });
    }

    /// A claim was given back.
    pub fn end(&mut self, object: &str, at: SystemTime) {
        if let Some(held) = self.claims.get_mut(object) {
            held.until.get_or_insert(at);
        }
    }

    /// Keeps these objects' claims alone; the others have ended.
    pub fn retain(&mut self, alive: impl Fn(&str) -> bool, at: SystemTime) {
        let gone = self.claims.iter_mut().filter(|(object, _)| !alive(object));
        gone.for_each(|(_, held)| {
            held.until.get_or_insert(at);
        });
    }

    /// Forgets what ended long ago.
    pub fn forget(&mut self, now: SystemTime) {
        let old = |held: &Held| held.until.is_some_and(|until| until + REMEMBER < now);
        let gone: Vec<String> =
            self.claims.iter().filter(|(_, held)| old(held)).map(|(object, _)| object.clone()).collect();
        for object in &gone {
            self.remove(object);
        }
    }

    fn remove(&mut self, object: &str) {
        let Some(held) = self.claims.remove(object) else { return };
        let key = (held.claim.vlan, held.claim.address);
        if let Some(list) = self.by_address.get_mut(&key) {
            list.retain(|name| name != object);
            if list.is_empty() {
                self.by_address.remove(&key);
            }
        }
    }

    /// The ports of this node, by bridge and Ethernet address: they name peers of layer-2 networks.
    pub fn set_ports(&mut self, ports: impl Iterator<Item = (String, MacAddr, Arc<Endpoint>)>) {
        self.by_mac = ports.map(|(bridge, mac, owner)| ((bridge, mac.octets()), owner)).collect();
    }

    /// How many claims are known.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// The peer of a flow of this tap.
    pub fn peer(
        &self,
        tap: &TapIdentity,
        address: Option<IpAddr>,
        mac: [u8; 6],
        at: SystemTime,
    ) -> Option<Arc<Endpoint>> {
        let network = tap.network.as_deref()?;
        let by_address = address.and_then(|address| self.by_address(tap, network, address, at));
        by_address.or_else(|| {
            let bridge = tap.bridge.clone()?;
            self.by_mac.get(&(bridge, mac)).cloned()
        })
    }

    fn by_address(
        &self,
        tap: &TapIdentity,
        network: &str,
        address: IpAddr,
        at: SystemTime,
    ) -> Option<Arc<Endpoint>> {
        let objects = self.by_address.get(&(tap.vlan, address))?;
        let valid: Vec<&Claim> = objects
            .iter()
            .filter_map(|object| self.claims.get(object))
            .filter(|held| held.covers(at))
            .map(|held| &held.claim)
            .collect();
        let own: Vec<&&Claim> = valid.iter().filter(|claim| claim.network == network).collect();
        match (own.as_slice(), valid.as_slice()) {
            ([one], _) => Some(Arc::clone(&one.owner)),
            ([], [one]) => Some(Arc::clone(&one.owner)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> Arc<Endpoint> {
        let text = |text: &str| text.to_owned();
        Arc::new(Endpoint {
            namespace: text("default"),
            name: text(name),
            uid: text(name),
            interface: text("eth1"),
        })
    }

    fn claim(vlan: u16, network: &str, name: &str) -> Claim {
        Claim {
            vlan: VlanId::try_from(vlan).ok(),
            address: [10, 0, 0, 5].into(),
            network: network.to_owned(),
            owner: endpoint(name),
        }
    }

    fn tap(vlan: u16, network: &str) -> TapIdentity {
        TapIdentity {
            device: "tl1".into(),
            ifindex: 1,
            interface: "eth1".into(),
            netns: None,
            pod: None,
            network: Some(network.to_owned()),
            vlan: VlanId::try_from(vlan).ok(),
            bridge: Some("br".into()),
            since: SystemTime::UNIX_EPOCH,
        }
    }

    fn name(names: &Names, tap: &TapIdentity, at: SystemTime) -> Option<String> {
        names.peer(tap, Some([10, 0, 0, 5].into()), [0; 6], at).map(|peer| peer.name.clone())
    }

    #[test]
    fn equal_addresses_on_two_vlans_are_two_pods() {
        let mut names = Names::default();
        names.put("a", claim(100, "n/v100", "one"));
        names.put("b", claim(200, "n/v200", "two"));
        let now = SystemTime::now();
        assert_eq!(name(&names, &tap(100, "n/v100"), now).as_deref(), Some("one"));
        assert_eq!(name(&names, &tap(200, "n/v200"), now).as_deref(), Some("two"));
        assert_eq!(name(&names, &tap(300, "n/v300"), now), None);
    }

    #[test]
    fn of_two_claims_on_one_vlan_the_taps_own_network_counts_and_otherwise_nobody_is_guessed() {
        let mut names = Names::default();
        names.put("a", claim(100, "n/left", "one"));
        names.put("b", claim(100, "n/right", "two"));
        let now = SystemTime::now();
        assert_eq!(name(&names, &tap(100, "n/right"), now).as_deref(), Some("two"));
        assert_eq!(name(&names, &tap(100, "n/third"), now), None);
        names.end("a", now - Duration::from_secs(9));
        assert_eq!(name(&names, &tap(100, "n/third"), now).as_deref(), Some("two"));
    }

    #[test]
    fn a_freed_address_names_its_owner_for_flows_from_before_only() {
        let mut names = Names::default();
        let (now, freed) = (SystemTime::now(), SystemTime::now() - Duration::from_secs(60));
        names.put("a", claim(100, "n/v100", "old"));
        names.end("a", freed);
        names.put("b", claim(100, "n/v100", "new"));
        assert_eq!(name(&names, &tap(100, "n/v100"), now).as_deref(), Some("new"));
        names.forget(now + REMEMBER);
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn on_a_layer_two_network_a_port_of_this_node_is_known_by_its_mac_on_its_own_bridge() {
        let mut names = Names::default();
        let mac: MacAddr = "02:00:00:00:00:09".parse().expect("an address");
        names.set_ports([("br".to_owned(), mac, endpoint("near"))].into_iter());
        let at = SystemTime::now();
        let found = |bridge: &str| {
            let tap = TapIdentity { bridge: Some(bridge.to_owned()), ..tap(100, "n/v100") };
            names.peer(&tap, None, mac.octets(), at).map(|peer| peer.name.clone())
        };
        assert_eq!(found("br").as_deref(), Some("near"));
        assert_eq!(found("other"), None);
    }
}
