//! The world of links as events make it: moves, renames, numbers used again, namespaces that go. Owns no descriptor.

use trunkline_api::{NameFilter, Pattern};

use super::*;

const HOST: Inode = 1;
const BLUE: Inode = 2;
const RED: Inode = 3;

fn config(interfaces: &str, namespaces: &str, kinds: &str) -> AllConfig {
    let including = |pattern: &str| NameFilter {
        include: if pattern.is_empty() { vec![] } else { vec![Pattern::new(pattern).expect("good")] },
        exclude: vec![],
    };
    AllConfig {
        enabled: true,
        interfaces: including(interfaces),
        namespaces: including(namespaces),
        kinds: including(kinds),
    }
}

fn link(ifindex: u32, name: &str) -> LinkSeen {
    let mac = Some([2, 0, 0, 0, 0, u8::try_from(ifindex).expect("small")]);
    LinkSeen {
        ifindex,
        name: name.to_owned(),
        kind: "veth".to_owned(),
        form: LinkForm::Ethernet,
        mac,
        elsewhere: None,
    }
}

fn found(world: &mut World, namespaces: &[(Inode, &[&str])]) -> Moves {
    let named = |(inode, names): &(Inode, &[&str])| (*inode, names.iter().map(|&name| name.into()).collect());
    world.found(&namespaces.iter().map(named).collect())
}

/// The host, blue and red, followed, each with these links.
fn world(config: AllConfig, links: &[LinkSeen]) -> World {
    let mut world = World::new(config);
    found(&mut world, &[(HOST, &["host"]), (BLUE, &["blue"]), (RED, &["red"])]);
    for inode in [HOST, BLUE, RED] {
        world.heard(inode, LinkNews::All(links.to_vec()));
    }
    world
}

/// Namespace, index, name and instance of what is wanted.
fn wanted(world: &World) -> Vec<(String, u32, String, u64)> {
    let short = |one: Wanted| (one.namespace, one.link.ifindex, one.link.name, one.instance);
    world.wanted().into_iter().map(short).collect()
}

fn instance(world: &World, inode: Inode, ifindex: u32) -> Option<u64> {
    let this = |one: &Wanted| one.inode == inode && one.link.ifindex == ifindex;
    world.wanted().into_iter().find(this).map(|one| one.instance)
}

#[test]
fn a_namespace_is_followed_by_the_first_name_that_is_admitted() {
    let mut world = World::new(config("", "^(blue|host)", ""));
    let moves = found(&mut world, &[(HOST, &["host"]), (BLUE, &["azure", "blue"]), (RED, &["red"])]);
    assert_eq!(moves, Moves { open: vec![HOST, BLUE], close: vec![] });
    world.heard(BLUE, LinkNews::All(vec![link(2, "eth0")]));
    assert_eq!(wanted(&world)[0].0, "blue");
    assert_eq!(found(&mut world, &[(HOST, &["host"]), (BLUE, &["blue2"])]), Moves::default());
    assert_eq!(wanted(&world)[0].0, "blue2", "a namespace that is renamed is the same");
    let moves = found(&mut world, &[(HOST, &["host"]), (BLUE, &["azure"])]);
    assert_eq!(moves.close, [BLUE], "its name is not admitted any more");
    assert_eq!(wanted(&world), []);
}

#[test]
fn a_namespace_that_is_gone_takes_its_interfaces_along_and_its_inode_may_come_back_as_another() {
    let mut world = world(config("", "", ""), &[link(2, "eth0")]);
    let before = instance(&world, BLUE, 2);
    assert_eq!(found(&mut world, &[(HOST, &["host"]), (RED, &["red"])]).close, [BLUE]);
    world.heard(BLUE, LinkNews::Seen(link(5, "late")));
    assert!(wanted(&world).iter().all(|one| one.0 != "blue"), "late news is nothing");
    found(&mut world, &[(HOST, &["host"]), (BLUE, &["green"]), (RED, &["red"])]);
    world.heard(BLUE, LinkNews::All(vec![link(2, "eth0")]));
    let after = instance(&world, BLUE, 2);
    assert!(before.is_some() && after > before, "it is another interface: {before:?}, {after:?}");
}

