//! One real node: namespaces, containerd, the primary CNI, kubelet.
//!
//! Owns the node's life. Must never know what Trunkline is: to a node it is pods like others.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::images::Images;
use super::mounts::Mounts;
use super::{cgroups, config};
use crate::control_plane::{ControlPlane, SERVER_IP, User};
use crate::netns::Netns;
use crate::process::{self, Process};
use crate::run::Run;
use crate::switch::Switch;
use crate::tools::{self, Tool};
use crate::{debs, wait};

/// How long containerd may take until it answers.
const CONTAINERD: Duration = Duration::from_secs(30);

/// Which runtime a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Debian 12's containerd 1.6, conflist 0.4.0, no STATUS.
    Debian,
    /// containerd 2.3, conflist 1.1.0, STATUS every 5 s.
    Two,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "containerd 1.6",
            Self::Two => "containerd 2.3",
        })
    }
}

impl Generation {
    /// Version of the conflist that the node's primary CNI writes.
    pub fn conflist_version(self) -> &'static str {
        match self {
            Self::Debian => "0.4.0",
            Self::Two => "1.1.0",
        }
    }

    /// Folder of containerd and its shim, and path of `ctr`.
    fn programs(self) -> Result<(PathBuf, PathBuf)> {
        match self {
            Self::Debian => {
                let tree = debs::containerd()?;
                Ok((tree.path("usr/bin"), tree.path("usr/bin/ctr")))
            }
            Self::Two => {
                tools::path(Tool::ContainerdShim)?;
                let containerd = tools::path(Tool::Containerd)?;
                let dir = containerd.parent().context("containerd lies in no folder")?;
                Ok((dir.to_owned(), tools::path(Tool::Ctr)?))
            }
        }
    }
}

/// A node of the cluster. Its processes end when it is dropped.
#[derive(Debug)]
pub struct ClusterNode {
    run: Arc<Run>,
    name: String,
    number: u8,
    generation: Generation,
    netns: Netns,
    mounts: Mounts,
    dir: PathBuf,
    kubeconfig: PathBuf,
    containerd: Mutex<Option<Process>>,
    kubelet: Mutex<Option<Process>>,
}

impl ClusterNode {
    /// Makes node `number` (1 or 2), imports the images and starts its kubelet. Does not wait for Ready.
    pub fn start(
        run: &Arc<Run>,
        switch: &Switch,
        plane: &ControlPlane,
        images: &Images,
        number: u8,
        generation: Generation,
    ) -> Result<Self> {
        let node = Self::prepare(run, switch, plane, number, generation)?;
        node.write_files(plane, images)?;
        node.start_containerd()?;
        for archive in images.archives() {
            node.import(archive)?;
        }
        node.start_kubelet()?;
        Ok(node)
    }

    fn prepare(
        run: &Arc<Run>,
        switch: &Switch,
        plane: &ControlPlane,
        number: u8,
        generation: Generation,
    ) -> Result<Self> {
        let (name, short) = (format!("node-{number}"), format!("n{number}"));
        let netns = Netns::create(run, &short)?;
        let address = format!("198.51.100.{}", 10 + number);
        switch.plug_mgmt(&netns, "eth0", &format!("{address}/24"))?;
        switch.plug_fabric(&netns, "eth1", 1)?;
        netns.ip(&format!("route add default via {SERVER_IP}"))?;
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        let dir = run.data(&short)?;
        let mounts = Mounts::create(run, &netns, &short, &dir.join("disk"))?;
        let identity =
            plane.pki().issue(&name, &format!("system:node:{name}"), "system:nodes", &[&name, &address])?;
        let kubeconfig = plane.issue_kubeconfig(&name, &User::Certificate(identity))?;
        let (containerd, kubelet) = (Mutex::default(), Mutex::default());
        let run = run.clone();
        Ok(Self { run, name, number, generation, netns, mounts, dir, kubeconfig, containerd, kubelet })
    }

