//! Debian's packages of what the harness runs and does not build: fetched and unpacked into the cache, never installed.
//!
//! Each tree holds the exact closure that its programs load, so that nothing of the machine's own versions matters.

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
    proof: &'static str,
}

/// Open vSwitch 3.1 and the libraries that its programs load.
const OVS: Recipe = Recipe {
    name: "ovs-root",
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
    packages: &["containerd", "runc", "libseccomp2"],
    proof: "usr/bin/containerd",
};

/// `ethtool`, to look at offloads with something that is not ours.
const ETHTOOL: Recipe =
    Recipe { name: "ethtool-root", packages: &["ethtool", "libmnl0"], proof: "sbin/ethtool" };

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
    proof: "usr/sbin/nfacctd",
};

/// ethtool from Debian.
pub fn ethtool() -> Result<Tree> {
    ETHTOOL.tree()
}

/// Open vSwitch from Debian.
pub fn ovs() -> Result<Tree> {
    OVS.tree()
}

/// nfdump, pmacct and tshark from Debian.
pub fn collectors() -> Result<Tree> {
    COLLECTORS.tree()
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
        let download = || {
            let mut command = Command::new("apt-get");
            // apt drops to a user that cannot write here.
            command.args(["-o", "APT::Sandbox::User=root", "download"]).args(self.packages).current_dir(debs);
            process::output(&mut command)
        };
        if download().is_err() {
            process::output(Command::new("apt-get").arg("update"))
                .context("updating the list of packages")?;
            download().context("please see that apt-get can download packages")?;
        }
        for entry in fs::read_dir(debs).context("listing the packages")? {
            let deb = entry.context("listing the packages")?.path();
            process::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(tree))?;
        }
        Ok(())
    }
}
