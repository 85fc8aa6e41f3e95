//! The control plane by itself: it starts, knows its administrator, serves pods' address, and leaves nothing.

use anyhow::Result;
use trunkline_e2e::control_plane::{ControlPlane, Options};
use trunkline_e2e::run::Run;
use trunkline_e2e::switch::Switch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_starts_and_leaves_nothing() -> Result<()> {
    let run = Run::start("control-plane")?;
    let switch = Switch::create(&run)?;
    let plane = ControlPlane::start(&run, &switch, Options::LIGHT).await?;
    let version = plane.client().await?.apiserver_version().await?;
    assert_eq!(version.git_version, "v1.34.4");
    let nodes = plane.kubectl(&["get", "nodes"])?;
    assert_eq!(nodes.trim(), "");
    let prefix = run.prefix().to_owned();
    drop((plane, switch));
    run.teardown()?;
    let left: Vec<_> = std::fs::read_dir("/run/netns")?.flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with(&prefix)), "{left:?}");
    Ok(())
}
