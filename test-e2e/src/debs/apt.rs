//! Downloading packages by apt.
//!
//! Owns how apt is called. Installs nothing, and leaves the machine's own lists of other suites alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// The key ring of every Debian suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How `apt-get indextargets` begins a line about the main archive.
const DEBIAN: &str = "Debian Debian main ";

/// Downloads exactly these packages, of the machine's own suites, into `debs`.
pub(super) fn download(packages: &[&str], debs: &Path) -> Result<()> {
    let fetch = || {
        let mut command = Command::new("apt-get");
        // apt drops to a user that cannot write here.
        command.args(["-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(debs);
        process::output(&mut command)
    };
    if fetch().is_err() {
        process::output(Command::new("apt-get").arg("update")).context("updating the list of packages")?;
        fetch().context("please see that apt-get can download packages")?;
    }
    Ok(())
}

/// Downloads packages of other suites with all that they need, by an apt of whose state nothing is the machine's and
/// for which nothing is installed.
pub(super) fn download_with_dependencies(
    packages: &[&str],
    debs: &Path,
    suites: &[&str],
    release: &str,
) -> Result<()> {
    let mirror = mirror()?;
    let state = debs.with_extension("apt");
    for folder in [state.join("lists/partial"), debs.join("partial")] {
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let line = |suite: &&str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main");
    let lines: Vec<String> = suites.iter().map(line).collect();
    fs::write(state.join("sources"), lines.join("\n") + "\n").context("writing the list of sources")?;
    fs::write(state.join("status"), "").context("writing an empty state")?;
    let at = |key: &str, path: &Path| format!("{key}={}", path.display());
    let options = [
        at("Dir::Etc::sourcelist", &state.join("sources")),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        "Dir::Etc::preferences=/dev/null".to_owned(),
        "Dir::Etc::preferencesparts=/dev/null".to_owned(),
        at("Dir::State::lists", &state.join("lists")),
        at("Dir::State::status", &state.join("status")),
        at("Dir::State::extended_states", &state.join("extended")),
        at("Dir::Cache::archives", debs),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "APT::Install-Recommends=false".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    let apt = || {
        let mut command = Command::new("apt-get");
        command.arg("-q").args(options.iter().flat_map(|option| ["-o", option]));
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::output(apt().arg("update")).context("reading other suites' lists")?;
    let mut install = apt();
    install.args(["-y", "--download-only", "-t", release, "install"]).args(packages);
    process::output(&mut install).map(drop).with_context(|| format!("downloading packages of {release}"))
}

/// The Debian mirror that the machine itself uses.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"]);
    let mut targets = || process::output(&mut command);
    let mut text = targets()?;
    if !text.lines().any(|line| line.starts_with(DEBIAN)) {
        process::output(Command::new("apt-get").arg("update")).context("updating the list of packages")?;
        text = targets()?;
    }
    let line = text.lines().find_map(|line| line.strip_prefix(DEBIAN));
    line.map(str::to_owned).context("apt's sources name no mirror of Debian's main archive")
}
