//! What a guest's command prints, shown as it comes.
//!
//! Owns how far the file has been read. Knows nothing of guests.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// A file that somebody else appends to.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    shown: u64,
}

impl Follower {
    /// From its beginning; it need not be there yet.
    pub(super) fn of(path: PathBuf) -> Self {
        Self { path, shown: 0 }
    }

    /// Copies what is new to standard output.
    pub(super) fn show(&mut self) -> Result<()> {
        let new = self.read()?;
        let mut out = std::io::stdout().lock();
        out.write_all(&new).and_then(|()| out.flush()).context("showing a guest's output")
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        let mut new = Vec::new();
        let Ok(mut file) = File::open(&self.path) else { return Ok(new) };
        file.seek(SeekFrom::Start(self.shown))
            .and_then(|_| file.read_to_end(&mut new))
            .with_context(|| format!("reading {}", self.path.display()))?;
        self.shown += new.len() as u64;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("output");
        let mut follower = Follower::of(path.clone());
        assert_eq!(follower.read().expect("no file yet"), b"");
        let mut file = File::create(&path).expect("a file");
        for part in [&b"one\n"[..], b"tw", b"o\n"] {
            file.write_all(part).expect("written");
            assert_eq!(follower.read().expect("read"), part);
            assert_eq!(follower.read().expect("nothing new"), b"");
        }
    }
}
