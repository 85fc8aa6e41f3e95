//! Whatever happens to a pool, in whatever order, these hold.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Take(u8),
    Request(u8, u8),
    Release(u8, bool),
    Quarantine(u8, u16),
    Wait(u16),
    Mark(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Take),
        1 => (any::<u8>(), 0u8..40).prop_map(|(who, which)| Step::Request(who, which)),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(who, announced)| Step::Release(who, announced)),
        1 => (0u8..40, 0u16..900).prop_map(|(which, seconds)| Step::Quarantine(which, seconds)),
        1 => (0u16..700).prop_map(Step::Wait),
        1 => (any::<u8>(), 0u8..40).prop_map(|(who, which)| Step::Mark(who, which)),
    ];
    prop::collection::vec(step, 0..400)
}

fn owner(who: u8) -> Owner {
    let name = who.to_string();
    Owner { pod_uid: name.clone(), interface: "eth1".to_owned(), namespace: "a".to_owned(), pod: name }
}

/// 10.0.0.0-10.0.0.31 in a /27 with two ranges (28 addresses to give), or as much of an IPv6 /64.
fn pool(v6: bool) -> Pool {
    let (subnet, ranges) = if v6 {
        ("fd00::1/64", vec![("fd00::", "fd00::f"), ("fd00::10", "fd00::ffff:ffff:ffff")])
    } else {
        ("10.0.0.1/27", vec![("10.0.0.0", "10.0.0.15"), ("10.0.0.16", "10.0.0.31")])
    };
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    Pool::new(PoolSpec {
        name: "p".to_owned(),
        subnet: Ok(subnet.parse().expect("a subnet")),
        ranges: ranges.into_iter().map(|(first, last)| Ok((parse(first), parse(last)))).collect(),
        vlan: 0,
    })
}

fn nth(v6: bool, which: u8) -> IpAddr {
    let text = if v6 { format!("fd00::{which:x}") } else { format!("10.0.0.{which}") };
    text.parse().expect("an address")
}

proptest! {
    #[test]
    fn an_address_has_one_owner_and_everything_comes_back(v6 in any::<bool>(), steps in steps()) {
        let mut pool = pool(v6);
        let mut now = Instant::now();
        let mut model: HashMap<IpAddr, u8> = HashMap::new();
        let mut quarantine: HashMap<IpAddr, Instant> = HashMap::new();
        for step in steps {
            match step {
                Step::Take(who) => {
                    if let Some(given) = pool.take(&owner(who), now, |_| false) {
                        prop_assert!(pool.contains(given));
                        prop_assert!(!pool.is_gateway(given));
                        prop_assert!(quarantine.get(&given).is_none_or(|until| *until <= now), "{given} rests");
                        prop_assert_eq!(model.insert(given, who), None, "given twice");
                    } else {
                        prop_assert!(pool.is_exhausted());
                    }
                }
                Step::Request(who, which) => {
                    let asked = Requested { address: nth(v6, which), prefix_length: None };
                    if pool.take_requested(asked, &owner(who), now).is_ok() {
                        prop_assert_eq!(model.insert(asked.address, who), None, "given twice");
                    }
                }
                Step::Release(who, announced) => {
                    let how = if announced { Release::Announced } else { Release::NeverAnnounced };
                    let held: Vec<_> = model.iter().filter(|(_, holder)| **holder == who).map(|(at, _)| *at).collect();
                    for address in held {
                        pool.release(address, &owner(who), how, now);
                        model.remove(&address);
                    }
                }
                Step::Quarantine(which, seconds) => {
                    let until = now + Duration::from_secs(seconds.into());
                    pool.quarantine(nth(v6, which), until);
                    quarantine.insert(nth(v6, which), until);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                Step::Mark(who, which) => {
                    pool.mark(nth(v6, which), owner(who));
                    model.insert(nth(v6, which), who);
                }
            }
            prop_assert!(pool.used() <= pool.total());
            prop_assert_eq!(pool.claims(), model.len());
            for (address, who) in &model {
                prop_assert_eq!(pool.owner(*address), Some(&owner(*who)));
            }
        }
        for (address, who) in model {
            pool.release(address, &owner(who), Release::Announced, now);
        }
        prop_assert_eq!((pool.used(), pool.claims()), (0, 0));
        if !v6 {
            now += Duration::from_secs(3600);
            let given = (0..=u8::MAX).map_while(|who| pool.take(&owner(who), now, |_| false)).count();
            prop_assert_eq!(given as u128, pool.total(), "everything freed comes back");
        }
    }

    #[test]
    fn no_used_address_returns_before_half_of_the_pool_has_been_given(
        pauses in prop::collection::vec(0u64..400, 1..200),
        start in 2u8..31,
    ) {
        let mut now = Instant::now();
        let mut pool = pool(false);
        pool.set_cursor(nth(false, start));
        let total = usize::try_from(pool.total()).expect("small");
        let mut given: Vec<IpAddr> = Vec::new();
        for (number, pause) in pauses.into_iter().enumerate() {
            let who = Owner { pod_uid: number.to_string(), ..Owner::default() };
            let address = pool.take(&who, now, |_| false).expect("at most one is in use");
            let recent = given.len().saturating_sub(total / 2);
            prop_assert!(!given[recent..].contains(&address), "{} came back too soon", address);
            pool.release(address, &who, Release::Announced, now);
            given.push(address);
            now += Duration::from_secs(pause);
        }
    }
}
