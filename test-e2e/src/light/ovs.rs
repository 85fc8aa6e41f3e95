//! A light node's own Open vSwitch: ovsdb-server and ovs-vswitchd with a private run folder.
//!
//! Looks at it with OVS' own tools, so that suites judge by something else than our clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::debs::{self, Tree};
use crate::netns::Netns;
use crate::process::{self, Process};
use crate::run::Run;
use crate::wait;

/// How long the daemons may take to answer.
const READY: Duration = Duration::from_secs(90);
/// Open vSwitch 3.1 finds no processor, so starts no handler of packets, while the machine is younger than this.
const GROWN_UP: f32 = 10.5;

/// One node's Open vSwitch.
#[derive(Debug)]
pub struct Ovs {
    tree: Tree,
    name: String,
    run: Arc<Run>,
    run_dir: PathBuf,
    database: PathBuf,
    server: Mutex<Option<Process>>,
    switch: Mutex<Option<Process>>,
}

impl Ovs {
    /// Makes the database and starts both daemons in `netns`. `data` survives a reboot, `run_dir` does not.
    pub fn start(run: &Arc<Run>, name: &str, netns: &Netns, run_dir: &Path, data: &Path) -> Result<Self> {
        let ovs = Self {
            tree: debs::ovs()?,
            name: name.to_owned(),
            run: run.clone(),
            run_dir: run_dir.to_owned(),
            database: data.join("conf.db"),
            server: Mutex::default(),
            switch: Mutex::default(),
        };
        let schema = ovs.tree.path("usr/share/openvswitch/vswitch.ovsschema");
        let mut create = ovs.tree.command("usr/bin/ovsdb-tool");
        process::output(create.arg("create").arg(&ovs.database).arg(schema))?;
        ovs.start_daemons(netns)?;
        Ok(ovs)
    }

    /// Starts both daemons on the database that is there.
    pub fn start_daemons(&self, netns: &Netns) -> Result<()> {
        self.start_server(netns)?;
        self.start_switch(netns)
    }

    /// Starts ovsdb-server and waits until it answers.
    pub fn start_server(&self, netns: &Netns) -> Result<()> {
        fs::create_dir_all(&self.run_dir).with_context(|| format!("creating {}", self.run_dir.display()))?;
        let mut command = self.daemon(netns, "usr/sbin/ovsdb-server");
        command.arg(format!("--remote=punix:{}", self.socket().display()));
        command.arg(format!("--unixctl={}", self.control("ovsdb-server").display())).arg(&self.database);
        let process = Process::spawn(&self.run, &format!("{}-ovsdb-server", self.name), command)?;
        wait::until_blocking("ovsdb-server answers", READY, || {
            process.check()?;
            Ok(self.socket().exists().then_some(()))
        })?;
        put(&self.server, process);
        self.vsctl_no_wait(&["init"]).map(drop)
    }

    /// Starts ovs-vswitchd and waits until it has read the database.
    pub fn start_switch(&self, netns: &Netns) -> Result<()> {
        wait::until_blocking("the machine is old enough for vswitchd", READY, || {
            let text = fs::read_to_string("/proc/uptime").context("reading how old the machine is")?;
            let age = text.split(' ').next().and_then(|seconds| seconds.parse::<f32>().ok());
            Ok((age.context("an uptime without seconds")? > GROWN_UP).then_some(()))
        })?;
        let mut command = self.daemon(netns, "usr/lib/openvswitch-switch/ovs-vswitchd");
        command.arg(format!("unix:{}", self.socket().display()));
        command.arg(format!("--unixctl={}", self.control("ovs-vswitchd").display()));
        put(&self.switch, Process::spawn(&self.run, &format!("{}-ovs-vswitchd", self.name), command)?);
        wait::until_blocking("ovs-vswitchd answers", READY, || {
            Ok(self.appctl(&["version"]).is_ok().then_some(()))
        })?;
        self.vsctl(&["show"]).map(drop)
    }

