//! The Go programs of a cluster: found, or built once from the pinned modules in `tools/` and cached by version.
//!
//! A built program is put in place by a rename, so that what is there is whole; a lock keeps two builds apart.
//! Never downloads ready-made programs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{paths, prereq, process};

/// A program that the harness runs and that is written in Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tool {
    /// `kube-apiserver`
    KubeApiserver,
    /// `kube-controller-manager`
    KubeControllerManager,
    /// `kube-scheduler`
    KubeScheduler,
    /// `kubelet`
    Kubelet,
    /// `kubectl`
    Kubectl,
    /// `etcd`
    Etcd,
    /// `containerd` 2.3
    Containerd,
    /// `containerd-shim-runc-v2` of containerd 2.3
    ContainerdShim,
    /// `ctr` of containerd 2.3
    Ctr,
    /// The reference CNI plugin `bridge`
    CniBridge,
    /// The reference CNI plugin `host-local`
    CniHostLocal,
    /// The reference CNI plugin `loopback`
    CniLoopback,
    /// The flow collector `goflow2`
    Goflow2,
    /// An OpenTelemetry Collector with an OTLP receiver and a debug exporter
    Otelcol,
}

/// What a control plane without nodes needs.
pub const CONTROL_PLANE: &[Tool] = &[Tool::Etcd, Tool::KubeApiserver, Tool::Kubectl];
/// What light nodes need beside the control plane.
pub const LIGHT: &[Tool] = &[Tool::CniBridge, Tool::CniHostLocal, Tool::CniLoopback];
/// What cluster nodes need beside the control plane and the CNI plugins.
pub const CLUSTER: &[Tool] = &[
    Tool::KubeControllerManager,
    Tool::KubeScheduler,
    Tool::Kubelet,
    Tool::Containerd,
    Tool::ContainerdShim,
    Tool::Ctr,
];

/// What receives flow exports beside Debian's collectors.
pub const FLOWS: &[Tool] = &[Tool::Goflow2, Tool::Otelcol];

/// One folder of `tools/`: a Go module whose `go.mod` pins the version.
struct Set {
    name: &'static str,
    /// The module whose version names the cache folder.
    module: &'static str,
    tags: &'static str,
    ldflags: &'static str,
}

const KUBERNETES: Set = Set {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    tags: "",
    ldflags: "-X k8s.io/component-base/version.gitVersion=VERSION",
};
const ETCD: Set = Set { name: "etcd", module: "go.etcd.io/etcd/server/v3", tags: "", ldflags: "" };
const CONTAINERD: Set = Set {
    name: "containerd",
    module: "github.com/containerd/containerd/v2",
    tags: "no_btrfs,no_devmapper,no_zfs",
    ldflags: "-X github.com/containerd/containerd/v2/version.Version=VERSION",
};
const CNI: Set =
    Set { name: "cni-plugins", module: "github.com/containernetworking/plugins", tags: "", ldflags: "" };
const GOFLOW2: Set =
    Set { name: "goflow2", module: "github.com/netsampler/goflow2/v2", tags: "", ldflags: "" };
const OTELCOL: Set =
    Set { name: "otelcol", module: "go.opentelemetry.io/collector/otelcol", tags: "", ldflags: "" };

