//! CHECK: are a sandbox's interfaces still what ADD made.
//!
//! Owns the comparison; must never repair anything.

use super::{Attacher, words};
use crate::bridge::PodPortRow;
use crate::link::pod_link_exists;
use crate::netns::NetnsFd;
use crate::protocol::Failure;
use crate::server::code;

impl Attacher {
    /// Every port of the sandbox must be usable, and its pod's side must be there with its MAC address.
    pub(super) async fn run_check(&self, container_id: &str) -> Result<(), Failure> {
        let rows: Vec<PodPortRow> =
            self.deps.bridges.pod_ports().into_iter().filter(|row| row.sandbox == container_id).collect();
        for row in &rows {
            self.check_row(row).await?;
        }
        Ok(())
    }

    async fn check_row(&self, row: &PodPortRow) -> Result<(), Failure> {
        let broken = |what: String| Failure {
            code: code::FAILED,
            msg: format!(
                "interface {} (network {}) of pod {}/{}: {what}",
                row.interface, row.nad, row.pod_namespace, row.pod_name
            ),
            details: String::new(),
        };
        if let Some(error) = &row.error {
            return Err(broken(format!("Open vSwitch cannot use port {}: {error}", row.name)));
        }
        if row.ofport.is_none() {
            return Err(broken(format!("port {} is not open in Open vSwitch", row.name)));
        }
        let trouble = |error: &dyn std::error::Error| Failure {
            code: code::TRY_AGAIN,
            msg: words::chain(error),
            details: String::new(),
        };
        let namespace = NetnsFd::open(row.netns.as_ref()).map_err(|error| trouble(&error))?;
        let Some(mac) = row.mac else { return Ok(()) };
        let there = pod_link_exists(&self.deps.netns, &namespace, &row.interface, mac.octets())
            .await
            .map_err(|error| trouble(&error))?;
        if there {
            Ok(())
        } else {
            Err(broken(format!("it is gone from the pod, or its MAC address is not {mac}")))
        }
    }
}
