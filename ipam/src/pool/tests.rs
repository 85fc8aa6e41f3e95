//! One pool: picking, resting, refusing.

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

/// A pool with this gateway and prefix length, and ranges "cidr" or "start-end".
fn pool(subnet: &str, ranges: &[&str]) -> Pool {
    let range = |text: &&str| {
        if let Some((first, last)) = text.split_once('-') {
            return Ok((address(first), address(last)));
        }
        let net: IpNet = text.parse().expect("a test's prefix");
        Ok((net.network(), net.broadcast()))
    };
    Pool::new(PoolSpec {
        name: "p".to_owned(),
        subnet: Ok(subnet.parse().expect("a test's subnet")),
        ranges: ranges.iter().map(range).collect(),
        vlan: 100,
    })
}

fn owner(name: &str) -> Owner {
    Owner {
        pod_uid: name.to_owned(),
        interface: "eth1".to_owned(),
        namespace: "a".to_owned(),
        pod: name.to_owned(),
    }
}

fn take(pool: &mut Pool, name: &str, now: Instant) -> Option<IpAddr> {
    pool.take(&owner(name), now, |_| false)
}

fn take_all(pool: &mut Pool, now: Instant) -> Vec<String> {
    (0..).map_while(|number| take(pool, &format!("u{number}"), now)).map(|given| given.to_string()).collect()
}

#[test]
fn reserved_addresses_are_never_given_in_any_form_of_range() {
    let cases: [(&str, &[&str], &[&str]); 13] = [
        // network .0, gateway .1, broadcast .7
        ("10.0.0.1/29", &["10.0.0.0/29"], &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
        ("10.0.0.1/29", &["10.0.0.0-10.0.0.3"], &["10.0.0.2", "10.0.0.3"]),
        ("10.0.0.3/29", &["10.0.0.2-10.0.0.4"], &["10.0.0.2", "10.0.0.4"]),
        ("10.0.0.1/29", &["10.0.0.6-10.0.0.7"], &["10.0.0.6"]),
        // A prefix inside the subnet has no network and broadcast address of its own.
        ("10.0.0.1/24", &["10.0.0.128/30"], &["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"]),
        ("10.0.0.1/24", &["10.0.0.252/30"], &["10.0.0.252", "10.0.0.253", "10.0.0.254"]),
        // RFC 3021 and RFC 6164
        ("10.0.0.0/31", &["10.0.0.0/31"], &["10.0.0.0", "10.0.0.1"]),
        ("fd00::1/127", &["fd00::/127"], &["fd00::", "fd00::1"]),
        ("10.0.0.9/32", &["10.0.0.9/32"], &["10.0.0.9"]),
        ("fd00::9/128", &["fd00::9-fd00::9"], &["fd00::9"]),
        ("10.0.0.1/24", &["10.0.0.8/32", "10.0.0.4/31"], &["10.0.0.8", "10.0.0.4", "10.0.0.5"]),
        // subnet-router anycast; IPv6 has no broadcast address
        ("fd00::1/126", &["fd00::/126"], &["fd00::2", "fd00::3"]),
        ("fd00::1/64", &["fd00::-fd00::3"], &["fd00::2", "fd00::3"]),
    ];
    for (subnet, ranges, expected) in cases {
        let mut pool = pool(subnet, ranges);
        assert_eq!(pool.total(), expected.len() as u128, "{subnet} {ranges:?}");
        assert_eq!(take_all(&mut pool, Instant::now()), expected, "{subnet} {ranges:?}");
        assert!(pool.is_exhausted());
    }
}

#[test]
fn a_gateway_outside_the_range_costs_nothing() {
    // Antrea loses one address here.
    let mut pool = pool("10.0.0.1/24", &["10.0.0.16/28"]);
    assert_eq!(pool.total(), 16);
    assert_eq!(take_all(&mut pool, Instant::now()).len(), 16);
}

#[test]
fn a_range_of_two_to_the_sixty_four_is_walked_without_being_laid_out() {
    let now = Instant::now();
    let mut pool = pool("fd00::1/64", &["fd00::/64"]);
    assert_eq!(pool.total(), (1 << 64) - 2);
    for number in 0..2000u32 {
        assert_eq!(
            take(&mut pool, &number.to_string(), now),
            Some(address(&format!("fd00::{:x}", number + 2)))
        );
    }
    let last = address("fd00::ffff:ffff:ffff:ffff");
    pool.set_cursor(last);
    assert_eq!(take(&mut pool, "x", now), Some(last));
    assert_eq!(take(&mut pool, "y", now), Some(address("fd00::7d2")), "around the corner");
}

#[test]
fn the_cursor_moves_forward_over_all_ranges_before_it_comes_back() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.12", "10.0.0.20-10.0.0.21"]);
    let mut given = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let next = take(&mut pool, name, now).expect("free");
        pool.release(next, &owner(name), Release::NeverAnnounced, now);
        given.push(next.to_string());
    }
    assert_eq!(given, ["10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.20", "10.0.0.21", "10.0.0.10"]);
}

