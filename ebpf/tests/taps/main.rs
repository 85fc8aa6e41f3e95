//! The taps in the running kernel: what they count, how they hang on interfaces, what survives whom.

mod bpffs;
mod clsact;
mod dns;
mod exactness;
mod frames;
mod generated;
mod golden;
mod handshake;
mod kill;
mod lifecycle;
mod namespace;
mod overlap;
mod packet;
mod recovery;
mod reference;
mod rig;
mod sampling;
mod upgrade;
mod way;

use aya::programs::{TestRun as _, TestRunOptions};
use bpffs::Bpffs;
use trunkline_ebpf::{Budget, Conversation, Direction, Tap};

fn tap() -> Tap {
    Tap {
        name: "test".to_owned(),
        interface: "lo".to_owned(),
        ifindex: 1,
        host_side: false,
        no_ethernet: false,
        guarded: false,
    }
}

#[test]
fn a_frame_becomes_a_flow_and_the_epoch_adds_up() {
    let bpffs = Bpffs::new();
    let capacity = Budget { bytes: 8 << 20, taps: 16, processors: 2 }.capacity().expect("8 MiB");
    let mut set = way::open(&bpffs.root(), capacity);
    let slot = set.register(&tap()).expect("a slot");
    let mut reader = set.reader().expect("the maps");
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x30, 0x39, 0, 53, 0, 20, 0, 0]);
    frame.extend([0; 12]);
    let (ingress, _) = set.programs().taps().expect("loaded");
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = 7;
    let ran = ingress.test_run(options).expect("a test run");
    assert_eq!(ran.return_value, u32::MAX, "TC_ACT_UNSPEC");
    let closed = reader.drain().expect("drained").merged();
    assert_eq!(closed.inexact(), vec![]);
    let [(key, totals)] = closed.flows.as_slice() else { panic!("{closed:?}") };
    assert_eq!(key.slot(), slot);
    assert_eq!(key.direction(), Direction::Received);
    assert_eq!(totals.totals.skbs, 7);
    assert_eq!(totals.totals.bytes, 7 * 54);
    let expected = Conversation::Ip {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        protocol: 17,
        src_port: 12345,
        dst_port: 53,
    };
    assert_eq!(key.conversation(), expected);
}

#[test]
fn runs_are_counted_while_the_kernel_counts_them() {
    let mut rig = rig::Rig::new(1024);
    let before = rig.reader.ran().expect("the maps' number");
    let counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("the kernel can count");
    for _ in 0..9 {
        rig.run(Direction::Received, &[0; 60]).expect("a test run");
    }
    drop(counting);
    let after = rig.reader.ran().expect("the maps' number");
    assert_eq!(after.runs - before.runs, 9, "{before:?}, then {after:?}");
    assert!(after.time > before.time, "{before:?}, then {after:?}");
}
