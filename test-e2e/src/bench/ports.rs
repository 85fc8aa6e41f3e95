//! `ovs-port-add`: bursts of ports through our bridges, against `ovs-vsctl` and against one hand-written transaction.
//!
//! One Open vSwitch in a namespace, no control plane. Our side is made anew for each pair and gone while the baseline
//! runs, so that neither pays for the other.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use trunkline_agent::bridge::{Bridges, BridgesOptions, PodPort, keys};
use trunkline_agent::journal::Journal;
use trunkline_api::{AgentConfig, BridgeName, IfName, VlanId};
use trunkline_ovs::{Ovsdb, OvsdbOptions};

use super::inside::inside;
use super::pairs::Pairs;
use super::raw_ovsdb::{Row, Writer};
use super::report::{Case, Line};
use super::stats::{Goal, rate};
use super::{Done, Options};
use crate::light::Ovs;
use crate::netns::Netns;
use crate::process;
use crate::run::Run;

const MANY: Case = Case { bench: "ovs-port-add/400", unit: "ports/s", goal: Goal::AtLeast(20.0) };
const BURST: Case = Case { bench: "ovs-port-add/1000", unit: "s", goal: Goal::AtMost(1.15) };
/// All lines of this group.
pub(super) const CASES: [Case; 2] = [MANY, BURST];

const BRIDGE: &str = "br-bench";
const VLAN: u16 = 100;
const BOOT: &str = "bench";
/// Open files that vswitchd may need.
const OPEN_FILES: u64 = 4096;
/// How long a burst may take until it is given up.
const LIMIT: Duration = Duration::from_mins(1);
/// Ports that one `ovs-vsctl` takes away, outside the timing.
const CHUNK: usize = 200;

/// Measures the chosen lines of this group.
pub(super) fn run(options: &Options, done: &mut Done<'_>) -> Result<()> {
    let bench = Bench::prepare()?;
    bench.with_bridges(|_| async { Ok(()) }).context("making the bridge")?;
    if options.wants(&MANY) {
        done(bench.many(options.reps)?)?;
    }
    if options.wants(&BURST) {
        done(bench.burst(options.reps)?)?;
    }
    Ok(())
}

struct Bench {
    ovs: Ovs,
    netns: Netns,
    run: Arc<Run>,
}

impl Bench {
    fn prepare() -> Result<Self> {
        allow_open_files()?;
        let run = Run::start("bench-ports")?;
        let netns = Netns::create(&run, "n1")?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        let data = run.data("n1")?;
        let ovs = Ovs::start(&run, "n1", &netns, &run.dir().join("ovs"), &data)?;
        let file = run.dir().join("links");
        let pair = |n| format!("link add {0} up type veth peer name peer{n}\nlink set peer{n} up\n", name(n));
        fs::write(&file, (0..1000).map(pair).collect::<String>()).context("writing the list of links")?;
        netns.ip(&format!("-batch {}", file.display())).context("making the links")?;
        Ok(Self { ovs, netns, run })
    }

    fn many(&self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(MANY, reps);
        while pairs.go_on() {
            let (ours, baseline) = if pairs.ours_first() {
                (self.ours(400)?, self.vsctl(400)?)
            } else {
                let baseline = self.vsctl(400)?;
                (self.ours(400)?, baseline)
            };
            pairs.push(rate(400, ours), rate(400, baseline));
        }
        Ok(pairs.line(
            "400 ports from an empty bridge, ready with their flows, against ovs-vsctl add-port one by one",
        ))
    }

    fn burst(&self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(BURST, reps);
        while pairs.go_on() {
            let (ours, baseline) = if pairs.ours_first() {
                (self.ours(1000)?, self.by_hand(1000)?)
            } else {
                let baseline = self.by_hand(1000)?;
                (self.ours(1000)?, baseline)
            };
            pairs.push(ours.as_secs_f64(), baseline.as_secs_f64());
        }
        Ok(pairs.line(
            "1,000 ports from an empty bridge, ours ready with their flows, against one hand-written OVSDB \
             transaction of the same rows until every ofport is known, without flows",
        ))
    }

    /// All ports asked for at once through our bridges; they are gone again when this returns.
    fn ours(&self, count: usize) -> Result<Duration> {
        let took = self.with_bridges(async |bridges| {
            let bridge: BridgeName = BRIDGE.parse().context("the bridge's name")?;
            let wanted: Vec<PodPort> = (0..count).map(pod_port).collect::<Result<_>>()?;
            let names: Vec<String> = wanted.iter().map(|port| port.name.to_string()).collect();
            let begin = Instant::now();
            let mut tasks = JoinSet::new();
            for port in wanted {
                let (bridges, bridge) = (bridges.clone(), bridge.clone());
                let deadline = tokio::time::Instant::now() + LIMIT;
                tasks.spawn(async move { bridges.add_pod_port(&bridge, port, deadline).await });
            }
            while let Some(one) = tasks.join_next().await {
                one.context("a caller's task")?.context("a port of ours")?;
            }
            let took = begin.elapsed();
            bridges.remove_pod_ports(&names).await.context("removing our ports")?;
            Ok(took)
        })?;
        self.settle()?;
        Ok(took)
    }

