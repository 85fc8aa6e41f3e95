//! How taps hang on interfaces: adopted, shared with others' programs, lost and found, given up.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::TcAttachType;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use trunkline_ebpf::{Direction, LinkState, Slot, Tag, Tap, Way};

use crate::frames::{Ipv4, ethernet, ethertype, protocol, udp};
use crate::packet::PacketSocket;
use crate::rig::{Bench, Rig, program, set_next, tap, wrapper};
use crate::way::{Order, by_tcx, foreign_detach, hang, programs, unhang, way};

impl Bench {
    /// Every link of a tap by its pin's name.
    fn links(&self, slot: Slot, name: &str) -> BTreeMap<String, u32> {
        let entries = fs::read_dir(self.folder(slot, name)).expect("a tap's folder");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        let id = |pin: &str| match way() {
            Way::Tcx => {
                let path = self.folder(slot, name).join(pin);
                FdLink::from(PinnedLink::from_pin(path).expect("a link")).info().expect("live").id()
            }
            Way::Clsact if pin == "ingress" => self.programs(name, TcAttachType::Ingress)[0],
            Way::Clsact => self.programs(name, TcAttachType::Egress)[0],
        };
        names.filter(|pin| pin != "qdisc").map(|pin| (pin.clone(), id(&pin))).collect()
    }

    fn programs(&self, link: &str, hook: TcAttachType) -> Vec<u32> {
        programs(&self.namespace, link, hook)
    }

    /// Waits until so many are there: the kernel takes a closed link off some time later.
    fn await_programs(&self, link: &str, hook: TcAttachType, count: usize) {
        let since = Instant::now();
        while self.programs(link, hook).len() != count {
            assert!(since.elapsed() < Duration::from_secs(20), "{:?}", self.programs(link, hook));
            thread::yield_now();
        }
    }
}

/// `push_tag`, and then nothing.
fn tagger(vid: u16) -> Ebpf {
    let mut ebpf = wrapper(0x8100, vid);
    let nothing = program(&mut ebpf, "nothing").fd().expect("loaded").try_clone().expect("a descriptor");
    set_next(&mut ebpf, &nothing);
    ebpf
}

#[test]
fn a_set_that_is_opened_again_adopts_its_taps() {
    let mut bench = Bench::new(way());
    let wanted = Tap { guarded: true, ..bench.tap("b") };
    let slot = bench.ensure(&wanted);
    let before = bench.links(slot, "b");
    assert_eq!(before.keys().collect::<Vec<_>>(), ["egress", "ingress"]);
    bench.send(3);
    bench.rig.await_skbs(slot, Direction::Received, 3);

    let mut bench = bench.killed();
    assert_eq!(bench.rig.set.taps().collect::<Vec<_>>(), [(slot, "b")]);
    assert_eq!(bench.state(slot, &wanted), LinkState::Attached { ifindex: wanted.ifindex });
    assert_eq!(bench.ensure(&wanted), slot);
    assert_eq!(bench.links(slot, "b"), before, "no link was made anew");
    bench.send(4);
    bench.rig.await_skbs(slot, Direction::Received, 7);
    assert_eq!(bench.rig.drain().taps[0].epoch.seen.skbs, 7, "from before and after");
}

#[test]
fn others_programs_before_and_behind_ours_keep_running() {
    let mut bench = Bench::new(way());
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let far = bench.ensure(&bench.tap("b"));
    let (mut before, mut behind, mut watcher) = (tagger(100), tagger(200), tagger(300));
    let (egress, namespace) = (TcAttachType::Egress, &bench.namespace);
    let first = hang(namespace, &mut before, "push_tag", "a", egress, Order::First);
    let last = hang(namespace, &mut behind, "push_tag", "a", egress, Order::Last);
    hang(namespace, &mut watcher, "nothing", "b", TcAttachType::Ingress, Order::First);
    let order = bench.programs("a", TcAttachType::Egress);
    assert!(matches!(order.as_slice(), [one, _, three] if (*one, *three) == (first, last)), "{order:?}");

    assert_eq!(bench.ensure(&wanted), slot);
    assert_eq!(bench.programs("a", TcAttachType::Egress), order, "ensuring moves nobody");
    bench.send(5);
    bench.rig.await_skbs(far, Direction::Received, 5);
    let closed = bench.rig.drain();
    let tags = |slot| {
        let mut flows = closed.flows.iter().filter(|(key, _)| key.slot() == slot);
        let (key, flow) = flows.next().expect("a flow");
        assert!(flow.totals.skbs == 5 && flows.next().is_none(), "{closed:?}");
        [key.outer(), key.inner()].map(|tag| tag.map(|Tag { vid, .. }| vid))
    };
    assert_eq!(tags(slot), [Some(100), None], "the one before ours has put its tag on");
    assert_eq!(tags(far), [Some(200), Some(100)], "and the one behind ours, too");

    unhang(&bench.namespace, before, "a", egress, Order::First);
    unhang(&bench.namespace, behind, "a", egress, Order::Last);
    bench.await_programs("a", TcAttachType::Egress, 1);
    bench.send(1);
    bench.rig.await_skbs(far, Direction::Received, 6);
    let closed = bench.rig.drain();
    assert!(closed.flows.iter().all(|(key, _)| key.outer().is_none()), "ours stays when they go: {closed:?}");
}

