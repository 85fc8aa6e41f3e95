//! Who an address of a network was, at a time.
//!
//! Pure. An address alone names nobody: networks overlap. A peer is named by an allocation of the same VLAN, and where
//! several claim the address, by the one of the tap's own network; if that leaves several, by none. Freed addresses
//! are remembered for a while, since a flow is named when it is read, and may be older than the release.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_api::{IPAllocationSpec, MacAddr, VlanId};

use super::record::{Endpoint, TapIdentity};

/// How long a freed address keeps its last owner for flows from before.
const REMEMBER: Duration = Duration::from_mins(5);

/// What the claims of many pods have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    pool: String,
    vlan: Option<VlanId>,
    /// `<namespace>/<name>` of the network.
    network: String,
    namespace: String,
    interface: String,
}

/// One claim of an address.
#[derive(Debug)]
struct Held {
    place: Arc<Place>,
    pod: Box<str>,
    uid: Box<str>,
    until: Option<SystemTime>,
    /// Made when it is first told: most pods of a large network never talk to this node.
    owner: OnceCell<Arc<Endpoint>>,
}

impl Held {
    fn covers(&self, at: SystemTime) -> bool {
        // Clocks of machines differ, and an allocation comes before its first packet anyway: the beginning is not
        // held against it.
        self.until.is_none_or(|until| at <= until)
    }

    /// Whether both are of one pod's interface.
    fn is_of(&self, other: &Self) -> bool {
        (&self.uid, &self.place.interface) == (&other.uid, &other.place.interface)
    }

    /// Whether an address was this one's and then the other's.
    fn came_before(&self, other: &Self) -> bool {
        let earlier = self.until.is_some_and(|until| other.until.is_none_or(|its| until < its));
        earlier && self.place.pool == other.place.pool
    }

    fn owner(&self) -> Arc<Endpoint> {
        let made = || {
            Arc::new(Endpoint {
                namespace: self.place.namespace.clone(),
                name: self.pod.to_string(),
                uid: self.uid.to_string(),
                interface: self.place.interface.clone(),
            })
        };
        Arc::clone(self.owner.get_or_init(made))
    }
}

/// All claims of the networks that this node is on. A pool and an address are one claim at a time.
#[derive(Debug, Default)]
pub struct Names {
    claims: HashMap<IpAddr, Vec<Held>>,
    places: HashSet<Arc<Place>>,
    by_mac: HashMap<(String, [u8; 6]), Arc<Endpoint>>,
}

impl Names {
    /// A claim appeared or changed; `vlan` is its network's. Whoever had the address before had it until now.
    pub fn put(&mut self, claim: &IPAllocationSpec, vlan: Option<VlanId>, now: SystemTime) {
        let owner = &claim.owner;
        let held = Held {
            place: self.place(Place {
                pool: claim.pool.clone(),
                vlan,
                network: owner.nad.clone(),
                namespace: owner.pod_namespace.clone(),
                interface: owner.interface.clone(),
            }),
            pod: owner.pod_name.as_str().into(),
            uid: owner.pod_uid.as_str().into(),
            until: None,
            owner: OnceCell::new(),
        };
        let at_address = self.claims.entry(claim.address).or_default();
        let mut before = at_address.iter_mut().filter(|held| held.place.pool == claim.pool);
        if let Some(before) = before.find(|held| held.until.is_none()) {
            if before.is_of(&held) {
                *before = held;
                return;
            }
            before.until = Some(now);
        }
        at_address.reserve_exact(1);
        at_address.push(held);
    }

    fn place(&mut self, place: Place) -> Arc<Place> {
        if let Some(known) = self.places.get(&place) {
            return Arc::clone(known);
        }
        let place = Arc::new(place);
        self.places.insert(Arc::clone(&place));
        place
    }

    /// A claim was given back.
    pub fn end(&mut self, claim: &IPAllocationSpec, at: SystemTime) {
        let mut held = self.claims.get_mut(&claim.address).into_iter().flatten();
        if let Some(held) = held.find(|held| held.place.pool == claim.pool && held.until.is_none()) {
            held.until = Some(at);
        }
    }