impl Tool {
    /// The file's name.
    pub fn name(self) -> &'static str {
        self.source().1.rsplit('/').find(|part| *part != "v3" && *part != "server").unwrap_or("etcd")
    }

    /// The set it belongs to and its Go package.
    fn source(self) -> (Set, &'static str) {
        match self {
            Self::KubeApiserver => (KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
            Self::KubeControllerManager => (KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
            Self::KubeScheduler => (KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler"),
            Self::Kubelet => (KUBERNETES, "k8s.io/kubernetes/cmd/kubelet"),
            Self::Kubectl => (KUBERNETES, "k8s.io/kubernetes/cmd/kubectl"),
            Self::Etcd => (ETCD, "go.etcd.io/etcd/server/v3"),
            Self::Containerd => (CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd"),
            Self::ContainerdShim => {
                (CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2")
            }
            Self::Ctr => (CONTAINERD, "github.com/containerd/containerd/v2/cmd/ctr"),
            Self::CniBridge => (CNI, "github.com/containernetworking/plugins/plugins/main/bridge"),
            Self::CniHostLocal => (CNI, "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            Self::CniLoopback => (CNI, "github.com/containernetworking/plugins/plugins/main/loopback"),
            Self::Goflow2 => (GOFLOW2, "github.com/netsampler/goflow2/v2/cmd/goflow2"),
            Self::Otelcol => (OTELCOL, "trunkline.io/test-e2e/tools/otelcol"),
        }
    }
}

/// The path of a tool: out of `TRUNKLINE_K8S_BIN`, `KUBEBUILDER_ASSETS` or the cache, built into the cache if absent.
pub fn path(tool: Tool) -> Result<PathBuf> {
    if let Some(found) = given(tool) {
        return Ok(found);
    }
    let (set, package) = tool.source();
    let version = set.version()?;
    let dir = paths::cache().join(format!("{}-{version}", set.name));
    let wanted = dir.join(tool.name());
    if wanted.is_file() {
        return Ok(wanted);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let lock =
        File::create(paths::cache().join(format!(".{}.lock", set.name))).context("creating a lock file")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("waiting for another build of the same tools")?;
    if !wanted.is_file() {
        set.build(package, &version, &wanted)?;
    }
    Ok(wanted)
}

/// Finds or builds all of these, saying what takes time.
pub fn prepare(tools: &[Tool]) -> Result<()> {
    tools.iter().try_for_each(|tool| path(*tool).map(drop))
}

/// The folder in which a tool lies; plugins and shims are looked up by folder.
pub fn dir(tool: Tool) -> Result<PathBuf> {
    let path = path(tool)?;
    Ok(path.parent().context("a tool in no folder")?.to_path_buf())
}

/// A folder in the form of `KUBEBUILDER_ASSETS`, for tests that bring no tools of their own: links to the control plane.
pub fn assets() -> Result<PathBuf> {
    let dir = paths::cache().join("assets");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    for tool in CONTROL_PLANE {
        let (link, target) = (dir.join(tool.name()), path(*tool)?);
        if link.is_file() && fs::read_link(&link).is_ok_and(|old| old == target) {
            continue;
        }
        // Made aside and renamed: two runs at once find one or the other, never nothing.
        let aside = dir.join(format!(".{}-{}", tool.name(), std::process::id()));
        std::os::unix::fs::symlink(&target, &aside)
            .and_then(|()| fs::rename(&aside, &link))
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(dir)
}

fn given(tool: Tool) -> Option<PathBuf> {
    let dirs = ["TRUNKLINE_K8S_BIN", "KUBEBUILDER_ASSETS"].into_iter().filter_map(env::var_os);
    dirs.map(|dir| Path::new(&dir).join(tool.name())).find(|path| path.is_file())
}

impl Set {
    fn dir(&self) -> PathBuf {
        paths::workspace().join("test-e2e/tools").join(self.name)
    }

    /// The version that `go.mod` requires.
    fn version(&self) -> Result<String> {
        let file = self.dir().join("go.mod");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        version_in(&text, self.module)
            .with_context(|| format!("{} does not require {}", file.display(), self.module))
    }

    fn build(&self, package: &str, version: &str, wanted: &Path) -> Result<()> {
        let name = wanted.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(go) = prereq::find("go") else {
            bail!(
                "{name} is not cached and Go is not installed; install Go 1.26 or newer (https://go.dev/dl), or \
                 name a folder holding {name} in KUBEBUILDER_ASSETS or TRUNKLINE_K8S_BIN"
            );
        };
        eprintln!("building {name} {version}; it is kept in {}", wanted.parent().unwrap_or(wanted).display());
        let start = Instant::now();
        let new = wanted.with_extension(format!("new{}", std::process::id()));
        let ldflags = format!("-s -w {}", self.ldflags.replace("VERSION", version));
        let mut command = Command::new(go);
        command.current_dir(self.dir()).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly");
        command
            .args(["build", "-trimpath", "-tags", self.tags, "-ldflags", &ldflags, "-o"])
            .arg(&new)
            .arg(package);
        process::output(&mut command).with_context(|| format!("building {name} {version}"))?;
        fs::rename(&new, wanted).with_context(|| format!("putting {} in place", wanted.display()))?;
        eprintln!("built {name} {version} in {} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// The version of `module` among the requirements of a `go.mod`.
fn version_in(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next()? == module)
            .then(|| words.next().map(str::to_owned))
            .flatten()
            .filter(|v| v.starts_with('v'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_pins_its_version_in_its_go_mod() {
        for (set, version) in [
            (KUBERNETES, "v1.34.4"),
            (ETCD, "v3.6.8"),
            (CONTAINERD, "v2.3.7"),
            (CNI, "v1.9.1"),
            (GOFLOW2, "v2.2.6"),
            (OTELCOL, "v0.158.0"),
        ] {
            assert_eq!(set.version().expect("a version"), version, "{}", set.name);
        }
    }

    #[test]
    fn tools_are_named_as_people_know_them() {
        let named = |tool: Tool| tool.name();
        assert_eq!(named(Tool::Etcd), "etcd");
        assert_eq!(named(Tool::KubeApiserver), "kube-apiserver");
        assert_eq!(named(Tool::CniHostLocal), "host-local");
        assert_eq!(named(Tool::Otelcol), "otelcol");
        assert_eq!(named(Tool::ContainerdShim), "containerd-shim-runc-v2");
    }

    #[test]
    fn replacements_are_not_taken_for_requirements() {
        let text = "tool example.test/a\nrequire (\n\texample.test/a v1.2.3 // indirect\n)\n";
        assert_eq!(version_in(text, "example.test/a").as_deref(), Some("v1.2.3"));
        assert_eq!(version_in(text, "example.test/b"), None);
    }
}
