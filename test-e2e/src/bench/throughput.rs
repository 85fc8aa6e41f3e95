//! `tap-throughput`: what taps take from a stream of packets, on a bare pair of links and through a switch.
//!
//! One thread, pinned to a processor, sends through a packet socket as fast as it can; what a pair does on receive runs
//! on the same processor, so that its time is in the sender's. On, off and the switch's own exports take turns within
//! each round. Namespaces, a switch and a BPF file system of its own.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::programs::TcAttachType;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, SockaddrStorage, bind, sendmmsg};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use trunkline_ebpf::{Direction, Reader, Slot, Tap, TapSet};

use super::pairs::Pairs;
use super::report::{Case, Line};
use super::stats::{Goal, float, median};
use super::taps::{capacity, ethernet, ipv4, quickest, udp6};
use super::{Done, Options};
use crate::light::Ovs;
use crate::light::bpffs::Bpffs;
use crate::netns::Netns;
use crate::run::Run;

const VETH: Case = Case { bench: "tap-throughput/veth", unit: "ns/packet", goal: Goal::AtMost(1.3) };
const OVS: Case = Case { bench: "tap-throughput/ovs", unit: "packets/s", goal: Goal::AtLeast(0.97) };
/// All lines of this group.
pub(super) const CASES: [Case; 2] = [VETH, OVS];

/// Frames that one system call sends.
const BATCH: usize = 64;
/// One measurement of the bare pair, and how many of each kind a round has: the quickest counts.
const GLANCE: Duration = Duration::from_millis(60);
const GLANCES: usize = 15;
/// One measurement through the switch, and what goes before it unmeasured.
const STRETCH: Duration = Duration::from_millis(1500);
const WARM: Duration = Duration::from_millis(300);
const FLOWS: u32 = 10_000;
const BRIDGE: &str = "br-bench";
/// Where nobody listens: the switch sends its exports all the same.
const COLLECTOR: &str = "127.0.0.1:4739";

/// Measures the chosen lines of this group.
pub(super) fn run(options: &Options, done: &mut Done<'_>) -> Result<()> {
    let run = Run::start("bench-throughput")?;
    let bpffs = Bpffs::create(&run, run.dir().join("bpf"))?;
    if options.wants(&VETH) {
        done(veth(&run, &bpffs, options.reps)?)?;
    }
    if options.wants(&OVS) {
        done(ovs(&run, &bpffs, options.reps)?)?;
    }
    Ok(())
}

/// Links of a node that can be tapped and left alone again.
struct Tapped {
    node: Netns,
    set: TapSet,
    reader: Reader,
    links: Vec<&'static str>,
    guarded: bool,
    slots: Vec<Slot>,
}

impl Tapped {
    fn new(bpffs: &Bpffs, node: Netns, links: Vec<&'static str>, guarded: bool) -> Result<Self> {
        let set = TapSet::open(&bpffs.path().join(node.name()), capacity(FLOWS))?;
        let reader = set.reader()?;
        Ok(Self { node, set, reader, links, guarded, slots: Vec::new() })
    }

    fn on(&mut self) -> Result<()> {
        for link in self.links.clone() {
            let ifindex = self.node.enter(move || nix::net::if_::if_nametoindex(link))??;
            let tap = wanted(link, ifindex, self.guarded);
            let slot = self.inside(|set| Ok(set.ensure(&tap)?))?;
            self.slots.push(slot);
        }
        Ok(())
    }

    /// In place of the tap on what the first link receives, a program that does nothing.
    fn empty_on(&mut self) -> Result<SchedClassifierLinkId> {
        let link = self.links[0];
        self.inside(|set| {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let attached = set.programs().nothing()?.attach_with_options(link, TcAttachType::Ingress, first);
            attached.context("attaching an empty program")
        })
    }

    fn empty_off(&mut self, link: SchedClassifierLinkId) -> Result<()> {
        self.set.programs().nothing()?.detach(link).context("taking an empty program off")
    }

    /// Does something to the set on a thread in the node's namespace.
    fn inside<T: Send>(&mut self, work: impl FnOnce(&mut TapSet) -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.node.path()).context("opening the node's namespace")?;
        let set = &mut self.set;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("entering the node's namespace")?;
                work(set)
            });
            inside.join().map_err(|_| anyhow!("the thread in the node's namespace panicked"))?
        })
    }

    /// Takes them off; says what the first one has counted of what its pod sent.
    fn off(&mut self) -> Result<u64> {
        let mut counted = 0;
        for (number, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            self.set.give_up(slot)?;
            if number == 0 {
                counted = self.reader.totals(slot, Direction::Sent)?.seen.skbs;
            }
            self.reader.drain()?;
            self.reader.drain()?;
            self.reader.zero(slot)?;
            self.set.forget(slot)?;
        }
        Ok(counted)
    }
}

