//! `tap-cost`, `flow-drain` and `flow-memory`: what a tap adds to a packet, what reading flows takes, and what both take up.
//!
//! Costs are those of `BPF_PROG_TEST_RUN`, less an empty program's: the program itself, without the dispatch of the hook
//! and without cold caches. The peer is `NetObserv`'s own compiled object, where `PEER_TAP_OBJECT` names it; without one
//! those lines have no ratio. No traffic, no namespace; a BPF file system of its own.

mod percpu;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use trunkline_agent::flows::{FlowTable, Timeouts};
use trunkline_ebpf::{Budget, Capacity, Reader, Tap, TapSet, possible_processors};

use super::pairs::Pairs;
use super::report::{Case, Line};
use super::stats::{Goal, float, rate};
use super::{Done, Options};
use crate::light::Usage;
use crate::light::bpffs::Bpffs;
use crate::run::Run;

const TCP4: Case = Case { bench: "tap-cost/tcp4", unit: "ns/packet", goal: Goal::AtMost(0.45) };
const UDP6: Case = Case { bench: "tap-cost/udp6", unit: "ns/packet", goal: Goal::AtMost(0.45) };
const VLAN: Case = Case { bench: "tap-cost/vlan", unit: "ns/packet", goal: Goal::AtMost(0.45) };
const NEW: Case = Case { bench: "tap-cost/new-flow", unit: "ns/packet", goal: Goal::AtMost(0.5) };
const DRAIN: Case = Case { bench: "flow-drain/100k", unit: "flows/s", goal: Goal::AtLeast(5.0) };
const MEMORY: Case = Case { bench: "flow-memory", unit: "bytes", goal: Goal::AtMost(1.0) };
/// All lines of this group.
pub(super) const CASES: [Case; 9] =
    [TCP4, UDP6, VLAN, NEW, percpu::CASES[0], percpu::CASES[1], percpu::CASES[2], DRAIN, MEMORY];

/// Names the peer's object file.
const PEER: &str = "PEER_TAP_OBJECT";
/// Its program that does what a tap on receive does.
const PEER_PROGRAM: &str = "tcx_ingress_flow_parse";
/// Test runs of one measurement, and packets of each; the quickest run counts, since nothing makes one quicker than it is.
const RUNS: usize = 40;
const PACKETS: u32 = 20_000;
const FLOWS: u32 = 100_000;
/// New flows of one measurement.
const NEW_FLOWS: u32 = 20_000;
const BUDGET: u64 = 64 << 20;

/// Measures the chosen lines of this group.
pub(super) fn run(options: &Options, done: &mut Done<'_>) -> Result<()> {
    let run = Run::start("bench-taps")?;
    let bpffs = Bpffs::create(&run, run.dir().join("bpf"))?;
    let mut bench = Bench::new(bpffs.path())?;
    for (case, frame) in [(TCP4, tcp4()), (UDP6, udp6()), (VLAN, vlan())] {
        if options.wants(&case) {
            done(bench.cost(case, &frame, options.reps)?)?;
        }
    }
    if options.wants(&NEW) {
        done(bench.new_flows(options.reps)?)?;
    }
    if percpu::CASES.iter().any(|case| options.wants(case)) {
        percpu::run(bpffs.path(), options, done)?;
    }
    if options.wants(&DRAIN) {
        done(drain(bpffs.path(), options.reps)?)?;
    }
    if options.wants(&MEMORY) {
        done(memory(bpffs.path())?)?;
    }
    Ok(())
}

struct Bench {
    bpffs: PathBuf,
    set: TapSet,
    reader: Reader,
    peer: Option<Peer>,
    /// How often all was made anew.
    round: u32,
}

pub(super) fn capacity(flows: u32) -> Capacity {
    Budget { bytes: BUDGET, taps: 1024, processors: possible_processors() }.with_flows(flows)
}

/// A set with one tap on the loopback interface, which test runs pretend to come from.
fn open(root: &Path, capacity: Capacity) -> Result<(TapSet, Reader)> {
    let mut set = TapSet::open(root, capacity)?;
    let tap = Tap {
        name: "lo".to_owned(),
        interface: "lo".to_owned(),
        ifindex: 1,
        host_side: false,
        no_ethernet: false,
        guarded: false,
    };
    set.register(&tap)?;
    let mut reader = set.reader()?;
    // As the agent does by default.
    reader.follow_dns(Some(53))?;
    Ok((set, reader))
}

