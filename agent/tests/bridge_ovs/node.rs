//! A node in small: a network namespace with its own Open vSwitch, in which the test's own threads run.
//!
//! Everything goes when the guard is dropped, also when the test fails.

use std::fmt::Write as _;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;
use trunkline_agent::bridge::{Bridges, BridgesOptions};
use trunkline_agent::journal::Journal;
use trunkline_api::AgentConfig;
use trunkline_ovs::{OpenFlow, OpenFlowOptions, Ovsdb, OvsdbOptions};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Node {
    root: PathBuf,
    dir: TempDir,
    netns: String,
    ovsdb: Option<Child>,
    vswitchd: Option<Child>,
}

fn find_root() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("TRUNKLINE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("trunkline")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/trunkline")));
    let root = variable("TRUNKLINE_OVS_ROOT").or_else(|| cache.map(|cache| cache.join("ovs-root")))?;
    root.join("usr/sbin/ovsdb-server").exists().then_some(root)
}

/// Runs a test inside a node, or says why it is skipped. The test's thread enters the namespace first, so that every
/// thread of its runtime is in it.
pub(crate) fn within<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    let Some(root) = find_root() else {
        let reason = "no Open vSwitch in TRUNKLINE_OVS_ROOT or the cache's ovs-root";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    };
    let node = Node::start(root);
    let namespace = File::open(format!("/run/netns/{}", node.netns)).expect("the namespace was made");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("tests run as root");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test(node));
}

impl Node {
    fn start(root: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("tlbr").tempdir().expect("a temporary folder");
        let netns = format!("tlbr-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &netns]));
        let mut node = Self { root, dir, netns, ovsdb: None, vswitchd: None };
        node.ip("link set lo up");
        let schema = node.root.join("usr/share/openvswitch/vswitch.ovsschema");
        run(node.tool("usr/bin/ovsdb-tool").arg("create").arg(node.path("conf.db")).arg(schema));
        let remote = format!("--remote=punix:{}", node.path("db.sock").display());
        let database = node.path("conf.db").display().to_string();
        node.ovsdb = Some(node.daemon("usr/sbin/ovsdb-server", "ovsdb-server", &[database, remote]));
        await_file(&node.path("db.sock"));
        run(node.tool("usr/bin/ovs-vsctl").args(["--no-wait", "init"]));
        node.start_vswitchd();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]);
        if program.contains('/') {
            let libraries =
                ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|lib| self.root.join(lib));
            let path = std::env::join_paths(libraries).expect("no colon in the cache's path");
            command
                .arg("env")
                .arg(format!("LD_LIBRARY_PATH={}", path.display()))
                .arg(self.root.join(program));
        } else {
            command.arg(program);
        }
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.dir.path());
        }
        command.env("OVS_PKGDATADIR", self.root.join("usr/share/openvswitch"));
        command
    }

    fn daemon(&self, program: &str, name: &str, arguments: &[String]) -> Child {
        let log = File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let mut command = self.tool(program);
        command.args(arguments).arg(format!("--unixctl={}", self.path(&format!("{name}.ctl")).display()));
        command.arg(format!("--pidfile={}", self.path(&format!("{name}.pid")).display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the daemon starts")
    }

    pub(crate) fn start_vswitchd(&mut self) {
        let arguments = [format!("unix:{}", self.path("db.sock").display()), "--disable-system".to_owned()];
        self.vswitchd =
            Some(self.daemon("usr/lib/openvswitch-switch/ovs-vswitchd", "ovs-vswitchd", &arguments));
    }

    /// Kills the daemon as an out-of-memory killer would.
    pub(crate) fn kill_vswitchd(&mut self) {
        stop(&mut self.vswitchd);
    }

    pub(crate) fn vsctl(&self, arguments: &str) -> String {
        run(self.tool("usr/bin/ovs-vsctl").arg("--timeout=60").args(arguments.split(' ')))
    }

    pub(crate) fn ofctl(&self, verb: &str, bridge: &str, arguments: &[&str]) -> String {
        let socket = format!("unix:{}", self.path(&format!("{bridge}.mgmt")).display());
        run(self.tool("usr/bin/ovs-ofctl").args(["-O", "OpenFlow13", verb, &socket]).args(arguments))
    }

    pub(crate) fn ip(&self, arguments: &str) {
        run(self.tool("ip").args(arguments.split(' ')));
    }

    /// A pair of links, `name` and `p<name>`, silent and up.
    pub(crate) fn pair(&self, name: &str) {
        self.ip(&format!("link add {name} type veth peer name p{name}"));
        for end in [name.to_owned(), format!("p{name}")] {
            let quiet = format!("echo 1 > /proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            run(self.tool("sh").args(["-c", &quiet]));
            self.ip(&format!("link set {end} up"));
        }
    }

    pub(crate) fn openflow(&self, bridge: &str) -> OpenFlow {
        OpenFlow::connect(OpenFlowOptions::new(self.path(&format!("{bridge}.mgmt"))))
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::open(&self.path("journal.json")).expect("a journal")
    }

    pub(crate) async fn ovsdb(&self) -> Ovsdb {
        let ovsdb = Ovsdb::connect(OvsdbOptions::new(self.path("db.sock")));
        let up = ovsdb.wait_for(|replica| replica.connected.then_some(()));
        bounded(up).await.expect("the client runs");
        ovsdb
    }

    /// An agent's bridges, with this list of `ovsBridges`.
    pub(crate) async fn bridges(&self, list: &str) -> (Ovsdb, Bridges) {
        let ovsdb = self.ovsdb().await;
        let options = BridgesOptions {
            run_dir: self.dir.path().to_owned(),
            boot_id: "boot-2".to_owned(),
            journal: self.journal(),
        };
        let bridges = Bridges::start(ovsdb.clone(), options);
        bridges.apply(&config(list));
        (ovsdb, bridges)
    }
}

/// A configuration with these bridges on the userspace datapath.
pub(crate) fn config(bridges: &str) -> AgentConfig {
    let text = format!(
        "featureGates: {{SecondaryNetwork: true}}\ndatapathType: netdev\nsecondaryNetwork: {{ovsBridges: {bridges}}}\n"
    );
    AgentConfig::parse(&text).expect("the test's configuration is good")
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut tail = String::new();
            for log in ["ovsdb-server.log", "ovs-vswitchd.log"] {
                let text = std::fs::read_to_string(self.path(log)).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                write!(tail, "--- {log}\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
                    .expect("a String takes it");
            }
            eprintln!("{tail}");
        }
        stop(&mut self.vswitchd);
        stop(&mut self.ovsdb);
        drop(Command::new("ip").args(["netns", "del", &self.netns]).status());
    }
}

fn stop(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        drop(child.kill());
        drop(child.wait());
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn await_file(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Awaits something that must happen.
pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Asks again until the answer is yes.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
