//! One image layer: a set of paths, written as a tar in path order with neither times nor owners.
//!
//! Owns the layer's tar format; must never depend on the order in which paths were added.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// Paths of a layer, relative to the image's root, without a leading slash.
#[derive(Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { content: Vec<u8>, mode: u32 },
    Symlink { target: String },
}

impl Layer {
    /// Adds a folder and the folders above it.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Adds a copy of the file at `source`.
    pub(super) fn file(&mut self, path: &str, source: &Path, mode: u32) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { content, mode });
        Ok(())
    }

    /// Adds a file with this text.
    pub(super) fn text(&mut self, path: &str, text: &str, mode: u32) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { content: text.as_bytes().to_vec(), mode });
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Symlink { target: target.to_owned() });
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// The layer as an uncompressed tar.
    pub(super) fn into_tar(self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in self.entries {
            append(&mut tar, &path, &entry).with_context(|| format!("cannot add {path} to the layer"))?;
        }
        tar.into_inner().context("cannot end the layer")
    }
}

fn append(tar: &mut Builder<Vec<u8>>, path: &str, entry: &Entry) -> std::io::Result<()> {
    match entry {
        Entry::Directory { mode } => tar.append_data(&mut header(EntryType::Directory, *mode), path, &[][..]),
        Entry::File { content, mode } => {
            let mut header = header(EntryType::Regular, *mode);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())
        }
        Entry::Symlink { target } => tar.append_link(&mut header(EntryType::Symlink, 0o777), path, target),
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_adding_does_not_change_the_tar() {
        let mut one = Layer::default();
        one.text("a/b", "x", 0o644);
        one.symlink("c", "a/b");
        let mut two = Layer::default();
        two.symlink("c", "a/b");
        two.text("a/b", "x", 0o644);
        assert_eq!(one.into_tar().expect("a tar in memory"), two.into_tar().expect("a tar in memory"));
    }

    #[test]
    fn folders_above_a_file_come_before_it() {
        let mut layer = Layer::default();
        layer.text("usr/share/doc/x", "x", 0o644);
        let bytes = layer.into_tar().expect("a tar in memory");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names, ["usr", "usr/share", "usr/share/doc", "usr/share/doc/x"]);
    }
}
