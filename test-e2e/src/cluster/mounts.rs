//! A node's mount namespace: the default paths of kubelet, containerd and Trunkline, each the node's own.
//!
//! Held by a process `trunkline-e2e node-mounts`, which does nothing after its mounts are made; the namespace ends
//! with the last process in it. Must never mount anything before its namespace is private.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::netns::Netns;
use crate::process::Process;
use crate::run::Run;
use crate::{paths, wait};

/// Empty at every boot of a node.
const VOLATILE: [&str; 5] =
    ["/run/netns", "/run/openvswitch", "/run/containerd", "/run/trunkline", "/run/k8s.cni.cncf.io"];
/// What survives a boot of a node: a folder of the run each.
const LASTING: [&str; 9] = [
    "/etc/cni",
    "/opt/cni",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/trunkline",
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/openvswitch",
];

/// A node's mount namespace, as long as its holder lives.
#[derive(Debug)]
pub(super) struct Mounts {
    holder: Process,
}

impl Mounts {
    /// Makes the namespace; what lasts is kept under `disk`.
    pub(super) fn create(run: &Arc<Run>, netns: &Netns, name: &str, disk: &Path) -> Result<Self> {
        let ready = run.dir().join(format!("{name}.mounted"));
        let mut command = netns.command(paths::binary("trunkline-e2e")?);
        command.arg("node-mounts").arg(disk).arg(&ready);
        let holder = Process::spawn(run, &format!("{name}-mounts"), command)?;
        wait::until_blocking("a node's mounts are made", Duration::from_secs(10), || {
            holder.check()?;
            Ok(ready.exists().then_some(()))
        })?;
        Ok(Self { holder })
    }

    /// A command inside the namespace and the node's network.
    pub(super) fn command(&self, netns: &Netns, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id().pid));
        command.arg(format!("--net={}", netns.path().display())).arg("--").arg(program);
        command
    }

    /// A path of the node, seen from outside.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id().pid))
    }

    /// Fails if the holder has ended.
    pub(super) fn check(&self) -> Result<()> {
        self.holder.check()
    }
}

/// What `trunkline-e2e node-mounts` does. Returns only when it fails.
pub fn hold(disk: &Path, ready: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    propagate("/", MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    // Containers ask for propagation, which a private mount refuses.
    propagate("/", MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    for path in VOLATILE {
        fs::create_dir_all(path).with_context(|| format!("making {path}"))?;
        mount(Some("node"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .with_context(|| format!("mounting a tmpfs on {path}"))?;
        propagate(path, MsFlags::MS_SHARED)?;
    }
    for path in LASTING {
        let source = disk.join(path.trim_start_matches('/'));
        fs::create_dir_all(&source).with_context(|| format!("making {}", source.display()))?;
        fs::create_dir_all(path).with_context(|| format!("making {path}"))?;
        mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("binding {} on {path}", source.display()))?;
        propagate(path, MsFlags::MS_SHARED)?;
    }
    // Kernels without BPF have no such file system, and nothing here needs it.
    if mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).is_ok() {
        propagate("/sys/fs/bpf", MsFlags::MS_SHARED)?;
    }
    for path in ["/etc/cni/net.d", "/opt/cni/bin"] {
        fs::create_dir_all(path).with_context(|| format!("making {path}"))?;
    }
    fs::write(ready, b"").with_context(|| format!("writing {}", ready.display()))?;
    loop {
        nix::unistd::pause();
    }
}

fn propagate(path: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("setting the propagation of {path}"))
}