fn wanted(link: &str, ifindex: u32, guarded: bool) -> Tap {
    let (name, interface) = (link.to_owned(), link.to_owned());
    Tap { name, interface, ifindex, host_side: true, no_ethernet: false, guarded }
}

/// A pair: what the tap adds to each packet, against what the same program takes in a test run.
fn veth(run: &Arc<Run>, bpffs: &Bpffs, reps: usize) -> Result<Line> {
    let (pod, node) = (Netns::create(run, "pod")?, Netns::create(run, "node")?);
    quiet(&[&pod, &node])?;
    pair(&pod, "eth1", &node, "host1")?;
    let sender = Sender::start(&pod, "eth1", udp6())?;
    let mut tapped = Tapped::new(bpffs, node, vec!["host1"], false)?;
    // Test runs pretend to come from the loopback interface.
    tapped.set.register(&wanted("lo", 1, false))?;
    let (mut pairs, mut rates) = (Pairs::begin(VETH, reps), [Vec::new(), Vec::new(), Vec::new()]);
    while pairs.go_on() {
        // Bare, with the tap, with a program that does nothing.
        let mut best = [0.0_f64; 3];
        // Attaching takes the kernel tens of milliseconds, so a few glances share one.
        for _ in 0..3 {
            for (leg, best) in best.iter_mut().enumerate() {
                let mut sent = 0;
                let mut empty = None;
                match leg {
                    0 => {}
                    1 => tapped.on()?,
                    _ => empty = Some(tapped.empty_on()?),
                }
                for _ in 0..GLANCES / 3 {
                    let (count, rate) = sender.send(GLANCE)?;
                    sent += count;
                    *best = best.max(rate);
                }
                if leg == 1 {
                    let counted = tapped.off()?;
                    ensure!(counted == sent, "the tap counted {counted} of {sent} packets");
                }
                empty.map_or(Ok(()), |link| tapped.empty_off(link))?;
            }
        }
        let floor = quickest(tapped.set.programs().nothing()?, &udp6())?;
        let alone = quickest(tapped.set.programs().taps()?.0, &udp6())? - floor;
        rates.iter_mut().zip(best).for_each(|(all, rate)| all.push(rate));
        pairs.push(1e9 / best[1] - 1e9 / best[0], alone);
    }
    let [off, on, empty] = rates.map(|all| median(&all));
    Ok(pairs.line(&format!(
        "added to a packet by one tap on the node's end of a pair, against the same program's time in a test run; the \
         quickest of {GLANCES} stretches of {} ms, 74-byte UDP over IPv6 from one pinned processor; {off:.0} packets/s \
         without and {on:.0} with the tap, {:.0} and {:.0} ns of the processor for each; a program that does nothing \
         in the tap's place adds {:.0} ns",
        GLANCE.as_millis(),
        1e9 / off,
        1e9 / on,
        1e9 / empty - 1e9 / off,
    )))
}

/// What the switch may do beside forwarding.
#[derive(Clone, Copy, PartialEq)]
enum Extra {
    Nothing,
    Taps,
    Ipfix,
    NetFlow,
}

const EXTRAS: [Extra; 4] = [Extra::Nothing, Extra::Taps, Extra::Ipfix, Extra::NetFlow];

/// Two pods on a userspace bridge.
fn ovs(run: &Arc<Run>, bpffs: &Bpffs, reps: usize) -> Result<Line> {
    let (from, to, node) =
        (Netns::create(run, "from")?, Netns::create(run, "to")?, Netns::create(run, "n1")?);
    quiet(&[&from, &to, &node])?;
    pair(&from, "eth1", &node, "host1")?;
    pair(&to, "eth1", &node, "host2")?;
    let data = run.data("n1")?;
    let switch = Ovs::start(run, "n1", &node, &run.dir().join("ovs"), &data)?;
    let bridge = ["add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev"];
    switch.vsctl(&bridge)?;
    for link in ["host1", "host2"] {
        switch.vsctl(&["add-port", BRIDGE, link])?;
    }
    let mut frame = ethernet(0x0800);
    frame.extend(ipv4(17, [10, 0, 0, 1]));
    frame.extend([0x30, 0x39, 0, 53, 0, 30, 0, 0]);
    frame.resize(64, 0);
    let sender = Sender::start(&from, "eth1", frame)?;
    let mut tapped = Tapped::new(bpffs, node, vec!["host1", "host2"], true)?;
    let mut pairs = Pairs::begin(OVS, reps);
    let mut ratios = [const { Vec::new() }; 4];
    while pairs.go_on() {
        let mut rates = [0.0; 4];
        for turn in 0..EXTRAS.len() {
            let which = (turn + pairs.taken()) % EXTRAS.len();
            begin(EXTRAS[which], &switch, &mut tapped)?;
            sender.send(WARM)?;
            let before = received(&to)?;
            let begun = Instant::now();
            sender.send(STRETCH)?;
            rates[which] = float(usize::try_from(received(&to)? - before)?) / begun.elapsed().as_secs_f64();
            end(EXTRAS[which], &switch, &mut tapped)?;
        }
        ratios.iter_mut().zip(rates).for_each(|(all, rate)| all.push(rate / rates[0]));
        pairs.push(rates[1], rates[0]);
    }
    let [_, taps, ipfix, netflow] = ratios.map(|all| median(&all));
    let above = if taps > ipfix { "above" } else { "not above" };
    Ok(pairs.line(&format!(
        "64-byte UDP through a userspace bridge as fast as it goes, both ports tapped, against everything off; {above} \
         the bridge's own IPFIX (sampling 1, with a cache), which reaches {ipfix:.3}; its NetFlow {netflow:.3}; all \
         four take turns",
    )))
}