/// Where the maps of the only set are pinned.
fn maps(root: &Path) -> Result<PathBuf> {
    Ok(std::fs::read_dir(root)?.next().context("no set")??.path().join("maps"))
}

impl Bench {
    fn new(bpffs: &Path) -> Result<Self> {
        let (set, reader) = open(&bpffs.join("cost0"), capacity(FLOWS))?;
        Ok(Self { bpffs: bpffs.to_owned(), set, reader, peer: peer(&bpffs.join("peer0"))?, round: 0 })
    }

    /// Loads both sides anew: where maps and programs happen to lie is worth some nanoseconds either way.
    fn renew(&mut self) -> Result<()> {
        let before = self.bpffs.join(format!("peer{}", self.round));
        self.round += 1;
        let (set, reader) = open(&self.bpffs.join(format!("cost{}", self.round)), capacity(FLOWS))?;
        self.reader = reader;
        std::mem::replace(&mut self.set, set).destroy()?;
        self.peer = peer(&self.bpffs.join(format!("peer{}", self.round)))?;
        if before.exists() {
            std::fs::remove_dir_all(before).context("removing the peer's maps")?;
        }
        Ok(())
    }

    /// One warm flow.
    fn cost(&mut self, case: Case, frame: &[u8], reps: usize) -> Result<Line> {
        let note = format!(
            "less an empty program's; the quickest of {RUNS} runs of {PACKETS} packets of one flow; both loaded anew for each pair; {}",
            self.peer_note()
        );
        let mut pairs = Pairs::begin(case, reps);
        let mut alone = Vec::new();
        while pairs.go_on() && alone.len() < reps {
            self.renew()?;
            let floor = quickest(self.set.programs().nothing()?, frame)?;
            let ours = quickest(self.set.programs().taps()?.0, frame)? - floor;
            match &self.peer {
                Some(peer) => pairs.push(ours, quickest(peer.program()?, frame)? - floor),
                None => alone.push(ours),
            }
        }
        Ok(if self.peer.is_some() { pairs.line(&note) } else { case.alone(&alone, &note) })
    }

    /// The first packet of a flow, many times over.
    fn new_flows(&mut self, reps: usize) -> Result<Line> {
        let note = format!(
            "less an empty program's; mean of the first packets of {NEW_FLOWS} flows in a map of {FLOWS}, one test run each; {}",
            self.peer_note()
        );
        let mut pairs = Pairs::begin(NEW, reps);
        let (mut alone, mut round) = (Vec::new(), 0);
        self.reader.drain()?;
        while pairs.go_on() && alone.len() < reps {
            let frames = many(NEW_FLOWS, round);
            round += 1;
            let floor = mean(self.set.programs().nothing()?, &frames)?;
            let ours = mean(self.set.programs().taps()?.0, &frames)? - floor;
            match &mut self.peer {
                Some(peer) => {
                    let theirs = mean(peer.program()?, &frames)? - floor;
                    peer.clear()?;
                    pairs.push(ours, theirs);
                }
                None => alone.push(ours),
            }
            let closed = self.reader.drain()?;
            ensure!(closed.entries == NEW_FLOWS as usize, "{} flows, not {NEW_FLOWS}", closed.entries);
        }
        Ok(if self.peer.is_some() { pairs.line(&note) } else { NEW.alone(&alone, &note) })
    }

    fn peer_note(&self) -> String {
        if self.peer.is_some() {
            format!(
                "baseline: {PEER_PROGRAM} of the object that {PEER} names, its defaults, the same frames and floor (it counts no tagged frame: its vlan is the cost of looking away)"
            )
        } else {
            format!("no baseline: {PEER} names no object")
        }
    }
}

/// Nanoseconds a packet in the quickest of many runs.
pub(super) fn quickest(program: &SchedClassifier, frame: &[u8]) -> Result<f64> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(test(program, frame, PACKETS)?);
    }
    Ok(best.as_secs_f64() * 1e9)
}

