//! A set of taps of a test's own, and the ways by which a frame gets to its programs.
//!
//! Owns a bpffs and a set on it; where a way needs links, they are in a namespace of this rig.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use trunkline_ebpf::{Budget, Capacity, ClosedEpoch, Direction, LinkState, Reader, Slot, Tap, TapSet, Way};

use crate::bpffs::Bpffs;
use crate::frames::{Ipv4, ethernet, ethertype, protocol, udp};
use crate::namespace::Namespace;
use crate::packet::{self, PacketSocket, VnetHeader};
use crate::way::way;

static WRAPPER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wrapper.o"));

/// How long the kernel may take to deliver what was sent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells threads of a scope to end, also when the test panics: the scope waits for them.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does some work while frames are sent, each made from its number; returns how many were. `work` may look at how many
/// there are so far.
pub(crate) fn under_traffic<T>(
    socket: &PacketSocket,
    frame: impl Fn(u64) -> Vec<u8> + Sync,
    work: impl FnOnce(&AtomicU64) -> T,
) -> (T, u64) {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        let _running = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                socket.send(&frame(number));
                sent.store(number + 1, Ordering::Relaxed);
            }
        });
        work(&sent)
    });
    (done, sent.into_inner())
}

/// A wanted tap of the pod's side, to be changed where a test wants another.
pub(crate) fn tap(name: &str, interface: &str, ifindex: u32) -> Tap {
    Tap {
        name: name.to_owned(),
        interface: interface.to_owned(),
        ifindex,
        host_side: false,
        no_ethernet: false,
        guarded: false,
    }
}

/// Room for so many flows.
pub(crate) fn capacity(flows: u32) -> Capacity {
    Budget { bytes: 0, taps: 16, processors: 2 }.with_flows(flows)
}

/// The wrapper's programs, with the tag that `push_tag` puts on.
pub(crate) fn wrapper(tpid: u16, tci: u16) -> Ebpf {
    let (tpid, tci) = (u32::from(tpid), u32::from(tci));
    let mut ebpf = EbpfLoader::new()
        .override_global("tag_protocol", &tpid, true)
        .override_global("tag_tci", &tci, true)
        .load(WRAPPER)
        .expect("the wrapper loads");
    for name in ["push_tag", "nothing"] {
        program(&mut ebpf, name).load().expect("the verifier takes the wrapper");
    }
    ebpf
}

/// One of the wrapper's programs.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).expect("in the object").try_into().expect("a classifier")
}

/// What `push_tag` runs next.
pub(crate) fn set_next(ebpf: &mut Ebpf, next: &aya::programs::ProgramFd) {
    let map = ebpf.map_mut("next").expect("in the object");
    let mut programs = aya::maps::ProgramArray::try_from(map).expect("an array of programs");
    programs.set(0, next, 0).expect("the one entry");
}

/// A set, its reader, and the file system that holds it.
pub(crate) struct Rig {
    pub(crate) set: TapSet,
    pub(crate) reader: Reader,
    pub(crate) bpffs: Bpffs,
}

impl Rig {
    pub(crate) fn new(flows: u32) -> Self {
        Self::open(Bpffs::new(), flows, way())
    }

    /// With what the file system holds.
    fn open(bpffs: Bpffs, flows: u32, way: Way) -> Self {
        let set = TapSet::open_with(&bpffs.root(), capacity(flows), way).expect("the programs load");
        let reader = set.reader().expect("the maps");
        Self { set, reader, bpffs }
    }

    /// Where the maps of this set are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        let sets: Vec<_> = std::fs::read_dir(self.bpffs.root()).expect("our folder").collect();
        let [Ok(only)] = sets.as_slice() else { panic!("{sets:?}") };
        only.path().join("maps")
    }

    /// Runs the receiving or the sending program on a frame.
    pub(crate) fn run(&mut self, hook: Direction, frame: &[u8]) -> Result<(), String> {
        let (ingress, egress) = self.set.programs().taps().expect("loaded");
        run_program(if hook == Direction::Received { ingress } else { egress }, frame)
    }

    /// Runs the receiving program on a frame whose outermost tag is in `vlan_tci`.
    pub(crate) fn run_accelerated(&mut self, tpid: u16, tci: u16, frame: &[u8]) -> Result<(), String> {
        let mut ebpf = wrapper(tpid, tci);
        let (ingress, _) = self.set.programs().taps().expect("loaded");
        let ingress = ingress.fd().expect("loaded").try_clone().expect("another descriptor");
        set_next(&mut ebpf, &ingress);
        run_program(program(&mut ebpf, "push_tag"), frame)
    }

    /// Closes the epoch, which must add up.
    pub(crate) fn drain(&mut self) -> ClosedEpoch {
        let closed = self.reader.drain().expect("drained");
        assert_eq!(closed.inexact(), vec![], "epoch {}", closed.epoch);
        closed.merged()
    }

    /// Waits until a tap has counted so many socket buffers since it was attached.
    pub(crate) fn await_skbs(&self, slot: Slot, direction: Direction, skbs: u64) {
        let since = Instant::now();
        loop {
            let seen = self.reader.totals(slot, direction).expect("the counters").seen.skbs;
            if seen >= skbs {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{slot:?} {direction:?} saw {seen} of {skbs}");
            thread::yield_now();
        }
    }
}

