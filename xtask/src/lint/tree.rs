//! Rules that every file of the tree keeps, read line by line.
//!
//! Owns the rules; must never need a compiler. Only files that git knows, or would add, are read.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::output;

/// Text that must not be in the tree, with the reason. Written in halves, since this file is read too.
const REFUSED: [(&str, &str, &str); 10] = [
    ("crates", ".io", "names a package registry"),
    ("proxy.golang", ".org", "names a package registry"),
    ("registry.npm", "js.org", "names a package registry"),
    ("py", "pi.org", "names a package registry"),
    ("/ho", "me/", "names a path of one machine"),
    ("/Us", "ers/", "names a path of one machine"),
    ("/wor", "k/", "names a path of one machine"),
    ("#[igno", "re", "skips a test without saying so"),
    ("todo", "!(", "is not finished"),
    ("unimplemented", "!(", "is not finished"),
];

/// Files that tools write, and that name registries because they must.
const WRITTEN_BY_TOOLS: [&str; 2] = ["Cargo.lock", "go.sum"];

/// Fails with every line that breaks a rule.
pub(super) fn check(root: &Path) -> anyhow::Result<()> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let files = output(Command::new("git").arg("-C").arg(root).args(list))?;
    let mut wrong = Vec::new();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        if WRITTEN_BY_TOOLS.iter().any(|name| file.ends_with(name)) {
            continue;
        }
        let path = root.join(file);
        // A file that is deleted but not yet committed, or a link to a folder.
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Binary files keep no such rules.
        if let Ok(text) = String::from_utf8(bytes) {
            read(file, &text, &mut wrong);
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

fn read(file: &str, text: &str, wrong: &mut Vec<String>) {
    let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
    if extension == Some("rs") && !text.starts_with("//!") {
        wrong.push(format!("{file}:1: opens without //! (what it owns, what it must never do)"));
    }
    for (index, line) in text.lines().enumerate() {
        for (first, second, reason) in REFUSED {
            let found = line.split(first).skip(1).any(|rest| rest.starts_with(second));
            if found {
                wrong.push(format!("{file}:{}: {first}{second} {reason}", index + 1));
            }
        }
    }
    let member = file.ends_with("Cargo.toml") && text.contains("[package]");
    if member && !text.contains("[lints]\nworkspace = true") {
        wrong.push(format!("{file}: does not inherit the workspace's lints; add [lints] workspace = true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        read(file, text, &mut wrong);
        wrong
    }

    #[test]
    fn good_files_pass() {
        assert!(findings("a.rs", "//! What it owns.\nfn a() {}\n").is_empty());
        assert!(findings("a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n").is_empty());
        assert!(findings("README.md", "Text.\n").is_empty());
    }

    #[test]
    fn each_rule_names_file_and_line() {
        for (file, text, expected) in [
            (
                "a.rs",
                "fn a() {}".to_owned(),
                "a.rs:1: opens without //! (what it owns, what it must never do)".to_owned(),
            ),
            (
                "a.md",
                format!("x\n{}{}a", "/ho", "me/"),
                format!("a.md:2: {}{} names a path of one machine", "/ho", "me/"),
            ),
            (
                "b.md",
                format!("{}{}", "crates", ".io"),
                format!("b.md:1: {}{} names a package registry", "crates", ".io"),
            ),
            (
                "a/Cargo.toml",
                "[package]\n".to_owned(),
                "a/Cargo.toml: does not inherit the workspace's lints; add [lints] workspace = true"
                    .to_owned(),
            ),
        ] {
            assert_eq!(findings(file, &text), [expected]);
        }
    }
}