    fn write_files(&self, plane: &ControlPlane, images: &Images) -> Result<()> {
        let runc = debs::containerd()?.path("usr/sbin/runc");
        let certs = self.dir.join("certs.d");
        Images::write_mirror(&certs)?;
        let toml = config::containerd(&runc, &certs, images.sandbox());
        fs::write(self.dir.join("containerd.toml"), toml).context("writing containerd's configuration")?;
        let pki = plane.file("pki");
        let kubelet = config::kubelet(&config::Kubelet {
            address: &self.address(),
            ca: &plane.pki().ca_cert(),
            cert: &pki.join(format!("{}.crt", self.name)),
            key: &pki.join(format!("{}.key", self.name)),
            cgroup: &self.cgroup(),
        });
        fs::write(self.dir.join("kubelet.json"), kubelet).context("writing kubelet's configuration")?;
        let statics = self.mounts.outside(config::STATIC_PODS);
        fs::create_dir_all(&statics).with_context(|| format!("making {}", statics.display()))?;
        let bin = self.mounts.outside("/opt/cni/bin");
        for plugin in tools::LIGHT {
            let target = bin.join(plugin.name());
            fs::copy(tools::path(*plugin)?, &target)
                .with_context(|| format!("copying the plugin to {}", target.display()))?;
        }
        let conflist = self.mounts.outside("/etc/cni/net.d/10-pods.conflist");
        fs::write(&conflist, config::primary_cni(self.generation, &self.pod_cidr()))
            .with_context(|| format!("writing {}", conflist.display()))
    }

    /// Starts containerd (again) and waits until it answers.
    pub fn start_containerd(&self) -> Result<()> {
        let (dir, ctr) = self.generation.programs()?;
        let mut command = self.command(dir.join("containerd"));
        command.arg("-c").arg(self.dir.join("containerd.toml"));
        // It looks its shim up on PATH; Debian's runc needs a library that the machine may lack.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", dir.display()));
        command.env("LD_LIBRARY_PATH", debs::containerd()?.library_path());
        let process = Process::spawn(&self.run, &format!("n{}-containerd", self.number), command)?;
        wait::until_blocking("containerd answers", CONTAINERD, || {
            process.check()?;
            let version = process::raw_output(self.command(&ctr).arg("version"))?;
            Ok(version.status.success().then_some(()))
        })?;
        *lock(&self.containerd) = Some(process);
        Ok(())
    }

    /// Starts the kubelet (again).
    pub fn start_kubelet(&self) -> Result<()> {
        cgroups::create(&self.run, &self.cgroup())?;
        let mut command = self.command(tools::path(Tool::Kubelet)?);
        command.arg("--config").arg(self.dir.join("kubelet.json"));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg(format!("--hostname-override={}", self.name));
        command.arg(format!("--node-ip={}", self.address()));
        let process = Process::spawn(&self.run, &format!("n{}-kubelet", self.number), command)?;
        *lock(&self.kubelet) = Some(process);
        Ok(())
    }

    /// Imports an OCI archive into the node's images.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let (_, ctr) = self.generation.programs()?;
        let mut command = self.command(ctr);
        command.args(["-n", "k8s.io", "images", "import"]).arg(archive);
        process::output(&mut command)
            .map(drop)
            .with_context(|| format!("importing {} into {}", archive.display(), self.name))
    }

    /// Its name in the API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its runtime.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its address on the cluster network.
    pub fn address(&self) -> String {
        format!("198.51.100.{}", 10 + self.number)
    }

    /// The range its primary CNI gives to pods.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    fn cgroup(&self) -> String {
        format!("{}-n{}", self.run.prefix(), self.number)
    }

    /// A command in the node's namespaces.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.mounts.command(&self.netns, program.as_ref())
    }

    /// Runs a program in the node's namespaces to its end and returns what it printed.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let (program, args) = words.split_first().context("no program to run")?;
        process::output(self.command(program).args(args))
    }

    /// The file that makes kubelet run a static pod, seen from outside.
    pub fn static_pod(&self, name: &str) -> PathBuf {
        self.path(&format!("{}/{name}.json", config::STATIC_PODS))
    }

    /// A path of the node, seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.mounts.outside(path)
    }

    /// `ovs-vsctl` on the Open vSwitch whose folder of sockets is `run_dir` on the node.
    pub fn ovs_vsctl(&self, run_dir: &str, args: &[&str]) -> Result<String> {
        let tree = debs::ovs()?;
        let mut command = self.command(tree.path("usr/bin/ovs-vsctl"));
        command.env("LD_LIBRARY_PATH", tree.library_path());
        command.arg(format!("--db=unix:{run_dir}/db.sock")).arg("--timeout=10").args(args);
        process::output(&mut command)
    }

    /// Names under the node's `/run/netns`, sorted.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        names(&self.path("/run/netns"))
    }

    /// Names in a folder of the node, sorted.
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        names(&self.path(folder))
    }

    /// Fails, with the end of its log, if a part of the node has ended.
    pub fn check(&self) -> Result<()> {
        self.mounts.check()?;
        for part in [&self.containerd, &self.kubelet] {
            if let Some(process) = lock(part).as_ref() {
                process.check()?;
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.context("listing a folder of a node")?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
