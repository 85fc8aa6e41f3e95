//! Our files in the node's CNI directories.
//!
//! Owns writing and removing them so that a kill at any moment leaves either the old or the new state: a temporary
//! name that no runtime reads, fsync, rename. Order matters: a conflist without its binary turns the node not ready.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::plan::{ConfFile, OUR_FILE, PLUGIN};

/// Larger files are no CNI configuration; guards the agent's memory.
const MAX_CONF_SIZE: u64 = 1024 * 1024;

/// What went wrong with our files on the node.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// A directory of CNI configurations could not be read.
    #[error("cannot read the CNI configurations in {}", path.display())]
    Read {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of our files could not be put in place.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of our files could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What [`uninstall`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Our conflist was there.
    pub conflist: bool,
    /// Our binary was there.
    pub binary: bool,
}

/// Removes our conflist first and our binary last. May be repeated.
pub fn uninstall(conf_dir: &Path, bin_dir: &Path) -> Result<Removed, ConflistError> {
    let conflist = remove(&conf_dir.join(OUR_FILE))?;
    remove(&temporary(&conf_dir.join(OUR_FILE)))?;
    let binary = remove(&bin_dir.join(PLUGIN))?;
    remove(&temporary(&bin_dir.join(PLUGIN)))?;
    Ok(Removed { conflist, binary })
}

/// Reads every configuration in the directory; none when the directory is not there yet.
pub(super) fn read_directory(directory: &Path) -> Result<Vec<ConfFile>, ConflistError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConflistError::Read { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(directory))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let readable = [".conf", ".conflist", ".json"].iter().any(|extension| name.ends_with(extension));
        // Follows links, as runtimes do; what is gone by now was not there.
        if !readable || !fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_CONF_SIZE) {
            continue;
        }
        match fs::read(&path) {
            Ok(content) => files.push(ConfFile { name: name.to_owned(), content }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(files)
}

/// Puts our conflist in place.
pub(super) fn write_conflist(directory: &Path, content: &[u8]) -> Result<(), ConflistError> {
    replace(&directory.join(OUR_FILE), content, 0o644)
}

/// Removes our conflist; says whether it was there.
pub fn remove_conflist(directory: &Path) -> Result<bool, ConflistError> {
    remove(&directory.join(OUR_FILE))
}

/// Puts our binary in place unless it is there, equal and executable.
pub(super) fn install_binary(from: &Path, bin_dir: &Path) -> Result<bool, ConflistError> {
    let to = bin_dir.join(PLUGIN);
    let content = fs::read(from).map_err(|source| ConflistError::Read { path: from.to_owned(), source })?;
    let executable = fs::metadata(&to).is_ok_and(|meta| meta.permissions().mode() & 0o111 == 0o111);
    if executable && fs::read(&to).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    fs::create_dir_all(bin_dir)
        .map_err(|source| ConflistError::Write { path: bin_dir.to_owned(), source })?;
    replace(&to, &content, 0o755)?;
    Ok(true)
}

/// Whether our binary is there.
pub(super) fn binary_is_there(bin_dir: &Path) -> bool {
    bin_dir.join(PLUGIN).is_file()
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), ConflistError> {
    let write = || -> io::Result<()> {
        let aside = temporary(path);
        let mut file = File::create(&aside)?;
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(|source| ConflistError::Write { path: path.to_owned(), source })
}

/// A name beside `path` that neither runtimes nor other installers read; the same every time, so that what a kill
/// leaves is written over.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn remove(path: &Path) -> Result<bool, ConflistError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ConflistError::Remove { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
