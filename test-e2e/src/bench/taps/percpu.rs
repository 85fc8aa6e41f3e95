//! `tap-cost/percpu-hash`: the processor's number in a flow's key, against a hash of which every processor has its values.
//!
//! Both sides are compiled from our programs' source and see the same tap; only the maps of flows differ. What memory
//! they take follows from the kernel's `kernel/bpf/hashtab.c` and the maps' own sizes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapInfo, PerCpuHashMap};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use trunkline_ebpf::{Reader, TapSet, variant};

use super::{FLOWS, NEW_FLOWS, PACKETS, RUNS, capacity, many, maps, mean, open, quickest, tcp4};
use crate::bench::pairs::Pairs;
use crate::bench::report::{Case, Line};
use crate::bench::stats::Goal;
use crate::bench::{Done, Options};

const WARM: Case = Case { bench: "tap-cost/percpu-hash", unit: "ns/packet", goal: Goal::AtMost(1.0) };
const ALONE: Case = Case { bench: "tap-cost/percpu-hash-alone", unit: "ns/packet", goal: Goal::AtMost(1.0) };
const NEW: Case = Case { bench: "tap-cost/percpu-hash-new", unit: "ns/packet", goal: Goal::AtMost(1.0) };
/// All lines of this comparison.
pub(super) const CASES: [Case; 3] = [WARM, ALONE, NEW];

/// Measures the chosen lines.
pub(super) fn run(bpffs: &Path, options: &Options, done: &mut Done<'_>) -> Result<()> {
    let mut bench = Bench::new(bpffs.join("percpu"))?;
    if options.wants(&WARM) {
        done(bench.warm(options.reps)?)?;
    }
    if options.wants(&ALONE) {
        done(bench.alone(options.reps)?)?;
    }
    if options.wants(&NEW) {
        done(bench.new_flows(options.reps)?)?;
    }
    Ok(())
}

struct Bench {
    root: PathBuf,
    set: TapSet,
    reader: Reader,
}

impl Bench {
    fn new(root: PathBuf) -> Result<Self> {
        let (set, reader) = open(&root, capacity(FLOWS))?;
        Ok(Self { root, set, reader })
    }

    /// One warm flow, our programs as they are.
    fn warm(&mut self, reps: usize) -> Result<Line> {
        let (frame, per_cpu) = (tcp4(), self.variant(variant::PER_CPU_HASH)?);
        let mut pairs = Pairs::begin(WARM, reps);
        while pairs.go_on() {
            let floor = quickest(self.set.programs().nothing()?, &frame)?;
            let ours = quickest(self.set.programs().taps()?.0, &frame)? - floor;
            pairs.push(ours, quickest(per_cpu.program()?, &frame)? - floor);
            self.reader.drain()?;
        }
        let note = format!("one warm flow; {}; {}", runs(), per_cpu.memory(&self.root)?);
        Ok(pairs.line(&note))
    }

    /// One warm flow in the hash itself.
    fn alone(&mut self, reps: usize) -> Result<Line> {
        let frame = tcp4();
        let (hash, per_cpu) = (self.variant(variant::HASH)?, self.variant(variant::PER_CPU_HASH)?);
        let mut pairs = Pairs::begin(ALONE, reps);
        while pairs.go_on() {
            let floor = quickest(self.set.programs().nothing()?, &frame)?;
            let ours = quickest(hash.program()?, &frame)? - floor;
            pairs.push(ours, quickest(per_cpu.program()?, &frame)? - floor);
        }
        Ok(pairs.line(&format!("one warm flow, both sides without front tables; {}", runs())))
    }

    /// The first packet of a flow, many times over, our programs as they are.
    fn new_flows(&mut self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(NEW, reps);
        let mut round = 0;
        while pairs.go_on() {
            let per_cpu = self.variant(variant::PER_CPU_HASH)?;
            let frames = many(NEW_FLOWS, round);
            round += 1;
            let floor = mean(self.set.programs().nothing()?, &frames)?;
            let ours = mean(self.set.programs().taps()?.0, &frames)? - floor;
            pairs.push(ours, mean(per_cpu.program()?, &frames)? - floor);
            let (here, there) = (self.reader.drain()?.entries, per_cpu.flows()?);
            ensure!([here, there] == [NEW_FLOWS as usize; 2], "{here} and {there} flows, not {NEW_FLOWS}");
        }
        Ok(pairs.line(&format!(
            "less an empty program's; mean of the first packets of {NEW_FLOWS} flows in a map of {FLOWS}, one test run \
             each; the baseline's map is new in each pair, ours as drains leave it"
        )))
    }

    fn variant(&self, object: &[u8]) -> Result<Variant> {
        Variant::load(object, &maps(&self.root)?, &self.root.with_file_name("others"))
    }
}

fn runs() -> String {
    format!("the quickest of {RUNS} runs of {PACKETS} packets, less an empty program's")
}

/// Our programs over other maps of flows.
struct Variant {
    ebpf: Ebpf,
}

impl Variant {
    /// With the taps that the set's `maps` have. `pins` is for its other maps, and gone afterwards.
    fn load(object: &[u8], maps: &Path, pins: &Path) -> Result<Self> {
        std::fs::create_dir_all(pins).context("creating a folder for other maps")?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins)
            .map_pin_path("tl_near", maps.join("tl_near"))
            .map_max_entries("tl_flows_0", FLOWS)
            .map_max_entries("tl_flows_1", FLOWS)
            .load(object)
            .context("loading programs over other maps")?;
        std::fs::remove_dir_all(pins).context("removing the pins of other maps")?;
        let program = ebpf.program_mut(PROGRAM).with_context(|| format!("no program {PROGRAM}"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        Ok(Self { ebpf })
    }

    fn program(&self) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(PROGRAM).with_context(|| format!("no program {PROGRAM}"))?.try_into()?)
    }

    fn flows(&self) -> Result<usize> {
        let map = self.ebpf.map("tl_flows_0").context("no map of flows")?;
        let map: PerCpuHashMap<_, [u8; 48], [u8; 72]> = PerCpuHashMap::try_from(map)?;
        Ok(map.keys().count())
    }

    /// What a flow takes here and there.
    fn memory(&self, root: &Path) -> Result<String> {
        let Some(Map::PerCpuHashMap(theirs)) = self.ebpf.map("tl_flows_0") else {
            anyhow::bail!("no map of flows")
        };
        let (theirs, ours) = (theirs.info()?, MapInfo::from_pin(maps(root)?.join("tl_flows_0"))?);
        // An entry's header, key and value, or a pointer to values of 8 bytes' alignment; and a bucket.
        let fixed = |info: &MapInfo| 48 + info.key_size().next_multiple_of(8) + 16;
        let each = fixed(&ours) + ours.value_size().next_multiple_of(8);
        let all = |processors| fixed(&theirs) + 8 + processors * theirs.value_size().next_multiple_of(8);
        Ok(format!(
            "a flow takes {each} bytes for each processor that sees it, front tables apart, and in a per-CPU hash {} \
             with 2 processors and {} with 128, whoever sees it",
            all(2),
            all(128),
        ))
    }
}

/// What a tap runs on receive.
const PROGRAM: &str = "tap_ingress";