    /// Of this pool, keeps the claims of these addresses alone; the others have ended.
    pub fn retain(&mut self, pool: &str, alive: &HashSet<IpAddr>, at: SystemTime) {
        let gone = self.claims.iter_mut().filter(|(address, _)| !alive.contains(address));
        for held in gone.flat_map(|(_, held)| held).filter(|held| held.place.pool == pool) {
            held.until.get_or_insert(at);
        }
    }

    /// Forgets what ended long ago.
    pub fn forget(&mut self, now: SystemTime) {
        self.claims.retain(|_, at_address| {
            at_address.retain(|held| held.until.is_none_or(|until| until + REMEMBER >= now));
            !at_address.is_empty()
        });
        self.claims.shrink_to(2 * self.claims.len());
        self.places.retain(|place| Arc::strong_count(place) > 1);
    }

    /// The ports of this node, by bridge and Ethernet address: they name peers of layer-2 networks.
    pub fn set_ports(&mut self, ports: impl Iterator<Item = (String, MacAddr, Arc<Endpoint>)>) {
        self.by_mac = ports.map(|(bridge, mac, owner)| ((bridge, mac.octets()), owner)).collect();
    }

    /// How many claims are known.
    pub fn len(&self) -> usize {
        self.claims.values().map(Vec::len).sum()
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
        mac: Option<[u8; 6]>,
        at: SystemTime,
    ) -> Option<Arc<Endpoint>> {
        let network = tap.network.as_deref()?;
        let by_address = address.and_then(|address| self.by_address(tap, network, address, at));
        by_address.or_else(|| {
            let bridge = tap.bridge.clone()?;
            self.by_mac.get(&(bridge, mac?)).cloned()
        })
    }

