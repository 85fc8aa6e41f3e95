//! What this machine has of the things that change how nodes must be set up.
//!
//! Looks only; what it finds is written down in the run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::run::{Resource, Run, STATE};

/// Sysctls of the whole machine that every kubelet rewrites, as paths under `/proc/sys`.
const KUBELET_SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Writes down the values to be put back: the machine's own ones, even where another run's kubelets are at work.
pub(super) fn save_sysctls(run: &Run) -> Result<()> {
    let mut original = BTreeMap::new();
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        let list = fs::read_to_string(entry.path().join("resources")).unwrap_or_default();
        for line in list.lines() {
            if let Ok(Resource::Sysctl { key, value }) = serde_json::from_str(line) {
                original.insert(key, value);
            }
        }
    }
    for key in KUBELET_SYSCTLS {
        match original.get(key) {
            Some(value) => run.register(&Resource::Sysctl { key: key.to_owned(), value: value.clone() })?,
            None => run.save_sysctl(key)?,
        }
    }
    Ok(())
}

/// The machine as far as it matters.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about a machine")]
pub struct Host {
    /// `/sys/fs/cgroup` is the unified hierarchy.
    pub cgroup_v2: bool,
    /// `AppArmor` is on.
    pub apparmor: bool,
    /// Some swap is in use or could be.
    pub swap: bool,
    /// The kernel's Open vSwitch datapath is loaded.
    pub openvswitch: bool,
}

impl Host {
    /// Looks at the machine.
    pub fn detect() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            apparmor: text("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            swap: text("/proc/swaps").lines().count() > 1,
            openvswitch: Path::new("/sys/module/openvswitch").exists(),
        }
    }

    /// What was found, and which of it this harness has never met.
    pub fn describe(self) -> String {
        let word = |there: bool| if there { "yes" } else { "no" };
        let mut text = format!(
            "machine: cgroup {}, AppArmor {}, swap {}, openvswitch module {}",
            if self.cgroup_v2 { "v2" } else { "v1" },
            word(self.apparmor),
            word(self.swap),
            word(self.openvswitch),
        );
        let untried: Vec<&str> = [
            (self.cgroup_v2, "cgroup v2"),
            (self.apparmor, "AppArmor"),
            (self.swap, "swap"),
            (
                self.openvswitch,
                "a loaded openvswitch module (bridges here use the userspace datapath all the same)",
            ),
        ]
        .iter()
        .filter_map(|(there, name)| there.then_some(*name))
        .collect();
        if !untried.is_empty() {
            text = format!("{text}; never tried with {}", untried.join(", "));
        }
        text
    }
}
