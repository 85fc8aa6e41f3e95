//! Orphan collection: what a crash, a lost DEL or a reboot left on this node goes away.
//!
//! One task looks every 30 seconds, soon after start, and soon after something ownerless was seen. Something is removed only when two looks in a row found it
//! ownerless and no ADD or DEL of its pod is under way: a port whose sandbox's namespace is gone, a host link of ours
//! without a port, a claim of this node without a port. Must never touch what an attachment under way is making, and
//! must never conclude anything from an answer it did not get.
//!
//! Its awaits are a timer and calls bounded in time; dropping the task between two of them leaves nothing half done.

mod judge;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attach::{Attacher, Sandbox};
use crate::link::{delete_host_link, list_host_links};
use judge::{Sighting, TwoLooks};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(30);
/// Before the first look, as the database and the caches fill, and before a second one.
const SOON: Duration = Duration::from_secs(5);
/// One question to the controller.
const ASK: Duration = Duration::from_secs(5);

/// Collects until `stop`.
pub async fn run(attacher: Attacher, stop: CancellationToken) {
    let mut looks = TwoLooks::default();
    let mut pause = SOON;
    loop {
        tokio::select! { biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !attacher.deps().bridges.ovs_connected() {
            // The replica may be behind: nothing can be said about what has no port.
            looks = TwoLooks::default();
            pause = SOON;
            continue;
        }
        look(&attacher, &mut looks).await;
        pause = if looks.awaits_another() { SOON } else { PERIOD };
    }
}

/// One look, and the removal of what this and the last one both found.
async fn look(attacher: &Attacher, looks: &mut TwoLooks) {
    let orphans = looks.confirm(sightings(attacher).await);
    for orphan in orphans {
        if attacher.inflight().contains(orphan.uid())
            || (orphan.uid().is_empty() && !attacher.inflight().is_empty())
        {
            continue;
        }
        match &orphan {
            Sighting::Port { sandbox, port } => {
                tracing::info!(pod = %sandbox.pod(), port, "collecting the port of a sandbox that is gone");
                if let Err(error) = attacher.remove_ports(std::slice::from_ref(port)).await {
                    tracing::warn!(port, %error, "orphaned port is not removed");
                    continue;
                }
                attacher.release(sandbox).await;
            }
            Sighting::Link { name } => {
                tracing::info!(link = name, "collecting a host link without a port");
                if let Err(error) = delete_host_link(name).await {
                    tracing::warn!(link = name, %error, "orphaned link is not removed");
                    continue;
                }
            }
            Sighting::Claim { sandbox, .. } => {
                tracing::info!(pod = %sandbox.pod(), "giving back addresses of a sandbox that has no port");
                attacher.release(sandbox).await;
            }
        }
        attacher.deps().metrics.add_orphan(orphan.kind());
    }
}

/// Everything on this node that has no owner right now.
async fn sightings(attacher: &Attacher) -> BTreeSet<Sighting> {
    let deps = attacher.deps();
    let rows = deps.bridges.pod_ports();
    let mut seen = BTreeSet::new();
    for row in &rows {
        if judge::is_gone(row.netns.as_ref()) {
            seen.insert(Sighting::Port { sandbox: Sandbox::from_row(row), port: row.name.clone() });
        }
    }
    if let Ok(links) = list_host_links(crate::attach::HOST_LINK_PREFIX).await {
        let ours = links.into_iter().filter(|name| crate::attach::is_host_link_name(name));
        seen.extend(
            ours.filter(|name| rows.iter().all(|row| row.name != *name)).map(|name| Sighting::Link { name }),
        );
    }
    if let Ok(claims) = deps.ipam.list_by_node(Instant::now() + ASK).await {
        seen.extend(judge::claims_without_port(&claims, &rows));
    }
    seen
}
