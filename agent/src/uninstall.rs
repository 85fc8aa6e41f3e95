//! `trunkline-agent uninstall-node`: takes everything of Trunkline off this node.
//!
//! Owns the order and the report: the conflist first (a conflist without its binary turns the node `NotReady`), then
//! ports, bridges and offloads, then host links that are left, the taps, the binary last. Each part is idempotent, is tried
//! whatever became of the one before, and needs no running agent. Must never touch what does not carry our marks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use trunkline_api::AgentConfig;
use trunkline_ovs::{Ovsdb, OvsdbOptions};

use crate::{
    attach::{HOST_LINK_PREFIX, is_host_link_name},
    bridge,
    cli::{Ends, Options, chain},
    config, conflist,
    journal::Journal,
    link::{delete_host_link, list_host_links},
    server::CniServer,
};

pub(crate) mod files;

/// How long Open vSwitch may take to answer.
const OVS_PATIENCE: Duration = Duration::from_secs(15);

/// Something could not be removed.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// Parts are left; the others were cleaned.
    #[error("not everything could be removed; run it again after mending: {}", .0.join("; "))]
    Left(Vec<String>),
    /// An agent would write everything anew.
    #[error("an agent still runs on this node ({}); stop it first", socket.display())]
    AgentRuns {
        /// The socket that it serves.
        socket: PathBuf,
    },
}

impl Ends for UninstallError {
    fn is_usage(&self) -> bool {
        matches!(self, Self::AgentRuns { .. })
    }
}

/// What is said about each part as it is done.
#[derive(Default)]
struct Report {
    left: Vec<String>,
}

/// Says what was taken off.
fn say(what: &str) {
    println!("{what}");
}

impl Report {
    fn failed(&mut self, what: String) {
        eprintln!("failed: {what}");
        self.left.push(what);
    }
}

/// Uninstalls; the error names what is left.
pub async fn run(options: Options) -> Result<(), UninstallError> {
    if CniServer::is_served(&options.socket) {
        return Err(UninstallError::AgentRuns { socket: options.socket });
    }
    let mut report = Report::default();
    // A node whose configuration is gone or broken has everything where it is by default.
    let config = config::load(&options.config).unwrap_or_else(|problem| {
        eprintln!("{problem}; using the default paths");
        AgentConfig::default()
    });
    remove_conflist(&config.cni_conf_dir, &mut report);
    clean_bridges(&config.ovs_run_dir, &options.journal, &mut report).await;
    delete_links(&mut report).await;
    remove_taps(&options.bpffs, &mut report);
    if report.left.is_empty() {
        remove_file(&options.journal, &mut report);
    }
    remove_binary(&config, &mut report);
    remove_file(&options.socket, &mut report);
    if report.left.is_empty() { Ok(()) } else { Err(UninstallError::Left(report.left)) }
}

fn remove_conflist(conf_dir: &Path, report: &mut Report) {
    match conflist::remove_conflist(conf_dir) {
        Ok(true) => say("removed the chained CNI configuration"),
        Ok(false) => {}
        Err(error) => report.failed(chain(&error)),
    }
}

fn remove_binary(config: &AgentConfig, report: &mut Report) {
    match conflist::uninstall(&config.cni_conf_dir, &config.cni_bin_dir) {
        Ok(removed) if removed.binary => say("removed trunkline-cni"),
        Ok(_) => {}
        Err(error) => report.failed(chain(&error)),
    }
}