#[test]
fn a_foreign_detach_is_noticed_and_mended() {
    let mut bench = Bench::new(way());
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let attached = LinkState::Attached { ifindex: wanted.ifindex };
    bench.send(2);
    for hook in ["egress", "ingress"] {
        let pin = bench.folder(slot, "a").join(hook);
        foreign_detach(&bench.namespace, &pin, "a");
        assert_eq!(bench.state(slot, &wanted), LinkState::Gone, "{hook}");
        bench.send(1);
        let before = bench.skbs(slot, Direction::Sent);
        assert_eq!(bench.ensure(&wanted), slot);
        assert_eq!(bench.state(slot, &wanted), attached, "{hook}");
        bench.send(1);
        assert_eq!(bench.skbs(slot, Direction::Sent), before + 1, "{hook}");
        fs::remove_file(&pin).expect("somebody removes a pin");
        assert_eq!(bench.state(slot, &wanted), LinkState::Gone, "{hook}, without its pin");
        bench.ensure(&wanted);
        assert_eq!(bench.state(slot, &wanted), attached, "{hook}, pinned anew");
    }
    assert_eq!(bench.programs("a", TcAttachType::Egress).len(), 1, "no link is left beside the new one");
    bench.namespace.ip("link del dev a");
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone, "the interface is gone");
    bench.rig.drain();
}

#[test]
fn a_link_that_runs_another_program_gets_ours_without_a_gap() {
    if !by_tcx("a_link_that_runs_another_program_gets_ours_without_a_gap") {
        return;
    }
    let mut bench = Bench::new(way());
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let pin = bench.folder(slot, "a").join("egress");
    fs::remove_file(&pin).expect("a pin");
    // A tap of another version is a link of ours whose program has another tag.
    let mut ebpf = wrapper(0x8100, 1);
    let program = program(&mut ebpf, "nothing");
    let options = TcAttachOptions::TcxOrder(LinkOrder::last());
    let attach = || program.attach_with_options("a", TcAttachType::Egress, options);
    let id = bench.namespace.run(attach).expect("attached");
    let link: FdLink = program.take_link(id).expect("ours").try_into().expect("a TCX link");
    link.pin(&pin).expect("pinned");
    let before = bench.links(slot, "a");
    assert_eq!(bench.state(slot, &wanted), LinkState::OtherProgram { ifindex: wanted.ifindex });
    bench.send(1);
    assert_eq!(bench.skbs(slot, Direction::Sent), 0, "the other program counts nothing");

    bench.ensure(&wanted);
    assert_eq!(bench.state(slot, &wanted), LinkState::Attached { ifindex: wanted.ifindex });
    assert_eq!(bench.links(slot, "a"), before, "the same links");
    bench.send(1);
    assert_eq!(bench.skbs(slot, Direction::Sent), 1);
}