    fn daemon(&self, netns: &Netns, inner: &str) -> Command {
        let mut command = self.tree.command_in(netns, inner);
        command.env("OVS_RUNDIR", &self.run_dir).env("OVS_SYSCONFDIR", &self.run_dir);
        command
            .env("OVS_PKGDATADIR", self.tree.path("usr/share/openvswitch"))
            .args(["--no-chdir", "-vconsole:info"]);
        command.arg("-vsyslog:off");
        command
    }

    /// Kills ovs-vswitchd; links and ports stay as the kernel and the database have them.
    pub fn kill_switch(&self) {
        if let Some(process) = take(&self.switch) {
            process.kill();
        }
    }

    /// Has ovs-vswitchd hang, or go on: it lives and does nothing.
    pub fn hang_switch(&self, hang: bool) {
        if let Some(process) = self.switch.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            process.signal(if hang { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Kills ovsdb-server.
    pub fn kill_server(&self) {
        if let Some(process) = take(&self.server) {
            process.kill();
        }
        // A socket that nobody answers would be taken for a server that does.
        let _ = fs::remove_file(self.socket());
    }

    /// The folder with `db.sock` and `<bridge>.mgmt`: the agent's `ovsRunDir`.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The database's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("db.sock")
    }

    fn control(&self, daemon: &str) -> PathBuf {
        self.run_dir.join(format!("{daemon}.ctl"))
    }

    /// `ovs-vsctl`, waiting for vswitchd to have done it.
    pub fn vsctl(&self, args: &[&str]) -> Result<String> {
        process::output(self.vsctl_command().args(args))
    }

    fn vsctl_no_wait(&self, args: &[&str]) -> Result<String> {
        process::output(self.vsctl_command().arg("--no-wait").args(args))
    }

    /// An `ovs-vsctl` command without verbs, waiting up to 60 s.
    pub fn vsctl_command(&self) -> Command {
        let mut command = self.tree.command("usr/bin/ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.socket().display())).arg("--timeout=60");
        command
    }

    /// `ovs-appctl` to ovs-vswitchd.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.tree.command("usr/bin/ovs-appctl");
        process::output(command.arg("-t").arg(self.control("ovs-vswitchd")).arg("--timeout=20").args(args))
    }

    /// `ovs-ofctl <verb> <bridge> <args>`.
    pub fn ofctl(&self, verb: &str, bridge: &str, args: &[&str]) -> Result<String> {
        let target = format!("unix:{}", self.run_dir.join(format!("{bridge}.mgmt")).display());
        let mut command = self.tree.command("usr/bin/ovs-ofctl");
        process::output(command.args(["-O", "OpenFlow13", verb, &target]).args(args))
    }

    /// The ports of a bridge but its internal one, sorted; none when there is no such bridge.
    pub fn ports(&self, bridge: &str) -> Result<Vec<String>> {
        let bridges = self.vsctl(&["list-br"])?;
        if !bridges.lines().any(|line| line == bridge) {
            return Ok(Vec::new());
        }
        let mut ports: Vec<String> =
            self.vsctl(&["list-ports", bridge])?.lines().map(str::to_owned).collect();
        ports.sort();
        Ok(ports)
    }

    /// The names of the ports of all bridges that carry `trunkline-type=pod`, sorted.
    pub fn pod_ports(&self) -> Result<Vec<String>> {
        let text = self.vsctl(&[
            "--format=json",
            "--columns=name",
            "find",
            "Port",
            "external_ids:trunkline-type=pod",
        ])?;
        let table: Value = serde_json::from_str(&text).context("reading ovs-vsctl's table")?;
        let rows = table["data"].as_array().into_iter().flatten();
        let mut names: Vec<String> = rows.filter_map(|row| Some(row[0].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// One of a port's `external_ids`.
    pub fn port_id(&self, port: &str, key: &str) -> Result<String> {
        let value = self.vsctl(&["--if-exists", "get", "Port", port, &format!("external_ids:{key}")])?;
        Ok(value.trim().trim_matches('"').to_owned())
    }
}

fn put(slot: &Mutex<Option<Process>>, process: Process) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
}

fn take(slot: &Mutex<Option<Process>>) -> Option<Process> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