#[test]
fn a_freed_address_rests_while_others_are_free() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.12"]);
    let first = take(&mut pool, "a", now).expect("free");
    pool.release(first, &owner("a"), Release::Announced, now);
    pool.set_cursor(first);
    assert_ne!(take(&mut pool, "b", now), Some(first));
    let later = now + REST;
    pool.set_cursor(first);
    assert_eq!(take(&mut pool, "c", later), Some(first), "rested");
}

#[test]
fn a_pool_with_nothing_else_gives_the_address_freed_longest_ago() {
    let now = Instant::now();
    let second = |seconds| now + Duration::from_secs(seconds);
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.12"]);
    for name in ["a", "b", "c"] {
        take(&mut pool, name, now);
    }
    pool.release(address("10.0.0.11"), &owner("b"), Release::Announced, second(1));
    pool.release(address("10.0.0.10"), &owner("a"), Release::Announced, second(2));
    assert!(!pool.is_exhausted());
    assert_eq!(take(&mut pool, "d", second(3)), Some(address("10.0.0.11")));
    assert_eq!(take(&mut pool, "e", second(3)), Some(address("10.0.0.10")));
    assert_eq!(take(&mut pool, "f", second(3)), None);
}

#[test]
fn a_pod_that_comes_back_gets_the_address_it_had() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.20"]);
    let before = take(&mut pool, "a", now).expect("free");
    take(&mut pool, "b", now);
    pool.release(before, &owner("a"), Release::Announced, now);
    assert_eq!(take(&mut pool, "a", now), Some(before));
}

#[test]
fn a_conflict_keeps_an_address_back_even_from_an_empty_pool() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.10"]);
    let only = take(&mut pool, "a", now).expect("free");
    let until = now + Duration::from_secs(600);
    pool.quarantine(only, until);
    pool.release(only, &owner("a"), Release::Announced, now);
    assert!(pool.is_exhausted());
    assert_eq!(take(&mut pool, "a", now), None, "not even to who had it");
    let asked = Requested { address: only, prefix_length: None };
    let refusal = pool.take_requested(asked, &owner("b"), now).expect_err("quarantined");
    assert_eq!(refusal, Refusal::Quarantined { seconds: 600 });
    assert_eq!(take(&mut pool, "b", until), Some(only));
}