/// Nanoseconds a packet over many frames, one run each.
fn mean(program: &SchedClassifier, frames: &[Vec<u8>]) -> Result<f64> {
    let mut sum = Duration::ZERO;
    for frame in frames {
        sum += test(program, frame, 1)?;
    }
    Ok(sum.as_secs_f64() * 1e9 / float(frames.len()))
}

fn test(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<Duration> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    Ok(program.test_run(options).context("a test run")?.duration)
}

/// `NetObserv`'s programs, loaded as its own agent's defaults have them.
struct Peer {
    ebpf: Ebpf,
}

/// The peer's program, where an object is named.
fn peer(pins: &Path) -> Result<Option<Peer>> {
    std::env::var_os(PEER).map(|object| Peer::load(&PathBuf::from(object), pins)).transpose()
}

impl Peer {
    fn load(object: &Path, pins: &Path) -> Result<Self> {
        std::fs::create_dir_all(pins).context("creating a folder for the peer's maps")?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins).map_max_entries("aggregated_flows", FLOWS);
        // Features that are off by default: as small as their kind of map may be, as the peer's agent does it.
        for map in ["aggregated_flows_dns", "aggregated_flows_pkt_drop", "aggregated_flows_network_events"]
            .into_iter()
            .chain(["aggregated_flows_xlat", "additional_flow_metrics", "quic_flows", "dns_flows"])
            .chain(["ipsec_ingress_map", "ipsec_egress_map"])
        {
            loader.map_max_entries(map, 1);
        }
        for ring in ["direct_flows", "packet_record", "ssl_data_event_map"] {
            loader.map_max_entries(ring, 4096);
        }
        let mut ebpf = loader.load_file(object).with_context(|| format!("loading {}", object.display()))?;
        let program = ebpf.program_mut(PEER_PROGRAM).with_context(|| format!("no program {PEER_PROGRAM}"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        Ok(Self { ebpf })
    }

    fn program(&self) -> Result<&SchedClassifier> {
        let program =
            self.ebpf.program(PEER_PROGRAM).with_context(|| format!("no program {PEER_PROGRAM}"))?;
        Ok(program.try_into()?)
    }

    /// Empties its flow map, so that the next flows are new to it too.
    fn clear(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("aggregated_flows").context("no map aggregated_flows")?;
        let mut map: HashMap<_, [u8; 40], [u8; 104]> = HashMap::try_from(map)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| map.remove(key)).context("emptying the peer's flow map")
    }
}

/// Reading and emptying a full map: ours in batches with the flip and the wait, against system calls for each flow, as it
/// is done without batches.
fn drain(bpffs: &Path, reps: usize) -> Result<Line> {
    let capacity = capacity(FLOWS + FLOWS / 8);
    let root = bpffs.join("drain");
    let (mut set, mut reader) = open(&root, capacity)?;
    let mut pairs = Pairs::begin(DRAIN, reps);
    let mut round = 0;
    while pairs.go_on() {
        let mut fill = |set: &mut TapSet| {
            round += 1;
            fill_with(set, FLOWS, round)
        };
        fill(&mut set)?;
        let begin = Instant::now();
        let closed = reader.drain()?;
        let ours = begin.elapsed();
        ensure!(closed.flows.len() == FLOWS as usize, "{} flows", closed.flows.len());
        fill(&mut set)?;
        let epoch = reader.flip()?;
        let (count, theirs) = one_by_one(&root, epoch)?;
        // The rest is in the front tables.
        reader.drain_leftover()?;
        pairs.push(rate(FLOWS as usize, ours), rate(count, theirs));
    }
    Ok(pairs.line("100,000 flows; ours with flip, grace period and clearing; baseline: next key, lookup and deletion for each flow, a system call each"))
}

/// New flows of a round. A few frames at a time: what they took up would hide what the table takes.
fn fill_with(set: &mut TapSet, count: u32, round: u32) -> Result<()> {
    const AT_ONCE: u32 = 1000;
    for first in (0..count).step_by(AT_ONCE as usize) {
        let frames = some(first..count.min(first + AT_ONCE), round);
        mean(set.programs().taps()?.0, &frames)?;
    }
    Ok(())
}

