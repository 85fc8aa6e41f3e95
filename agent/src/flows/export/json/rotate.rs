//! A file that is rotated by size: `<path>` is written to, `<path>.1` is the youngest full one, `<path>.<keep>` the
//! oldest.
//!
//! Blocking I/O; the caller brings a thread that may block. Lines are never split over two files. Must never remove
//! anything but what it numbered itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Records can be read by the owner and the group only: they say who talks to whom.
const MODE: u32 = 0o640;

#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    max_bytes: u64,
    keep: u16,
    file: File,
    length: u64,
}

impl Rotating {
    /// Opens the file, going on at its end.
    pub(super) fn open(path: &Path, max_bytes: u64, keep: u16) -> io::Result<Self> {
        let file = append(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), max_bytes, keep, file, length })
    }

    /// Appends whole lines, rotating before the first that would make the file too long.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut rest = lines;
        while !rest.is_empty() {
            let room = self.max_bytes.saturating_sub(self.length);
            let mut fit = whole_lines(rest, room);
            if fit == 0 && self.length > 0 {
                self.rotate()?;
                continue;
            }
            // A line longer than a file may be has a file of its own.
            fit = fit.max(first_line(rest));
            self.file.write_all(&rest[..fit])?;
            self.length += fit as u64;
            rest = &rest[fit..];
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.keep > 0 {
            rename_if_there(&self.path, &self.numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.length = 0;
        Ok(())
    }

    fn numbered(&self, number: u16) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

/// How many bytes of whole lines fit into `room`.
fn whole_lines(lines: &[u8], room: u64) -> usize {
    let window = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    lines[..window].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[track_caller]
    fn check(max_bytes: u64, keep: u16, writes: &[&str], expected: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for write in writes {
            // Opened anew each time: an agent that restarts goes on where it was.
            Rotating::open(&path, max_bytes, keep).unwrap().write(write.as_bytes()).unwrap();
        }
        let expected: Vec<_> = expected.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        assert_eq!(files(folder.path()), expected);
    }

    #[test]
    fn files_rotate_between_lines_and_the_oldest_go() {
        check(4, 2, &["a\nb\n"], &[("f", "a\nb\n")]);
        check(4, 2, &["a\n", "bb\n"], &[("f", "bb\n"), ("f.1", "a\n")]);
        check(4, 2, &["a\nb\nc\nd\ne\nf\ng\n"], &[("f", "g\n"), ("f.1", "e\nf\n"), ("f.2", "c\nd\n")]);
        check(4, 0, &["a\nb\nc\n"], &[("f", "c\n")]);
    }

    #[test]
    fn a_line_longer_than_a_file_may_be_is_kept_whole() {
        check(4, 1, &["a\n", "long line\n", "b\n"], &[("f", "b\n"), ("f.1", "long line\n")]);
    }
}
