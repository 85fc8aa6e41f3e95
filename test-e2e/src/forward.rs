//! A TCP forwarder into a network namespace: listens on 127.0.0.1 of the namespace it is started in, connects in
//! the other. It makes the cluster's API server reachable from an ordinary shell.
//!
//! One task per connection, aborted with the set; the copy is the only await in it and holds no state.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::process::Process;
use crate::run::Run;
use crate::{netns, paths, wait};

/// A forwarder running as a process of its own, so that it can outlive the one that started it.
#[derive(Debug)]
pub struct Forwarder {
    /// The address to connect to, on 127.0.0.1.
    pub address: SocketAddr,
    process: Process,
}

impl Forwarder {
    /// Starts `trunkline-e2e forward` from a free local port to `target` inside the namespace at `netns`.
    pub fn spawn(run: &Arc<Run>, name: &str, netns: &Path, target: SocketAddr) -> Result<Self> {
        let port_file = run.dir().join(format!("{name}.address"));
        let mut command = std::process::Command::new(paths::binary("trunkline-e2e")?);
        command.arg("forward").arg(netns).arg(target.to_string()).arg(&port_file);
        let process = Process::spawn(run, name, command)?;
        let address = wait::until_blocking("the forwarder listens", Duration::from_secs(30), || {
            process.check()?;
            Ok(std::fs::read_to_string(&port_file).ok().and_then(|text| text.parse().ok()))
        })?;
        Ok(Self { address, process })
    }

    /// Fails if it has ended.
    pub fn check(&self) -> Result<()> {
        self.process.check()
    }
}

/// Forwards for ever; writes the listening address to `port_file` once it listens.
pub async fn serve(netns: PathBuf, target: SocketAddr, port_file: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listening on 127.0.0.1")?;
    let address = listener.local_addr().context("asking for the listening address")?;
    let new = port_file.with_extension("new");
    std::fs::write(&new, address.to_string()).context("writing the listening address")?;
    std::fs::rename(&new, port_file).context("publishing the listening address")?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! { biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                let (inbound, _) = accepted.context("accepting a connection")?;
                connections.spawn(forward(inbound, netns.clone(), target));
            }
        }
    }
}

async fn forward(mut inbound: TcpStream, netns: PathBuf, target: SocketAddr) {
    let dialled =
        tokio::task::spawn_blocking(move || netns::enter(&netns, move || StdStream::connect(target))).await;
    let Ok(Ok(Ok(outbound))) = dialled else { return };
    if outbound.set_nonblocking(true).is_err() {
        return;
    }
    let Ok(mut outbound) = TcpStream::from_std(outbound) else { return };
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    // Either side's end ends the connection; there is nobody to tell.
    let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
}
