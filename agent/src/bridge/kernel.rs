//! Whether the node's kernel has a datapath of its own.
//!
//! Owns the one `modprobe` of the agent; must never load anything but `openvswitch`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

/// Where a loaded, or built-in, module shows.
const MODULE: &str = "/sys/module/openvswitch";
/// `modprobe` reads files only; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks for the kernel module, and tries once to load it. Clones share the attempt.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelDatapath {
    attempted: Arc<OnceCell<()>>,
}

impl KernelDatapath {
    /// Whether the module is there now.
    pub(super) async fn present(&self) -> bool {
        if is_loaded() {
            return true;
        }
        self.attempted.get_or_init(load).await;
        is_loaded()
    }
}

fn is_loaded() -> bool {
    Path::new(MODULE).exists()
}

async fn load() {
    let mut modprobe = Command::new("modprobe");
    modprobe
        .arg("openvswitch")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, modprobe.status()).await {
        Ok(Ok(status)) => tracing::info!(%status, "modprobe openvswitch ended"),
        Ok(Err(error)) => tracing::info!(%error, "modprobe cannot be run here"),
        Err(_) => tracing::warn!("modprobe openvswitch did not end, killed"),
    }
}
