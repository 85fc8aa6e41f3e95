//! Debian's packages of what the harness runs and does not build: fetched and unpacked into the cache, never installed.
//!
//! Each tree holds the exact closure that its programs load, so that nothing of the machine's own versions matters.

mod apt;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::netns::Netns;
use crate::{paths, process};

/// Debian's library folder inside a tree.
const LIB: &str = "usr/lib/x86_64-linux-gnu";

/// A tree of unpacked packages.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// What to fetch for a tree, and a file by which to know that it is whole.
struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    from: From,
    proof: &'static str,
}

/// Where packages come from.
enum From {
    /// The machine's own suites: exactly the packages named.
    Machine,
    /// Other suites of the machine's mirror, with everything that the packages depend on: the tree stands alone. The
    /// machine's own apt neither knows nor notices.
    Suites {
        /// Their names.
        suites: &'static [&'static str],
        /// The one that is preferred.
        release: &'static str,
    },
}

/// Open vSwitch 3.1 and the libraries that its programs load.
const OVS: Recipe = Recipe {
    name: "ovs-root",
    from: From::Machine,
    packages: &[
        "openvswitch-switch",
        "openvswitch-common",
        "libbpf1",
        "libcap-ng0",
        "libelf1",
        "libevent-2.1-7",
        "libnuma1",
        "libssl3",
        "libunbound8",
        "libxdp1",
        "libhogweed6",
        "libnettle8",
        "libgmp10",
        "zlib1g",
        "libzstd1",
    ],
    proof: "usr/lib/openvswitch-switch/ovs-vswitchd",
};

/// Debian's own container runtime, one generation behind.
const CONTAINERD: Recipe = Recipe {
    name: "containerd-root",
    from: From::Machine,
    packages: &["containerd", "runc", "libseccomp2"],
    proof: "usr/bin/containerd",
};

/// `ethtool`, to look at offloads with something that is not ours.
const ETHTOOL: Recipe = Recipe {
    name: "ethtool-root",
    from: From::Machine,
    packages: &["ethtool", "libmnl0"],
    proof: "sbin/ethtool",
};

/// A QEMU that emulates Intel's igb, which bookworm's own does not.
const QEMU: Recipe = Recipe {
    name: "guest-qemu-10",
    from: From::Suites { suites: &["bookworm", "bookworm-backports"], release: "bookworm-backports" },
    packages: &["qemu-system-x86"],
    proof: "usr/bin/qemu-system-x86_64",
};

/// A stock kernel with every module, of a recent long-term series.
const KERNEL_6_12: Recipe = Recipe {
    name: "guest-kernel-6.12",
    from: From::Suites { suites: &["bookworm", "bookworm-backports"], release: "bookworm-backports" },
    packages: &["linux-image-amd64"],
    proof: "lib/modules",
};

/// Debian 12's own.
const KERNEL_6_1: Recipe = Recipe {
    name: "guest-kernel-6.1",
    from: From::Suites { suites: &["bookworm"], release: "bookworm" },
    packages: &["linux-image-amd64"],
    proof: "lib/modules",
};

/// Prometheus; it is written in Go and loads nothing but the machine's C library.
const PROMETHEUS: Recipe = Recipe {
    name: "prometheus-root",
    from: From::Machine,
    packages: &["prometheus"],
    proof: "usr/bin/prometheus",
};

/// What runs in a guest beside our own programs.
const GUEST: Recipe = Recipe {
    name: "guest-root-trixie",
    from: From::Suites { suites: &["trixie"], release: "trixie" },
    packages: &[
        "base-files",
        "base-passwd",
        "bash",
        "coreutils",
        "grep",
        "sed",
        "mount",
        "util-linux",
        "procps",
        "kmod",
        "iproute2",
        "ethtool",
        "apt",
        "dpkg",
        "openvswitch-switch",
    ],
    proof: "usr/lib/openvswitch-switch/ovs-vswitchd",
};

/// One program that needs nothing: what a guest boots with.
const BUSYBOX: Recipe =
    Recipe { name: "busybox-root", from: From::Machine, packages: &["busybox-static"], proof: "bin/busybox" };

/// A kernel that guests can boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// Long-term series 6.12, from bookworm-backports
    #[default]
    #[value(name = "6.12")]
    V6_12,
    /// Long-term series 6.1, bookworm's own
    #[value(name = "6.1")]
    V6_1,
}

/// QEMU 10.
pub fn qemu() -> Result<Tree> {
    QEMU.tree()
}

/// A kernel for guests.
pub fn kernel(kernel: Kernel) -> Result<Tree> {
    match kernel {
        Kernel::V6_12 => KERNEL_6_12.tree(),
        Kernel::V6_1 => KERNEL_6_1.tree(),
    }
}

/// The root of guests.
pub fn guest() -> Result<Tree> {
    GUEST.tree()
}

/// busybox.
pub fn busybox() -> Result<Tree> {
    BUSYBOX.tree()
}