#[test]
fn a_requested_address_is_given_or_refused_with_the_reason() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.0-10.0.0.20"]);
    pool.mark(address("10.0.0.7"), owner("other"));
    let cases = [
        ("10.0.0.5", Ok(())),
        ("10.0.0.6/24", Ok(())),
        ("10.0.0.8/25", Err("the prefix length 25 was asked for, IPPool p has 24")),
        ("10.0.0.21", Err("it is in no range of IPPool p (10.0.0.0-10.0.0.20)")),
        ("fd00::5", Err("it is in no range of IPPool p (10.0.0.0-10.0.0.20)")),
        ("10.0.0.0", Err("it is the network address of IPPool p")),
        ("10.0.0.1", Err("it is the gateway of IPPool p")),
        ("10.0.0.7", Err("it is in use by interface eth1 of pod a/other (IPPool p)")),
    ];
    for (text, expected) in cases {
        let asked = Requested::parse(text).expect("well formed");
        let got = pool.take_requested(asked, &owner("me"), now).map_err(|refusal| refusal.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn unusable_ranges_give_nothing_and_the_others_still_serve() {
    let cases: [(&str, &[&str], &str, usize); 5] = [
        (
            "10.0.0.1/24",
            &["10.0.0.9-10.0.0.8", "10.0.0.20-10.0.0.21"],
            "start 10.0.0.9 comes after end 10.0.0.8",
            2,
        ),
        ("10.0.0.1/24", &["10.0.1.8-10.0.1.9"], "is not in the subnet 10.0.0.0/24", 0),
        ("10.0.0.1/24", &["fd00::8-fd00::9"], "is not in the subnet", 0),
        (
            "10.0.0.1/24",
            &["10.0.0.8-10.0.0.9", "10.0.0.9-10.0.0.30"],
            "spec.ipRanges[1] (10.0.0.9-10.0.0.30) overlaps spec.ipRanges[0]",
            2,
        ),
        ("10.0.0.1/24", &["10.0.0.16/28", "10.0.0.16/30"], "overlaps spec.ipRanges[0]", 16),
    ];
    for (subnet, ranges, expected, total) in cases {
        let mut pool = pool(subnet, ranges);
        let problem = pool.problems().first().expect("a problem").to_string();
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(take_all(&mut pool, Instant::now()).len(), total, "{ranges:?}");
    }
}

#[test]
fn a_pool_that_cannot_be_read_gives_nothing_and_says_why() {
    let spec = PoolSpec {
        name: "p".to_owned(),
        subnet: Err("subnetInfo.gateway \"x\" is not an IP address".to_owned()),
        ranges: vec![Ok((address("10.0.0.1"), address("10.0.0.2"))), Err("junk".to_owned())],
        vlan: 0,
    };
    let mut pool = Pool::new(spec);
    assert_eq!(take(&mut pool, "a", Instant::now()), None);
    assert_eq!(pool.problems().len(), 1);
    assert!(pool.usage().to_string().contains("has no address to give; subnetInfo.gateway \"x\""));
}

#[test]
fn a_pool_of_many_ranges_never_gives_an_address_twice() {
    // antrea #7944: setting a range of bits hit the wrong ones.
    let ranges: Vec<String> = (0..64).map(|n| format!("10.0.{n}.60-10.0.{n}.70")).collect();
    let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
    let mut pool = pool("10.0.255.254/16", &ranges);
    let mut given = take_all(&mut pool, Instant::now());
    assert_eq!(given.len(), 64 * 11);
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 64 * 11);
}

#[test]
fn one_odd_entry_does_not_make_the_pool_unusable() {
    // Antrea refuses a whole pool over one entry outside its ranges.
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.11"]);
    pool.mark(address("10.0.0.99"), owner("stray"));
    pool.mark(address("fd00::1"), owner("stray"));
    assert_eq!((pool.used(), pool.claims()), (0, 1));
    assert_eq!(take(&mut pool, "a", now), Some(address("10.0.0.10")));
    pool.release(address("10.0.0.99"), &owner("stray"), Release::Announced, now);
    assert_eq!(pool.claims(), 1);
}

#[test]
fn a_reserved_address_that_was_claimed_all_the_same_is_not_given_when_it_comes_back() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.1-10.0.0.2"]);
    let gateway = address("10.0.0.1");
    pool.mark(gateway, owner("a"));
    assert_eq!(pool.used(), 0);
    pool.release(gateway, &owner("a"), Release::Announced, now);
    assert_eq!(take(&mut pool, "a", now), Some(address("10.0.0.2")));
    assert_eq!(take(&mut pool, "b", now), None);
}

#[test]
fn nobody_gives_back_what_another_has() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.11"]);
    let given = take(&mut pool, "a", now).expect("free");
    pool.release(given, &owner("b"), Release::Announced, now);
    assert_eq!(pool.owner(given), Some(&owner("a")));
    pool.release(given, &owner("a"), Release::Announced, now);
    pool.release(given, &owner("a"), Release::Announced, now);
    assert_eq!(pool.used(), 0);
}

#[test]
fn appended_ranges_keep_owners_rests_and_cursor() {
    let now = Instant::now();
    let mut grown = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.12"]);
    let first = take(&mut grown, "a", now).expect("free");
    let second = take(&mut grown, "b", now).expect("free");
    grown.release(second, &owner("b"), Release::Announced, now);
    grown.respecify(pool("10.0.0.1/24", &["10.0.0.10-10.0.0.12", "10.0.0.30-10.0.0.31"]).spec().clone());
    assert_eq!((grown.total(), grown.used()), (5, 1));
    assert_eq!(grown.owner(first), Some(&owner("a")));
    let given: Vec<_> = ["c", "d", "e", "f"].iter().map_while(|name| take(&mut grown, name, now)).collect();
    let expected = ["10.0.0.12", "10.0.0.30", "10.0.0.31", "10.0.0.11"].map(address);
    assert_eq!(given, expected, "the resting one comes last");
}

#[test]
fn a_saved_cursor_is_gone_on_from_and_a_strange_one_ignored() {
    let now = Instant::now();
    let mut pool = pool("10.0.0.1/24", &["10.0.0.10-10.0.0.20"]);
    pool.set_cursor(address("10.0.0.99"));
    pool.set_cursor(address("fd00::1"));
    assert_eq!(pool.cursor(), Some(address("10.0.0.10")));
    pool.set_cursor(address("10.0.0.15"));
    assert_eq!(take(&mut pool, "a", now), Some(address("10.0.0.15")));
    assert_eq!(pool.cursor(), Some(address("10.0.0.16")));
}
