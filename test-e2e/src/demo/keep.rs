//! `KEEP=1` and `demo-down`: a demo that stays, and how it goes.
//!
//! Owns `target/demo/`: the kubeconfig for people and the run that must be undone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cluster::{Cluster, POD_IMAGE};
use crate::{guard, paths};

fn folder() -> PathBuf {
    paths::output().join("demo")
}

/// The state folder of the kept run, if there is one that still exists.
fn kept() -> Option<PathBuf> {
    let text = fs::read_to_string(folder().join("run")).ok()?;
    let dir = PathBuf::from(text.trim());
    dir.exists().then_some(dir)
}

/// Fails, saying what is in the way, if this demo is to stay and another one does.
pub(super) fn check(keep: bool) -> Result<()> {
    match kept() {
        Some(dir) if keep => bail!(
            "a demo is being kept already ({}); `make demo-down` removes it, or run this one without KEEP=1",
            dir.display()
        ),
        Some(dir) => {
            eprintln!("a kept demo ({}) goes on beside this one", dir.display());
            Ok(())
        }
        None => Ok(()),
    }
}

/// Leaves the cluster and says how to go on.
pub(super) fn keep(cluster: &Cluster) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let kubeconfig = folder.join("kubeconfig");
    fs::copy(cluster.plane.kubeconfig(), &kubeconfig).context("copying the kubeconfig")?;
    fs::write(folder.join("run"), cluster.run.dir().display().to_string()).context("writing down the run")?;
    cluster.run.keep()?;
    let examples = paths::workspace().join("manifests/examples/demo/pods.yaml");
    eprintln!(
        "\nThe cluster stays. Its nodes have the image {POD_IMAGE} for pods. Go on with:\n\n  \
         export KUBECONFIG={}\n  kubectl get nodes,pods -A -o wide\n  kubectl apply -f {}\n  \
         kubectl describe pod multi\n  kubectl get ipp,ipa\n  \
         kubectl -n trunkline-system exec ds/trunkline-agent -- trunkctl get ports\n  \
         make demo-down\n",
        kubeconfig.display(),
        shown(&examples),
    );
    Ok(())
}

fn shown(path: &Path) -> String {
    let relative = path.strip_prefix(paths::workspace()).unwrap_or(path);
    relative.display().to_string()
}

/// `demo-down`: removes the kept demo. Without one there is nothing to do.
pub fn down() -> Result<()> {
    let Some(dir) = kept() else {
        eprintln!("no demo is being kept");
        return Ok(());
    };
    guard::teardown(&dir)?;
    fs::remove_dir_all(folder()).context("removing target/demo")?;
    eprintln!("the demo is gone");
    Ok(())
}