    fn by_address(
        &self,
        tap: &TapIdentity,
        network: &str,
        address: IpAddr,
        at: SystemTime,
    ) -> Option<Arc<Endpoint>> {
        let at_address = self.claims.get(&address)?.iter();
        let valid: Vec<&Held> =
            at_address.filter(|held| held.place.vlan == tap.vlan && held.covers(at)).collect();
        // A pool gives an address to one at a time: of those that had it since, the first is meant.
        let first = |held: &&Held| !valid.iter().any(|other| other.came_before(held));
        let valid: Vec<&Held> = valid.iter().copied().filter(first).collect();
        let own: Vec<&&Held> = valid.iter().filter(|held| held.place.network == network).collect();
        match (own.as_slice(), valid.as_slice()) {
            ([one], _) => Some(one.owner()),
            ([], [one]) => Some(one.owner()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_api::AllocationOwner;

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

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

    fn claim(pool: &str, network: &str, name: &str) -> IPAllocationSpec {
        let owner = AllocationOwner {
            pod_namespace: "default".to_owned(),
            pod_name: name.to_owned(),
            pod_uid: name.to_owned(),
            sandbox: String::new(),
            interface: "eth1".to_owned(),
            nad: network.to_owned(),
        };
        IPAllocationSpec { pool: pool.to_owned(), address: ADDRESS, node: "elsewhere".to_owned(), owner }
    }

    fn vlan(id: u16) -> Option<VlanId> {
        VlanId::try_from(id).ok()
    }

    fn tap(vlan: u16, network: &str) -> TapIdentity {
        TapIdentity {
            device: "tl1".into(),
            ifindex: 1,
            interface: "eth1".into(),
            netns: None,
            pod: None,
            network: Some(network.to_owned()),
            vlan: self::vlan(vlan),
            bridge: Some("br".into()),
            since: SystemTime::UNIX_EPOCH,
        }
    }

    fn put(names: &mut Names, claim: &IPAllocationSpec, vlan: u16) {
        names.put(claim, self::vlan(vlan), SystemTime::now());
    }

    fn name(names: &Names, tap: &TapIdentity, at: SystemTime) -> Option<String> {
        names.peer(tap, Some(ADDRESS), Some([0; 6]), at).map(|peer| peer.name.clone())
    }

    #[test]
    fn equal_addresses_on_two_vlans_are_two_pods() {
        let mut names = Names::default();
        put(&mut names, &claim("a", "n/v100", "one"), 100);
        put(&mut names, &claim("b", "n/v200", "two"), 200);
        let now = SystemTime::now();
        assert_eq!(name(&names, &tap(100, "n/v100"), now).as_deref(), Some("one"));
        assert_eq!(name(&names, &tap(200, "n/v200"), now).as_deref(), Some("two"));
        assert_eq!(name(&names, &tap(300, "n/v300"), now), None);
    }

    #[test]
    fn of_two_claims_on_one_vlan_the_taps_own_network_counts_and_otherwise_nobody_is_guessed() {
        let mut names = Names::default();
        put(&mut names, &claim("a", "n/left", "one"), 100);
        put(&mut names, &claim("b", "n/right", "two"), 100);
        let now = SystemTime::now();
        assert_eq!(name(&names, &tap(100, "n/right"), now).as_deref(), Some("two"));
        assert_eq!(name(&names, &tap(100, "n/third"), now), None);
        names.end(&claim("a", "n/left", "one"), now - Duration::from_secs(9));
        assert_eq!(name(&names, &tap(100, "n/third"), now).as_deref(), Some("two"));
    }

    #[test]
    fn a_freed_address_names_its_owner_for_flows_from_before_only() {
        let mut names = Names::default();
        let (now, freed) = (SystemTime::now(), SystemTime::now() - Duration::from_secs(60));
        put(&mut names, &claim("a", "n/v100", "old"), 100);
        names.end(&claim("a", "n/v100", "old"), freed);
        put(&mut names, &claim("b", "n/v100", "new"), 100);
        assert_eq!(name(&names, &tap(100, "n/v100"), now).as_deref(), Some("new"));
        names.forget(now + REMEMBER);
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn an_address_that_is_given_out_again_names_whoever_had_it_at_the_time() {
        let mut names = Names::default();
        let now = SystemTime::now();
        let second = |count| now + Duration::from_secs(count);
        let of = |owner| claim("a", "n/v100", owner);
        put(&mut names, &of("one"), 100);
        names.end(&of("one"), second(10));
        names.put(&of("two"), vlan(100), second(11));
        // The end of this one was missed.
        names.put(&of("three"), vlan(100), second(20));
        let at = |count| name(&names, &tap(100, "n/v100"), second(count));
        let owners = [5, 10, 15, 20, 25].map(at);
        assert_eq!(owners.each_ref().map(Option::as_deref), ["one", "one", "two", "two", "three"].map(Some));
        names.forget(second(20) + REMEMBER);
        assert_eq!(names.len(), 2, "two, which ended last, and three");
    }

    #[test]
    fn a_new_list_of_a_pool_ends_what_is_missing_in_it_and_nothing_of_another_pool() {
        let mut names = Names::default();
        put(&mut names, &claim("a", "n/v100", "one"), 100);
        put(&mut names, &claim("b", "n/v200", "two"), 200);
        let now = SystemTime::now();
        names.retain("a", &[ADDRESS].into(), now - REMEMBER * 2);
        names.forget(now);
        assert_eq!(names.len(), 2);
        names.retain("a", &HashSet::new(), now - REMEMBER * 2);
        names.forget(now);
        assert_eq!((names.len(), names.places.len()), (1, 1));
        assert_eq!(name(&names, &tap(100, "n/v100"), now), None);
        assert_eq!(name(&names, &tap(200, "n/v200"), now).as_deref(), Some("two"));
    }

    #[test]
    fn a_claim_that_is_made_anew_names_its_new_owner() {
        let mut names = Names::default();
        let now = SystemTime::now();
        for owner in ["one", "two"] {
            put(&mut names, &claim("a", "n/v100", owner), 100);
            assert_eq!(
                name(&names, &tap(100, "n/v100"), now + Duration::from_secs(9)).as_deref(),
                Some(owner)
            );
        }
        put(&mut names, &claim("a", "n/v100", "two"), 200);
        let later = now + Duration::from_secs(9);
        assert_eq!(name(&names, &tap(100, "n/v100"), later), None);
        assert_eq!(name(&names, &tap(200, "n/v100"), later).as_deref(), Some("two"));
        names.forget(later + REMEMBER);
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
            names.peer(&tap, None, Some(mac.octets()), at).map(|peer| peer.name.clone())
        };
        assert_eq!(found("br").as_deref(), Some("near"));
        assert_eq!(found("other"), None);
    }
}
