//! The one local file: what must be undone exactly, written down before it is done.
//!
//! Owns `/var/lib/trunkline/journal.json`. Nothing about a pod belongs here: OVSDB and the API server are the truth
//! for those. Every change is on the disk (file and directory fsynced) when the call returns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::link::OffloadSet;

/// Where the journal is on a node.
pub const DEFAULT_PATH: &str = "/var/lib/trunkline/journal.json";

/// The layout of the file; a newer agent's is not understood and left alone.
const VERSION: u32 = 1;

/// A handle to the journal; clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(default)]
    offloads: BTreeMap<String, OffloadEntry>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { version: VERSION, offloads: BTreeMap::new() }
    }
}

/// The offloads of one NIC before we changed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OffloadEntry {
    /// Boot in which they were read: a reboot resets them, so that older values say nothing.
    boot_id: String,
    before: OffloadSet,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("cannot read the journal {}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the journal {}", path.display())]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what we write.
    #[error("the journal {} is not a journal of version {VERSION}; move it away to go on without it", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A newer agent wrote it.
    #[error("the journal {} is of version {version}; this agent knows version {VERSION}", path.display())]
    Version {
        /// File.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl JournalError {
    /// The write was cut short by shutdown.
    pub fn interrupted(journal: &Journal, error: tokio::task::JoinError) -> Self {
        Self::Write { path: journal.path.clone(), source: io::Error::other(error) }
    }
}

impl Journal {
    /// Reads the journal; a missing file is an empty one.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let at = || path.to_owned();
        let contents = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| JournalError::Malformed { path: at(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(source) => return Err(JournalError::Read { path: at(), source }),
        };
        if contents.version != VERSION {
            return Err(JournalError::Version { path: at(), version: contents.version });
        }
        Ok(Self { path: at(), contents: Arc::new(Mutex::new(contents)) })
    }

    /// Writes down the offloads of a NIC before they are changed. Values of this boot are kept: they are the original
    /// ones, the present ones may be ours. Blocks on the disk.
    pub fn record_offloads(&self, nic: &str, boot_id: &str, before: &OffloadSet) -> Result<(), JournalError> {
        self.change(|contents| {
            if contents.offloads.get(nic).is_some_and(|entry| entry.boot_id == boot_id) {
                return false;
            }
            let entry = OffloadEntry { boot_id: boot_id.to_owned(), before: before.clone() };
            contents.offloads.insert(nic.to_owned(), entry);
            true
        })
    }

    /// Drops a NIC's entry, once its offloads are back. Blocks on the disk.
    pub fn forget_offloads(&self, nic: &str) -> Result<(), JournalError> {
        self.change(|contents| contents.offloads.remove(nic).is_some())
    }

    /// The offloads to put back on a NIC.
    pub fn offloads(&self, nic: &str) -> Option<OffloadSet> {
        self.read(|contents| contents.offloads.get(nic).map(|entry| entry.before.clone()))
    }

    /// Every NIC with offloads to put back.
    pub fn nics(&self) -> Vec<String> {
        self.read(|contents| contents.offloads.keys().cloned().collect())
    }

    fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        look(&self.contents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lock is held while the file is written, so that the file never lags behind another writer's.
    fn change(&self, edit: impl FnOnce(&mut Contents) -> bool) -> Result<(), JournalError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = contents.clone();
        if !edit(&mut next) {
            return Ok(());
        }
        write(&self.path, &next).map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        *contents = next;
        Ok(())
    }
}

/// New file, fsync, rename, fsync of the directory: after a crash the journal is the old one or the new one.
fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(contents)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(on: bool) -> OffloadSet {
        OffloadSet([("rx-gro".to_owned(), on)].into())
    }

    #[test]
    fn what_was_recorded_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/journal.json");
        Journal::open(&path).unwrap().record_offloads("nic0", "boot-1", &set(true)).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.offloads("nic0"), Some(set(true)));
        assert_eq!(journal.nics(), ["nic0"]);
        journal.forget_offloads("nic0").unwrap();
        assert_eq!(Journal::open(&path).unwrap().offloads("nic0"), None);
    }

    #[test]
    fn the_first_values_of_a_boot_are_kept_and_those_of_an_earlier_boot_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal.json")).unwrap();
        journal.record_offloads("nic0", "boot-1", &set(true)).unwrap();
        journal.record_offloads("nic0", "boot-1", &set(false)).unwrap();
        assert_eq!(journal.offloads("nic0"), Some(set(true)));
        journal.record_offloads("nic0", "boot-2", &set(false)).unwrap();
        assert_eq!(journal.offloads("nic0"), Some(set(false)));
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.json");
        for text in ["{", "{\"version\": 2}"] {
            fs::write(&path, text).unwrap();
            Journal::open(&path).unwrap_err();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
