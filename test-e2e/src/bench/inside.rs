//! Threads and runtimes inside a network namespace, so that what is measured has no detour through a forwarder and no
//! helper process.

use std::fs::File;
use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a runtime all of whose threads are in the namespace, and ends that runtime. Blocks.
pub(super) fn inside<T, F>(netns: &Path, work: impl FnOnce() -> F + Send) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T>>,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("making a runtime")?;
            runtime.block_on(work())
        });
        thread.join().map_err(|_| anyhow!("the thread in {} panicked", netns.display()))?
    })
}

/// Moves this thread into the namespace, for good.
pub(super) fn enter(netns: &Path) -> Result<()> {
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", netns.display()))
}

/// A client of the API server for a thread inside the cluster network.
pub(super) async fn client(kubeconfig: &Path) -> Result<Client> {
    let config =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .context("loading our own kubeconfig")?;
    Client::try_from(config).context("making a client")
}
