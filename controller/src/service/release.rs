//! Release and ReportConflict.
//!
//! Owns what a node may give back and report: its own pods' addresses. Must never touch another node's.

use std::net::IpAddr;

use futures::future::join_all;
use tonic::Status;
use trunkline_ipam::{Release, proto};

use super::{Inner, stopping};

impl Inner {
    pub(super) async fn release(
        &self,
        asked: proto::ReleaseRequest,
    ) -> Result<proto::ReleaseResponse, Status> {
        let pod = asked.pod.filter(|pod| !pod.uid.is_empty());
        let Some(pod) = pod else { return Err(Status::invalid_argument("pod.uid is missing")) };
        let _turn = self.turns.take(format!("pod/{}", pod.uid)).await;
        let (uid, sandbox, interfaces) = (pod.uid, asked.sandbox, asked.interfaces);
        let claims = self.ledger.call(move |ledger, _| ledger.of_pod(&uid, &sandbox, &interfaces)).await;
        let mut claims = claims.map_err(stopping)?;
        claims.retain(|claim| claim.spec.node == asked.node);
        let removals = claims.into_iter().map(|claim| async move {
            let name = claim.name.clone();
            if self.remove(claim, Release::Announced).await { Ok(name) } else { Err(name) }
        });
        let mut released = Vec::new();
        let mut failed = Vec::new();
        for outcome in join_all(removals).await {
            match outcome {
                Ok(name) => released.push(name),
                Err(name) => failed.push(name),
            }
        }
        self.metrics.released(released.len());
        if failed.is_empty() {
            return Ok(proto::ReleaseResponse { released });
        }
        Err(Status::unavailable(format!("the API server did not delete {}; ask again", failed.join(", "))))
    }

    pub(super) async fn report_conflict(&self, asked: proto::ReportConflictRequest) -> Result<(), Status> {
        let address: IpAddr = asked.address.parse().map_err(|_| {
            Status::invalid_argument(format!("address {:?} is not an IP address", asked.address))
        })?;
        let uid = asked.pod.as_ref().map(|pod| pod.uid.clone()).unwrap_or_default();
        let (pool, node, interface) = (asked.pool.clone(), asked.node.clone(), asked.interface.clone());
        let rest = (self.rest)();
        let noted = self.ledger.call(move |ledger, now| {
            let claims = ledger.of_pod(&uid, "", std::slice::from_ref(&interface));
            let holds = claims.iter().any(|claim| {
                claim.spec.node == node && claim.spec.pool == pool && claim.spec.address == address
            });
            if holds {
                ledger.quarantine(&pool, address, rest, now);
            }
            holds
        });
        if !noted.await.map_err(stopping)? {
            let text = format!(
                "interface {} of that pod does not hold {address} of IPPool {}",
                asked.interface, asked.pool
            );
            return Err(Status::not_found(text));
        }
        self.metrics.conflict();
        let pod = asked.pod.unwrap_or_default();
        let note = format!(
            "{address} of interface {} of pod {}/{} on node {} is also used by {}; it is not given again for {} s after its release",
            asked.interface,
            pod.namespace,
            pod.name,
            asked.node,
            if asked.answered_by.is_empty() { "an unknown station" } else { &asked.answered_by },
            rest.as_secs(),
        );
        self.notices.address_conflict(asked.pool, note);
        Ok(())
    }
}