#[test]
fn a_guard_keeps_frames_from_the_stack_and_not_from_packet_sockets() {
    let mut bench = Bench::new(way());
    bench.namespace.ip("addr add 10.0.0.2/24 dev b");
    let mac: Vec<u8> = bench.namespace.link("b")["address"]
        .as_str()
        .expect("a MAC")
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).expect("an octet"))
        .collect();
    bench.namespace.ip("link set dev b arp on");
    bench.namespace.ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:02 dev b");
    let listener = bench.namespace.run(|| std::net::UdpSocket::bind("10.0.0.2:53")).expect("a socket");
    listener.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
    let capture = bench.namespace.run(|| PacketSocket::capture("b"));
    let mut frame = ethernet(ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(5000, 53, b"hello")));
    frame[..6].copy_from_slice(&mac);
    let heard = |bench: &Bench| {
        bench.socket.send(&frame);
        assert!(capture.receive().is_some(), "a packet socket has its copy");
        listener.recv(&mut [0; 16]).is_ok()
    };

    let open = bench.tap("b");
    let slot = bench.ensure(&open);
    assert!(heard(&bench), "without a guard the stack has it");
    let guarded = Tap { guarded: true, ..open.clone() };
    assert_eq!(bench.state(slot, &guarded), LinkState::OtherProgram { ifindex: open.ifindex }, "not guarded");
    bench.ensure(&guarded);
    assert!(!heard(&bench), "the guard keeps it from the stack");
    assert_eq!(bench.skbs(slot, Direction::Received), 2, "and the tap counts it all the same");
    bench.ensure(&open);
    assert!(heard(&bench), "the guard is off again");
}

#[test]
fn a_slot_is_free_again_only_when_its_last_flows_were_read() {
    let mut bench = Bench::new(way());
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    bench.send(3);
    bench.give_up(slot);
    assert_eq!(bench.programs("a", TcAttachType::Egress), Vec::<u32>::new());
    assert_eq!(bench.rig.set.given_up().collect::<Vec<_>>(), [(slot, "a")]);
    bench.send(1);
    let other = bench.ensure(&bench.tap("b"));
    assert_ne!(other, slot, "what it counted is not another's");

    let closed = bench.rig.drain();
    let counted: Vec<_> = closed.taps.iter().filter(|tap| tap.slot == slot).collect();
    assert!(matches!(counted.as_slice(), [tap] if tap.epoch.seen.skbs == 3), "{closed:?}");
    bench.rig.drain();
    bench.rig.reader.zero(slot).expect("set back");
    bench.rig.set.forget(slot).expect("forgotten");
    assert_eq!(bench.rig.set.given_up().count(), 0);
    assert_eq!(bench.skbs(slot, Direction::Sent), 0, "from zero");
    assert_eq!(bench.ensure(&Tap { name: "again".to_owned(), ..wanted }), slot);
    bench.send(2);
    let closed = bench.rig.drain();
    let counted: Vec<_> = closed.taps.iter().filter(|tap| tap.slot == slot).collect();
    assert!(matches!(counted.as_slice(), [tap] if tap.epoch.seen.skbs == 2), "{closed:?}");
}

#[test]
fn a_slot_given_up_stays_taken_in_a_new_process() {
    let mut bench = Bench::new(way());
    let slot = bench.ensure(&bench.tap("a"));
    bench.give_up(slot);
    let Rig { set, .. } = &bench.killed().rig;
    assert_eq!(set.taps().count(), 0);
    assert_eq!(set.given_up().collect::<Vec<_>>(), [(slot, "a")]);
}

#[test]
fn a_set_that_is_destroyed_leaves_nothing() {
    let mut bench = Bench::new(way());
    bench.ensure(&bench.tap("a"));
    bench.rig.drain();
    let Rig { set, reader, bpffs } = bench.rig;
    drop(reader);
    bench.namespace.run(|| set.destroy()).expect("removed");
    assert_eq!(fs::read_dir(bpffs.root()).expect("our folder").count(), 0);
    assert_eq!(programs(&bench.namespace, "a", TcAttachType::Egress), Vec::<u32>::new());
}

#[test]
fn a_full_set_says_how_many_taps_it_holds() {
    let mut bench = Bench::new(way());
    let names: Vec<String> = (0..16).map(|number| format!("tap{number}")).collect();
    for (number, name) in (100..).zip(&names) {
        bench.rig.set.register(&tap(name, "lo", number)).expect("a slot");
    }
    let error = bench.rig.set.register(&tap("one more", "lo", 200)).expect_err("full");
    assert!(error.to_string().contains("all 16 taps are in use"), "{error}");
}

#[test]
fn the_verifier_has_room_for_the_programs() {
    let mut rig = Rig::new(1024);
    let (ingress, egress) = rig.set.programs().taps().expect("loaded");
    for program in [ingress, egress] {
        let info = program.info().expect("loaded");
        let verified = info.verified_instruction_count().expect("this kernel says");
        println!("{} {verified}", info.name_as_str().unwrap_or("?"));
        // A million is the limit, and older kernels need more steps for the same program.
        assert!(verified < 100_000, "{verified}");
    }
}
