//! The second part of an uninstallation: the files of the Open vSwitch that came with Trunkline.
//!
//! Owns `/var/lib/trunkline/openvswitch` and `/run/trunkline`. Must never touch a run directory of the node's own Open
//! vSwitch, nor files of one that still answers.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Report, UninstallError};

/// Folders of which nothing is kept; they themselves may be mounted and stay, empty.
const FOLDERS: [&str; 2] = ["/run/trunkline", "/var/lib/trunkline"];

/// Removes what Trunkline's own Open vSwitch left behind.
pub(crate) fn run() -> Result<(), UninstallError> {
    let mut report = Report::default();
    remove(Path::new("/"), &mut report);
    if report.left.is_empty() { Ok(()) } else { Err(UninstallError::Left(report.left)) }
}

fn remove(root: &Path, report: &mut Report) {
    let folders = FOLDERS.map(|folder| root.join(folder.trim_start_matches('/')));
    let socket = folders[0].join("openvswitch/db.sock");
    if UnixStream::connect(&socket).is_ok() {
        return report.failed(format!("Open vSwitch still answers at {}; stop it first", socket.display()));
    }
    for folder in folders {
        match empty(&folder) {
            Ok(0) => {}
            Ok(removed) => super::say(&format!("removed {removed} entries of {}", folder.display())),
            Err(error) => report.failed(format!("cannot empty {}: {error}", folder.display())),
        }
    }
}

/// Removes a folder's content; a folder that is not there is empty.
fn empty(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for folder in ["run/trunkline/openvswitch", "var/lib/trunkline/openvswitch", "run/openvswitch"] {
            fs::create_dir_all(root.path().join(folder)).expect("a directory");
            fs::write(root.path().join(folder).join("conf.db"), "x").expect("a file");
        }
        root
    }

    #[test]
    fn our_files_go_and_the_nodes_own_open_vswitch_stays() {
        let root = node();
        let mut report = Report::default();
        remove(root.path(), &mut report);
        remove(root.path(), &mut report);
        assert!(report.left.is_empty(), "{:?}", report.left);
        assert!(!root.path().join("run/trunkline/openvswitch").exists());
        assert!(!root.path().join("var/lib/trunkline/openvswitch").exists());
        assert!(root.path().join("run/openvswitch/conf.db").exists());
    }

    #[test]
    fn files_of_a_running_open_vswitch_stay() {
        let root = node();
        let socket = root.path().join("run/trunkline/openvswitch/db.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let mut report = Report::default();
        remove(root.path(), &mut report);
        assert_eq!(
            report.left,
            [format!("Open vSwitch still answers at {}; stop it first", socket.display())]
        );
        assert!(root.path().join("var/lib/trunkline/openvswitch/conf.db").exists());
    }
}