    /// Starts our bridges, waits until the one of the bench takes pods, and stops them after `work`.
    fn with_bridges<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce(Bridges) -> F + Send,
    ) -> Result<T> {
        inside(self.netns.path(), move || async move {
            let ovsdb = Ovsdb::connect(OvsdbOptions::new(self.ovs.socket()));
            let journal = Journal::open(&self.run.dir().join("journal.json")).context("opening a journal")?;
            let run_dir = self.ovs.run_dir().to_owned();
            let options = BridgesOptions { run_dir, boot_id: BOOT.to_owned(), journal };
            let bridges = Bridges::start(ovsdb, options);
            bridges.apply(&config()?);
            let mut state = bridges.state();
            let ready = state.wait_for(|all| all.get(BRIDGE).is_some_and(|bridge| bridge.ready));
            let ready = tokio::time::timeout(LIMIT, ready).await;
            drop(ready.context("our bridge is not ready in time")?.context("our bridges have stopped")?);
            work(bridges).await
        })
    }

    /// `ovs-vsctl add-port`, one by one; they are gone again when this returns.
    fn vsctl(&self, count: usize) -> Result<Duration> {
        let tag = format!("tag={VLAN}");
        let begin = Instant::now();
        for number in 0..count {
            let mut command = self.ovs.vsctl_command();
            process::output(command.args(["add-port", BRIDGE, &name(number), &tag, "vlan_mode=access"]))?;
        }
        let took = begin.elapsed();
        self.clear(count)?;
        Ok(took)
    }

    /// One transaction of the rows that we write; they are gone again when this returns.
    fn by_hand(&self, count: usize) -> Result<Duration> {
        let rows: Vec<Row> = (0..count)
            .map(|number| Row { name: name(number), tag: VLAN, external_ids: all_ids(number) })
            .collect();
        let mut writer = Writer::connect(&self.ovs.socket())?;
        let begin = Instant::now();
        writer.add_ports(BRIDGE, &rows)?;
        let took = begin.elapsed();
        drop(writer);
        self.clear(count)?;
        Ok(took)
    }

    fn clear(&self, count: usize) -> Result<()> {
        let names: Vec<String> = (0..count).map(name).collect();
        for chunk in names.chunks(CHUNK) {
            let words = chunk.iter().flat_map(|port| ["--", "del-port", BRIDGE, port]);
            self.ovs.vsctl(&words.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Waits until vswitchd has followed every change so far.
    fn settle(&self) -> Result<()> {
        let mark = format!("external_ids:bench-settled={:x}", rand::random::<u64>());
        self.ovs.vsctl(&["set", "Open_vSwitch", ".", &mark]).map(drop)
    }
}

/// Lets this process, and with it vswitchd, have open a socket a port and more.
fn allow_open_files() -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits").context("reading our own limits")?;
    if open_files(&limits).is_none_or(|limit| limit >= OPEN_FILES) {
        return Ok(());
    }
    let me = std::process::id().to_string();
    let limit = format!("--nofile={OPEN_FILES}:");
    process::output(Command::new("prlimit").args(["--pid", &me, &limit])).map(drop)
}

/// The soft limit of open files in the text of `/proc/<pid>/limits`; none when it is unlimited.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn config() -> Result<AgentConfig> {
    let text = format!(
        "featureGates: {{SecondaryNetwork: true}}\ndatapathType: netdev\n\
         secondaryNetwork: {{ovsBridges: [{{bridgeName: {BRIDGE}, physicalInterfaces: []}}]}}\n"
    );
    AgentConfig::parse(&text).context("the bench's own agent configuration")
}

/// The name of link and port number so and so.
fn name(number: usize) -> String {
    format!("tlb{number:04}")
}

fn pod_port(number: usize) -> Result<PodPort> {
    Ok(PodPort {
        name: IfName::try_from(name(number).as_str()).context("a port's name")?,
        vlan: Some(VlanId::try_from(VLAN).context("the bench's VLAN")?),
        external_ids: pod_ids(number),
    })
}

/// What the agent's attachment keeps on a port.
fn pod_ids(number: usize) -> BTreeMap<String, String> {
    let set = [
        (keys::POD_UID, format!("9c3c1f6e-0000-4000-8000-{number:012}")),
        (keys::POD_NAMESPACE, "default".to_owned()),
        (keys::POD_NAME, format!("bench-{number}")),
        (keys::SANDBOX, format!("{number:064x}")),
        (keys::INTERFACE, "eth1".to_owned()),
        (keys::NAD, "default/bench".to_owned()),
        (keys::MAC, format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256)),
        (keys::ADDRESSES, format!("10.100.{}.{}/16", number / 250, number % 250 + 1)),
        (keys::POOLS, "bench".to_owned()),
        (keys::NETNS, format!("/run/netns/cni-{number:032x}")),
    ];
    set.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// [`pod_ids`] and what our bridges add to them.
fn all_ids(number: usize) -> BTreeMap<String, String> {
    let mut ids = pod_ids(number);
    ids.insert(keys::TYPE.to_owned(), keys::TYPE_POD.to_owned());
    ids.insert(keys::BOOT_ID.to_owned(), BOOT.to_owned());
    ids.insert(keys::VLAN.to_owned(), VLAN.to_string());
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let limits =
            "Max processes   unlimited  unlimited  processes\nMax open files   1024   524288   files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files   unlimited   unlimited   files\n"), None);
    }

    #[test]
    fn every_port_has_a_name_of_its_own_that_the_kernel_takes() {
        let ports: Vec<_> = (0..1000).map(|number| pod_port(number).expect("a port")).collect();
        let names: std::collections::BTreeSet<_> = ports.iter().map(|port| port.name.to_string()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() <= 15));
        assert_eq!(all_ids(3).len(), pod_ids(3).len() + 3);
    }
}