#[test]
fn nothing_is_wanted_of_a_namespace_before_all_its_links_are_told() {
    let mut world = World::new(config("", "", ""));
    found(&mut world, &[(BLUE, &["blue"])]);
    world.heard(BLUE, LinkNews::Seen(link(2, "eth0")));
    assert!(wanted(&world).is_empty() && !world.complete());
    world.heard(BLUE, LinkNews::All(vec![link(2, "eth0"), link(3, "eth1")]));
    assert!(wanted(&world).len() == 2 && world.complete());
}

#[test]
fn equal_indices_in_two_namespaces_are_two_interfaces() {
    let mut world = world(config("", "", ""), &[link(2, "eth0")]);
    assert_ne!(instance(&world, BLUE, 2), instance(&world, RED, 2));
    world.heard(BLUE, LinkNews::Gone(2));
    assert_eq!(instance(&world, BLUE, 2), None);
    assert!(instance(&world, RED, 2).is_some() && instance(&world, HOST, 2).is_some());
}

#[test]
fn a_rename_keeps_the_interface_and_is_judged_by_the_new_name() {
    let mut world = world(config("^eth", "", ""), &[link(2, "eth0")]);
    let before = instance(&world, BLUE, 2);
    world.heard(BLUE, LinkNews::Seen(link(2, "eth9")));
    assert_eq!(instance(&world, BLUE, 2), before);
    world.heard(BLUE, LinkNews::Seen(link(2, "spare")));
    assert_eq!(instance(&world, BLUE, 2), None);
    world.heard(BLUE, LinkNews::Seen(link(2, "eth0")));
    assert_eq!(instance(&world, BLUE, 2), before);
}

#[test]
fn an_interface_that_moves_is_gone_here_and_new_there() {
    let mut world = world(config("", "", ""), &[link(2, "eth0")]);
    let before = instance(&world, HOST, 2);
    world.heard(HOST, LinkNews::Gone(2));
    world.heard(BLUE, LinkNews::Seen(link(7, "eth0")));
    assert_eq!(instance(&world, HOST, 2), None);
    assert!(instance(&world, BLUE, 7) > before);
}

#[test]
fn an_index_that_is_used_again_is_another_interface() {
    let mut world = world(config("", "", ""), &[link(2, "eth0")]);
    let before = instance(&world, BLUE, 2);
    world.heard(BLUE, LinkNews::Gone(2));
    world.heard(BLUE, LinkNews::Seen(link(2, "eth0")));
    assert!(instance(&world, BLUE, 2) > before);
}

#[test]
fn after_lost_messages_the_list_says_what_is_gone_new_renamed_and_exchanged() {
    let links = [link(2, "eth0"), link(3, "eth1"), link(4, "eth2"), link(5, "eth3")];
    let mut world = world(config("", "", ""), &links);
    let before = [2, 3, 4, 5].map(|ifindex| instance(&world, BLUE, ifindex));
    let exchanged = LinkSeen { mac: Some([2, 9, 9, 9, 9, 9]), ..link(4, "other") };
    let of_another_kind = LinkSeen { kind: "dummy".into(), ..link(5, "eth3") };
    let now = vec![link(2, "renamed"), exchanged, of_another_kind, link(6, "new")];
    world.heard(BLUE, LinkNews::All(now));
    assert_eq!(instance(&world, BLUE, 2), before[0], "renamed");
    assert_eq!(instance(&world, BLUE, 3), None, "gone");
    assert!(instance(&world, BLUE, 4) > before[2] && instance(&world, BLUE, 5) > before[3], "exchanged");
    assert!(instance(&world, BLUE, 6).is_some(), "new");
}

#[test]
fn kinds_and_names_are_chosen_and_what_is_lost_is_found_anew() {
    let mut world = world(config("", "", "^veth$"), &[link(2, "eth0")]);
    let dummy = LinkSeen { kind: "dummy".to_owned(), ..link(3, "d0") };
    world.heard(BLUE, LinkNews::Seen(dummy));
    assert_eq!(instance(&world, BLUE, 3), None);
    world.lost(BLUE);
    assert_eq!(instance(&world, BLUE, 2), None);
    let moves = found(&mut world, &[(HOST, &["host"]), (BLUE, &["blue"]), (RED, &["red"])]);
    assert_eq!(moves.open, [BLUE]);
}