/// How many flows the map has, and how long they took. The others are in the front tables, which the peer has not.
fn one_by_one(root: &Path, epoch: u32) -> Result<(usize, Duration)> {
    let maps = maps(root)?;
    let open = || {
        let data = MapData::from_pin(maps.join(format!("tl_flows_{}", epoch & 1)))?;
        Ok::<HashMap<_, [u8; 48], [u8; 72]>, anyhow::Error>(HashMap::try_from(Map::HashMap(data))?)
    };
    let (map, mut emptied) = (open()?, open()?);
    let (begin, mut count, mut before) = (Instant::now(), 0, None);
    for entry in &map {
        let (key, value) = entry?;
        std::hint::black_box(value);
        // One behind: of a key that is gone nobody knows the next.
        if let Some(before) = before.replace(key) {
            emptied.remove(&before)?;
        }
        count += 1;
    }
    let took = begin.elapsed();
    ensure!(count > FLOWS as usize / 2, "{count} flows");
    Ok((count, took))
}

/// Bytes of all maps, as the kernel counts them, and what the table grows by, against the budget that the agent prints.
fn memory(bpffs: &Path) -> Result<Line> {
    let budget = Budget { bytes: BUDGET, taps: 1024, processors: possible_processors() };
    let capacity = budget.capacity()?;
    let (mut set, mut reader) = open(&bpffs.join("memory"), capacity)?;
    let maps = map_bytes(&bpffs.join("memory"))?;
    let pid = i32::try_from(std::process::id()).context("our pid")?;
    let timeouts = Timeouts { active: Duration::from_mins(1), idle: Duration::from_mins(1) };
    let mut table = FlowTable::new(capacity.flows as usize, timeouts);
    fill_with(&mut set, capacity.flows, 0)?;
    let before = Usage::of(pid)?.rss_kib;
    table.absorb(&reader.drain()?.flows);
    let grown = (Usage::of(pid)?.rss_kib.saturating_sub(before)) * 1024;
    ensure!(table.len() > capacity.flows as usize * 9 / 10, "only {} flows", table.len());
    let mut pairs = Pairs::begin(MEMORY, 1);
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    pairs.push((maps + grown) as f64, BUDGET as f64);
    Ok(pairs.line(&format!(
        "{} flows, all that the budget of 64 MiB holds; maps {maps} bytes, growth of resident memory {grown} bytes with the table full",
        table.len(),
    )))
}

/// `memlock` of every map's `fdinfo`: what the kernel says that the map takes (since 6.4).
fn map_bytes(root: &Path) -> Result<u64> {
    let mut sum = 0;
    for map in std::fs::read_dir(maps(root)?)? {
        let data = MapData::from_pin(map?.path())?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(data.fd()));
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("reading fdinfo")?;
        let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        sum += bytes.trim().parse::<u64>().context("reading memlock")?;
    }
    Ok(sum)
}

pub(super) fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame
}

pub(super) fn ipv4(protocol: u8, source: [u8; 4]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 50, 0, 0, 0, 0, 64, protocol, 0, 0];
    header.extend(source);
    header.extend([10, 0, 0, 2]);
    header
}

fn tcp4() -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    frame.extend(ipv4(6, [10, 0, 0, 1]));
    frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.resize(64, 0);
    frame
}

pub(super) fn udp6() -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, 20, 17, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfc; 16]);
    frame.extend([0x30, 0x39, 0x13, 0x89, 0, 20, 0, 0]);
    frame.resize(74, 0);
    frame
}

fn vlan() -> Vec<u8> {
    let mut frame = ethernet(0x8100);
    frame.extend([0, 100, 8, 0]);
    frame.extend(ipv4(17, [10, 0, 0, 1]));
    frame.extend([0x30, 0x39, 0x13, 0x89, 0, 30, 0, 0]);
    frame.resize(68, 0);
    frame
}

/// Frames of as many flows, other ones in each round.
fn many(count: u32, round: u32) -> Vec<Vec<u8>> {
    some(0..count, round)
}

fn some(numbers: Range<u32>, round: u32) -> Vec<Vec<u8>> {
    let one = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let mut frame = ethernet(0x0800);
        frame.extend(ipv4(17, [11, a, b, c]));
        let port = u16::try_from(1024 + round % 60_000).unwrap_or(u16::MAX);
        frame.extend(port.to_be_bytes());
        frame.extend([0x13, 0x89, 0, 30, 0, 0]);
        frame.resize(64, 0);
        frame
    };
    numbers.map(one).collect()
}