/// Collectors and a dissector of flow exports, with the libraries that they load.
const COLLECTORS: Recipe = Recipe {
    name: "collectors-root",
    packages: &[
        "nfdump",
        "pmacct",
        "tshark",
        "wireshark-common",
        "libbrotli1",
        "libbsd0",
        "libbz2-1.0",
        "libc-ares2",
        "libcap2",
        "libcom-err2",
        "libdbus-1-3",
        "libffi8",
        "libgcc-s1",
        "libgcrypt20",
        "libglib2.0-0",
        "libgmp10",
        "libgnutls30",
        "libgpg-error0",
        "libgssapi-krb5-2",
        "libhogweed6",
        "libicu72",
        "libidn2-0",
        "libjansson4",
        "libk5crypto3",
        "libkeyutils1",
        "libkrb5-3",
        "libkrb5support0",
        "libldap-2.5-0",
        "liblua5.2-0",
        "liblz4-1",
        "liblzma5",
        "libmariadb3",
        "libmaxminddb0",
        "libmd0",
        "libnettle8",
        "libnghttp2-14",
        "libnl-3-200",
        "libnl-genl-3-200",
        "libnorm1",
        "libp11-kit0",
        "libpcap0.8",
        "libpcre2-8-0",
        "libpgm-5.3-0",
        "libpq5",
        "librabbitmq4",
        "librdkafka1",
        "libsasl2-2",
        "libsmi2ldbl",
        "libsnappy1v5",
        "libsodium23",
        "libsqlite3-0",
        "libssl3",
        "libstdc++6",
        "libsystemd0",
        "libtasn1-6",
        "libunistring2",
        "libwireshark16",
        "libwireshark-data",
        "libwiretap13",
        "libwsutil14",
        "libxml2",
        "libzmq5",
        "libzstd1",
        "zlib1g",
    ],
    from: From::Machine,
    proof: "usr/sbin/nfacctd",
};

/// ethtool from Debian.
pub fn ethtool() -> Result<Tree> {
    ETHTOOL.tree()
}

/// Names a folder that stands for `/` and holds another Open vSwitch: `/` in a guest is its own, Debian 13's 3.5.
pub const OVS_ROOT: &str = "TRUNKLINE_E2E_OVS_ROOT";

/// Open vSwitch from Debian 12, as our image has it, or the one under [`OVS_ROOT`].
pub fn ovs() -> Result<Tree> {
    match std::env::var_os(OVS_ROOT).filter(|root| !root.is_empty()) {
        Some(root) => Ok(Tree { root: root.into() }),
        None => OVS.tree(),
    }
}

/// nfdump, pmacct and tshark from Debian.
pub fn collectors() -> Result<Tree> {
    COLLECTORS.tree()
}

/// Prometheus 2.42 from Debian.
pub fn prometheus() -> Result<Tree> {
    PROMETHEUS.tree()
}

/// containerd 1.6 and runc from Debian.
pub fn containerd() -> Result<Tree> {
    CONTAINERD.tree()
}

impl Tree {
    /// The folder that stands for `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in the tree.
    pub fn path(&self, inner: &str) -> PathBuf {
        self.root.join(inner)
    }

    /// The value of `LD_LIBRARY_PATH` for programs of the tree.
    pub fn library_path(&self) -> String {
        format!("{}:{}", self.path(LIB).display(), self.path("lib/x86_64-linux-gnu").display())
    }

    /// A command of the tree's program `inner`, run where we are.
    pub fn command(&self, inner: &str) -> Command {
        let mut command = Command::new(self.path(inner));
        command.env("LD_LIBRARY_PATH", self.library_path());
        command
    }

    /// A command of the tree's program `inner`, run in a network namespace.
    pub fn command_in(&self, netns: &Netns, inner: &str) -> Command {
        let mut command = netns.command("env");
        command.arg(format!("LD_LIBRARY_PATH={}", self.library_path())).arg(self.path(inner));
        command
    }
}

impl Recipe {
    fn tree(&self) -> Result<Tree> {
        let root = paths::cache().join(self.name);
        let tree = Tree { root: root.clone() };
        if root.join(self.proof).exists() {
            return Ok(tree);
        }
        fs::create_dir_all(paths::cache()).context("creating the cache")?;
        let lock = File::create(paths::cache().join(format!(".{}.lock", self.name)))
            .context("creating a lock file")?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("waiting for another fetch of the same packages")?;
        if !root.join(self.proof).exists() {
            self.fetch(&root)?;
        }
        Ok(tree)
    }

    fn fetch(&self, root: &Path) -> Result<()> {
        let start = Instant::now();
        eprintln!("fetching {} Debian packages into {}", self.packages.len(), root.display());
        let work = paths::cache().join(format!(".{}.new{}", self.name, std::process::id()));
        let (debs, tree) = (work.join("debs"), work.join("tree"));
        fs::create_dir_all(&debs)
            .and_then(|()| fs::create_dir_all(&tree))
            .context("creating a work folder")?;
        let done = self.unpack(&debs, &tree).and_then(|()| {
            if !tree.join(self.proof).exists() {
                bail!("the packages hold no {}", self.proof);
            }
            // What was there held no whole tree; see `tree`.
            if root.exists() {
                fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
            }
            fs::rename(&tree, root).with_context(|| format!("putting {} in place", root.display()))
        });
        let _ = fs::remove_dir_all(&work);
        done?;
        eprintln!("fetched them in {} s", start.elapsed().as_secs());
        Ok(())
    }

    fn unpack(&self, debs: &Path, tree: &Path) -> Result<()> {
        match self.from {
            From::Machine => apt::download(self.packages, debs)?,
            From::Suites { suites, release } => {
                apt::download_with_dependencies(self.packages, debs, suites, release)?;
            }
        }
        for entry in fs::read_dir(debs).context("listing the packages")? {
            let deb = entry.context("listing the packages")?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                process::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(tree))?;
            }
        }
        Ok(())
    }
}