fn begin(extra: Extra, switch: &Ovs, tapped: &mut Tapped) -> Result<()> {
    let target = format!("targets=\"{COLLECTOR}\"");
    match extra {
        Extra::Nothing => {}
        Extra::Taps => tapped.on()?,
        Extra::Ipfix => {
            let set = ["set", "Bridge", BRIDGE, "ipfix=@it", "--", "--id=@it", "create", "IPFIX", &target];
            let cache = ["sampling=1", "cache_active_timeout=60", "cache_max_flows=100000"];
            switch.vsctl(&[&set[..], &cache].concat())?;
        }
        Extra::NetFlow => {
            let set =
                ["set", "Bridge", BRIDGE, "netflow=@it", "--", "--id=@it", "create", "NetFlow", &target];
            switch.vsctl(&[&set[..], &["active_timeout=60"]].concat())?;
        }
    }
    Ok(())
}

fn end(extra: Extra, switch: &Ovs, tapped: &mut Tapped) -> Result<()> {
    match extra {
        Extra::Nothing => {}
        Extra::Taps => {
            let counted = tapped.off()?;
            ensure!(counted > 0, "the tap saw nothing");
        }
        Extra::Ipfix => drop(switch.vsctl(&["clear", "Bridge", BRIDGE, "ipfix"])?),
        Extra::NetFlow => drop(switch.vsctl(&["clear", "Bridge", BRIDGE, "netflow"])?),
    }
    Ok(())
}

/// No traffic but ours.
fn quiet(all: &[&Netns]) -> Result<()> {
    all.iter().try_for_each(|netns| netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
}

fn pair(pod: &Netns, inner: &str, node: &Netns, outer: &str) -> Result<()> {
    pod.ip(&format!("link add {inner} up type veth peer name {outer} netns {}", node.name()))?;
    node.ip(&format!("link set {outer} up")).map(drop)
}

/// Packets that arrived at a pod.
fn received(pod: &Netns) -> Result<u64> {
    let links = pod.ip_json("-s link show dev eth1")?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("a link without a count")
}

/// A packet socket in a pod, and the frame that it sends.
struct Sender {
    socket: Arc<Socket>,
    frame: Vec<u8>,
}

impl Sender {
    fn start(pod: &Netns, interface: &'static str, frame: Vec<u8>) -> Result<Self> {
        let socket = pod.enter(move || {
            let found = getifaddrs().context("listing interfaces")?.find_map(|entry| {
                let address = entry.address.as_ref().and_then(SockaddrStorage::as_link_addr).copied();
                address.filter(|_| entry.interface_name == interface)
            });
            let address: LinkAddr = found.with_context(|| format!("there is no interface {interface}"))?;
            // It receives nothing: no protocol.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket")?;
            bind(socket.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
            Ok::<_, anyhow::Error>(socket)
        })??;
        Ok(Self { socket: Arc::new(socket), frame })
    }

    /// Sends for so long, from the first processor. How many, and how many a second.
    fn send(&self, time: Duration) -> Result<(u64, f64)> {
        let (socket, frame) = (Arc::clone(&self.socket), self.frame.clone());
        let work = move || {
            let mut first = CpuSet::new();
            first.set(0).context("naming a processor")?;
            sched_setaffinity(Pid::from_raw(0), &first).context("staying on a processor")?;
            blast(socket.as_raw_fd(), &frame, time)
        };
        std::thread::spawn(work).join().map_err(|_| anyhow!("the sender panicked"))?
    }
}

fn blast(socket: RawFd, frame: &[u8], time: Duration) -> Result<(u64, f64)> {
    let messages: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(frame)]).collect();
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let none = [None; BATCH];
    let (mut sent, begin) = (0_u64, Instant::now());
    while begin.elapsed() < time {
        match sendmmsg(socket, &mut headers, &messages, none, [], MsgFlags::empty()) {
            Ok(done) => sent += done.count() as u64,
            // The queue is full just now.
            Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("sending frames"),
        }
    }
    Ok((sent, float(usize::try_from(sent)?) / begin.elapsed().as_secs_f64()))
}