async fn clean_bridges(run_dir: &Path, journal: &Path, report: &mut Report) {
    let journal = match Journal::open(journal) {
        Ok(journal) => journal,
        Err(error) => return report.failed(chain(&error)),
    };
    let socket = run_dir.join("db.sock");
    if !socket.exists() && journal.nics().is_empty() {
        return; // no Open vSwitch, nothing to put back
    }
    let ovsdb = Ovsdb::connect(OvsdbOptions::new(&socket));
    let mut replica = ovsdb.replica();
    let connect = tokio::time::timeout(OVS_PATIENCE, replica.wait_for(|replica| replica.connected));
    // What it returns locks the replica and must be gone before anything else is awaited.
    let connected = matches!(connect.await, Ok(Ok(_)));
    if !connected {
        return report.failed(format!(
            "Open vSwitch does not answer at {}, so ports and bridges of Trunkline may be left in its database",
            socket.display()
        ));
    }
    match bridge::uninstall(&ovsdb, &journal).await {
        Ok(done) => {
            for bridge in &done.deleted {
                say(&format!("deleted bridge {bridge}"));
            }
            for bridge in &done.released {
                say(&format!("gave back bridge {bridge}"));
            }
            for nic in &done.restored {
                say(&format!("put back the offloads of {nic}"));
            }
            if done.pod_ports > 0 {
                say(&format!("removed {} pod ports", done.pod_ports));
            }
            done.failures.into_iter().for_each(|failure| report.failed(failure));
        }
        Err(error) => report.failed(chain(&error)),
    }
}

/// Host ends of pods' interfaces; their pods keep running without those interfaces.
async fn delete_links(report: &mut Report) {
    let links = match list_host_links(HOST_LINK_PREFIX).await {
        Ok(links) => links,
        Err(error) => return report.failed(chain(&error)),
    };
    let mut deleted = 0;
    for link in links.iter().filter(|link| is_host_link_name(link)) {
        match delete_host_link(link).await {
            Ok(_) => deleted += 1,
            Err(error) => report.failed(chain(&error)),
        }
    }
    if deleted > 0 {
        say(&format!("deleted {deleted} host links of pods"));
    }
}

/// Every tap with what it counted, and the BPF file system if it is the one that the agent mounts.
fn remove_taps(bpffs: &Path, report: &mut Report) {
    match trunkline_ebpf::remove_all(&bpffs.join("trunkline")) {
        Ok(true) => say("removed the taps"),
        Ok(false) => {}
        Err(error) => return report.failed(chain(&error)),
    }
    if bpffs != Path::new(crate::flows::DEFAULT_BPFFS) {
        return;
    }
    match nix::mount::umount2(bpffs, nix::mount::MntFlags::MNT_DETACH) {
        Ok(()) => say("unmounted the BPF file system of the taps"),
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => report.failed(format!("cannot unmount {}: {error}", bpffs.display())),
    }
}

fn remove_file(path: &Path, report: &mut Report) {
    match std::fs::remove_file(path) {
        Ok(()) => say(&format!("removed {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => report.failed(format!("cannot remove {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_go_and_others_stay_and_a_second_time_finds_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (conf_dir, bin_dir) = (dir.path().join("net.d"), dir.path().join("bin"));
        for (folder, names) in
            [(&conf_dir, ["00-trunkline.conflist", "10-x.conflist"]), (&bin_dir, ["trunkline-cni", "bridge"])]
        {
            std::fs::create_dir(folder).expect("a directory");
            for name in names {
                std::fs::write(folder.join(name), "{}").expect("a file");
            }
        }
        let (cni_conf_dir, cni_bin_dir) = (conf_dir.clone(), bin_dir.clone());
        let config = AgentConfig { cni_conf_dir, cni_bin_dir, ..AgentConfig::default() };
        let mut report = Report::default();
        for _ in 0..2 {
            remove_conflist(&conf_dir, &mut report);
            assert!(!conf_dir.join("00-trunkline.conflist").exists());
            remove_binary(&config, &mut report);
            assert!(!bin_dir.join("trunkline-cni").exists());
        }
        assert!(conf_dir.join("10-x.conflist").exists() && bin_dir.join("bridge").exists());
        assert!(report.left.is_empty(), "{:?}", report.left);
    }

    #[tokio::test]
    async fn a_node_without_open_vswitch_has_no_bridges_to_clean() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut report = Report::default();
        clean_bridges(dir.path(), &dir.path().join("journal.json"), &mut report).await;
        assert!(report.left.is_empty(), "{:?}", report.left);
    }
}
