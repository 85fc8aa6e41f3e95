//! One Open vSwitch: its database, its daemon, its network namespace. All of it goes when the guard is dropped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trunkline_ovs::{BridgeSpec, OpenFlow, OpenFlowOptions, Ovsdb, OvsdbOptions, add_bridge};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// See the module.
pub(crate) struct Switch {
    root: PathBuf,
    dir: TempDir,
    netns: String,
    ovsdb: Option<Child>,
    vswitchd: Option<Child>,
}

/// The folder that holds an installed or unpacked Open vSwitch.
fn find_root() -> Option<PathBuf> {
    let cache = || {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".cache")));
        std::env::var_os("TRUNKLINE_CACHE")
            .map(PathBuf::from)
            .or_else(|| cache.map(|cache| cache.join("trunkline")))
    };
    let named = std::env::var_os("TRUNKLINE_OVS_ROOT").map(PathBuf::from);
    let root = named.or_else(|| cache().map(|cache| cache.join("ovs-root")))?;
    root.join("usr/sbin/ovsdb-server").exists().then_some(root)
}

impl Switch {
    /// Starts one, or says why it is skipped.
    pub(crate) fn start() -> Option<Self> {
        let Some(root) = find_root() else {
            let reason = "no Open vSwitch in TRUNKLINE_OVS_ROOT or the cache's ovs-root";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
            eprintln!("SKIPPED: {reason}");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("tlovs").tempdir().expect("a temporary folder");
        let netns = format!("tlovs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &netns]));
        let mut switch = Self { root, dir, netns, ovsdb: None, vswitchd: None };
        run(switch.tool("ip").args(["link", "set", "lo", "up"]));
        // A thousand links that solicit routers, each flooded to all others, are a million frames.
        run(switch.tool("sh").args(["-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"]));
        let schema = switch.root.join("usr/share/openvswitch/vswitch.ovsschema");
        run(switch.tool("usr/bin/ovsdb-tool").arg("create").arg(switch.path("conf.db")).arg(schema));
        switch.start_ovsdb();
        run(switch.tool("usr/bin/ovs-vsctl").args(["--no-wait", "init"]));
        switch.start_vswitchd();
        Some(switch)
    }

    /// A file of the run directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command inside the namespace: a path below the root, or a program of the machine.
    pub(crate) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        let inside = self.root.join(program);
        command.args(["netns", "exec", &self.netns]);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|lib| self.root.join(lib));
        if program.contains('/') {
            let path = std::env::join_paths(libraries).expect("no colon in the cache's path");
            command.arg("env").arg(format!("LD_LIBRARY_PATH={}", path.display())).arg(inside);
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
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let mut command = self.tool(program);
        command.args(arguments).arg(format!("--unixctl={}", self.path(&format!("{name}.ctl")).display()));
        command.arg(format!("--pidfile={}", self.path(&format!("{name}.pid")).display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("the daemon starts")
    }

    pub(crate) fn start_ovsdb(&mut self) {
        let remote = format!("--remote=punix:{}", self.path("db.sock").display());
        let database = self.path("conf.db").display().to_string();
        self.ovsdb = Some(self.daemon("usr/sbin/ovsdb-server", "ovsdb-server", &[database, remote]));
        await_file(&self.path("db.sock"));
    }

    pub(crate) fn start_vswitchd(&mut self) {
        let database = format!("unix:{}", self.path("db.sock").display());
        let arguments = [database, "--disable-system".to_owned()];
        self.vswitchd =
            Some(self.daemon("usr/lib/openvswitch-switch/ovs-vswitchd", "ovs-vswitchd", &arguments));
    }

    /// Kills the database's server as an out-of-memory killer would.
    pub(crate) fn kill_ovsdb(&mut self) {
        stop(&mut self.ovsdb);
        drop(std::fs::remove_file(self.path("db.sock")));
    }

    /// Kills the daemon as an out-of-memory killer would.
    pub(crate) fn kill_vswitchd(&mut self) {
        stop(&mut self.vswitchd);
    }

    /// `ovs-vsctl`, waiting for vswitchd as people do.
    pub(crate) fn vsctl(&self, arguments: &[&str]) -> String {
        run(self.tool("usr/bin/ovs-vsctl").arg("--timeout=60").args(arguments))
    }

    /// `ovs-ofctl` with OpenFlow 1.3; the bridge is named by its socket.
    pub(crate) fn ofctl(&self, verb: &str, bridge: &str, arguments: &[&str]) -> String {
        let socket = format!("unix:{}", self.path(&format!("{bridge}.mgmt")).display());
        run(self.tool("usr/bin/ovs-ofctl").args(["-O", "OpenFlow13", verb, &socket]).args(arguments))
    }

    /// Makes pairs of links, `name` and `name` with a `p` in front, all up.
    pub(crate) fn links(&self, names: &[String]) {
        let mut script = String::new();
        for name in names {
            writeln!(script, "link add {name} up type veth peer name p{name}").expect("a String takes it");
            writeln!(script, "link set p{name} up").expect("a String takes it");
        }
        let mut ip = self.tool("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip starts");
        ip.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("ip reads");
        assert!(ip.wait().expect("ip ends").success(), "making {} pairs of links failed", names.len());
    }

    /// Sets links up.
    pub(crate) fn up(&self, names: &[&str]) {
        for name in names {
            run(self.tool("ip").args(["link", "set", name, "up"]));
        }
    }

    pub(crate) fn ovsdb(&self) -> Ovsdb {
        Ovsdb::connect(OvsdbOptions::new(self.path("db.sock")))
    }

    pub(crate) fn openflow(&self, bridge: &str) -> OpenFlow {
        OpenFlow::connect(OpenFlowOptions::new(self.path(&format!("{bridge}.mgmt"))))
    }

    /// A client and a secure bridge `br0` that vswitchd has made.
    pub(crate) async fn with_bridge(&self) -> Ovsdb {
        let ovsdb = self.ovsdb();
        ovsdb.transact(add_bridge(&BridgeSpec::new("br0", "netdev"))).await.expect("a bridge");
        bounded(ovsdb.wait_for(|replica| replica.interface("br0")?.ready_ofport()))
            .await
            .expect("the client runs");
        ovsdb
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["ovsdb-server.log", "ovs-vswitchd.log"] {
                let text = std::fs::read_to_string(self.path(log)).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(15).collect();
                eprintln!("--- {log}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
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
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {error}");
    out.into_owned()
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