/// One test run; the verdict must let the frame go on.
pub(crate) fn run_program(program: &SchedClassifier, frame: &[u8]) -> Result<(), String> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    let ran = program.test_run(options).map_err(|error| format!("{error:?}"))?;
    assert_eq!(ran.return_value, u32::MAX, "the verdict is TC_ACT_UNSPEC");
    Ok(())
}

/// A pair `a`–`b` in a namespace, and what sends from `a`.
pub(crate) fn pair() -> (Namespace, PacketSocket) {
    let namespace = Namespace::new();
    namespace.pair("a", &namespace, "b");
    let socket = namespace.run(|| PacketSocket::sender("a", false));
    (namespace, socket)
}

/// A rig, and a pair `a`–`b` in a namespace.
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) namespace: Namespace,
    pub(crate) socket: PacketSocket,
}

impl Bench {
    pub(crate) fn new(way: Way) -> Self {
        let (namespace, socket) = pair();
        Self { rig: Rig::open(Bpffs::new(), 1024, way), namespace, socket }
    }

    /// The process dies, and the next one opens what is there.
    pub(crate) fn killed(self) -> Self {
        let Self { rig: Rig { set, reader, bpffs }, namespace, socket } = self;
        let way = set.way();
        drop((set, reader));
        Self { rig: Rig::open(bpffs, 1024, way), namespace, socket }
    }

    pub(crate) fn tap(&self, link: &str) -> Tap {
        tap(link, link, self.namespace.index(link))
    }

    pub(crate) fn try_ensure(&mut self, tap: &Tap) -> Result<Slot, String> {
        let (set, namespace) = (&mut self.rig.set, &self.namespace);
        namespace.run(move || set.ensure(tap)).map_err(|error| error.to_string())
    }

    pub(crate) fn ensure(&mut self, tap: &Tap) -> Slot {
        self.try_ensure(tap).expect("attached")
    }

    pub(crate) fn state(&self, slot: Slot, tap: &Tap) -> LinkState {
        self.namespace.run(|| self.rig.set.state(slot, tap)).expect("readable")
    }

    pub(crate) fn give_up(&mut self, slot: Slot) {
        let (set, namespace) = (&mut self.rig.set, &self.namespace);
        namespace.run(move || set.give_up(slot)).expect("off");
    }

    /// What is pinned or recorded of a tap.
    pub(crate) fn folder(&self, slot: Slot, name: &str) -> PathBuf {
        self.rig.maps().with_file_name("taps").join(format!("{}_{name}", slot.0))
    }

    /// Sends so many equal frames from `a`.
    pub(crate) fn send(&self, frames: u64) {
        (0..frames).for_each(|_| self.socket.send(&frame(1)));
    }

    pub(crate) fn skbs(&self, slot: Slot, direction: Direction) -> u64 {
        self.rig.reader.totals(slot, direction).expect("the counters").seen.skbs
    }
}

/// A frame of one of many flows.
pub(crate) fn frame(flow: u16) -> Vec<u8> {
    ethernet(ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(flow, 53, b"")))
}

/// A pair `a`–`b` and a TUN device in a namespace, all of them tapped.
pub(crate) struct Wire {
    /// Keeps the links.
    _namespace: Namespace,
    plain: PacketSocket,
    offloaded: PacketSocket,
    tun: File,
    pub(crate) a: Slot,
    pub(crate) b: Slot,
    pub(crate) raw: Slot,
    sent: u64,
    received: u64,
    written: u64,
}

impl Wire {
    pub(crate) fn new(rig: &mut Rig) -> Self {
        let namespace = Namespace::new();
        namespace.pair("a", &namespace, "b");
        for link in ["a", "b"] {
            namespace.ip(&format!("link set dev {link} mtu 60000"));
        }
        let tun = namespace.run(|| packet::tun("raw"));
        namespace.ip("link set dev raw up");
        let mut ensure = |link: &str, no_ethernet| {
            let tap = Tap { no_ethernet, ..tap(link, link, namespace.index(link)) };
            let set = &mut rig.set;
            namespace.run(move || set.ensure(&tap)).expect("attached")
        };
        let (a, b, raw) = (ensure("a", false), ensure("b", false), ensure("raw", true));
        let open = |offload| namespace.run(|| PacketSocket::sender("a", offload));
        let (plain, offloaded) = (open(false), open(true));
        Self { _namespace: namespace, plain, offloaded, tun, a, b, raw, sent: 0, received: 0, written: 0 }
    }

    /// Sends a frame from `a`.
    pub(crate) fn send(&mut self, rig: &Rig, offload: Option<VnetHeader>, frame: &[u8]) {
        match offload {
            None => self.plain.send(frame),
            Some(header) => self.offloaded.send_offloaded(header, frame),
        }
        self.sent += 1;
        rig.await_skbs(self.a, Direction::Sent, self.sent);
    }

    /// Waits until `b` has received one more.
    pub(crate) fn await_received(&mut self, rig: &Rig) {
        self.received += 1;
        rig.await_skbs(self.b, Direction::Received, self.received);
    }

    /// Has the TUN device receive a packet.
    pub(crate) fn write(&mut self, rig: &Rig, packet: &[u8]) {
        self.tun.write_all(packet).expect("taken by the device");
        self.written += 1;
        rig.await_skbs(self.raw, Direction::Received, self.written);
    }
}
