//! Records leave the node, of flows and of questions to name servers: to IPFIX and OpenTelemetry collectors, and as JSON lines.
//!
//! ```text
//!  flow table ─ offer ─┬► only ─► queue ─► task: encoder ─► UDP or TCP        (one per IPFIX collector)
//!    never waits       ├► only ─► queue ─► task: messages ─► gRPC              (one per OTLP collector)
//!                      └► only ─► queue ─► task: JSON     ─► file or stdout
//! ```
//!
//! One task owns one exporter: its queue's end, its socket or file. Exporters know nothing of each other; one that is
//! behind costs its own records and a counter. Must never wait in [`Exporters::offer`], nor decide what a record says.

mod ipfix;
mod json;
mod only;
mod otlp;
mod queue;
#[cfg(test)]
mod samples;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info_span};

pub use queue::QUEUE_RECORDS;
pub use trunkline_api::export::{
    EXAMPLE_ENTERPRISE, ExportConfig, HostPort, InvalidExport, IpfixConfig, JsonConfig, MessageBytes, Only,
    OtlpConfig, Protocol, RecordKind, TemplateRefresh,
};

use crate::flows::record::Record;
use queue::{Intake, Sink};

/// Takes records without ever blocking: when an exporter is behind, records are dropped and counted.
///
/// The tasks end when the last clone is dropped; [`Exporters::stop`] lets them send what waits.
#[derive(Clone, Debug)]
pub struct Exporters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    exporters: Vec<Exporter>,
    /// Aborts what still runs when dropped.
    tasks: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Exporter {
    kind: ExporterKind,
    target: String,
    intake: Intake,
}

/// What an exporter speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExporterKind {
    /// IPFIX over UDP.
    IpfixUdp,
    /// IPFIX over TCP.
    IpfixTcp,
    /// OpenTelemetry's protocol, by gRPC.
    Otlp,
    /// JSON lines.
    Json,
}

impl ExporterKind {
    /// A word for labels and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::IpfixUdp => "ipfix-udp",
            Self::IpfixTcp => "ipfix-tcp",
            Self::Otlp => "otlp",
            Self::Json => "json",
        }
    }
}

/// What became of the records that one exporter was offered: `sent`, `dropped`, `skipped` or still `waiting`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExporterCounts {
    /// What it speaks.
    pub kind: ExporterKind,
    /// Where to: a collector or a file.
    pub target: String,
    /// Records handed over to the kernel, acknowledged by an OTLP collector, or written to the file. Over UDP nobody
    /// says what arrived.
    pub sent: u64,
    /// Records that went nowhere: the queue was full, sending failed, or a collector rejected them.
    pub dropped: u64,
    /// Failed sends, writes, connections and resolutions.
    pub errors: u64,
    /// Records that its `only` does not admit.
    pub skipped: u64,
    /// Records in the queue now, of [`QUEUE_RECORDS`].
    pub waiting: usize,
}

/// Why exporters did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file for JSON lines cannot be opened.
    #[error("cannot open {} for flow records", path.display())]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Exporters {
    /// Starts a task per exporter, in the current runtime. An unreachable collector is no error: it may come.
    ///
    /// `observation_domain` tells this node's records from another's at one collector; `node` is the node's name.
    pub fn start(config: &ExportConfig, observation_domain: u32, node: &str) -> Result<Self, ExportError> {
        let ExportConfig { ipfix, otlp, json } = config;
        let mut starter =
            Starter { exporters: Vec::new(), tasks: JoinSet::new(), stop: CancellationToken::new() };
        for collector in ipfix {
            let kind = match collector.protocol {
                Protocol::Udp => ExporterKind::IpfixUdp,
                Protocol::Tcp => ExporterKind::IpfixTcp,
            };
            // A collector of flows takes any record for one: questions are for those that ask for them.
            let only = collector.only.clone().unwrap_or_default().or_records(RecordKind::Flow);
            starter.add(kind, collector.collector.to_string(), Some(&only), |intake| {
                Ok(ipfix::Collector::new(collector, observation_domain, node, Arc::clone(&intake.counts)))
            })?;
        }
        for collector in otlp {
            let target = collector.endpoint().to_string();
            starter.add(ExporterKind::Otlp, target, collector.only(), |intake| {
                Ok(otlp::Collector::new(collector, node, Arc::clone(&intake.counts)))
            })?;
        }
        if let Some(json) = json {
            let target = json.path.display().to_string();
            starter.add(ExporterKind::Json, target, json.only.as_ref(), |intake| {
                json::Lines::open(json, node, Arc::clone(&intake.counts))
            })?;
        }
        let Starter { exporters, tasks, stop } = starter;
        Ok(Self(Arc::new(Inner { exporters, tasks: Mutex::new(tasks), stop })))
    }

    /// Hands records to every exporter that wants them. Never waits: what an exporter has no room for is dropped and
    /// counted.
    pub fn offer(&self, records: &[Arc<Record>]) {
        for exporter in &self.0.exporters {
            exporter.intake.offer(records);
        }
    }

    /// What became of the records so far, for each exporter in the configuration's order.
    pub fn counts(&self) -> Vec<ExporterCounts> {
        let of = |exporter: &Exporter| {
            let [sent, dropped, errors, skipped] = exporter.intake.counts.get();
            let waiting = exporter.intake.waiting();
            ExporterCounts {
                kind: exporter.kind,
                target: exporter.target.clone(),
                sent,
                dropped,
                errors,
                skipped,
                waiting,
            }
        };
        self.0.exporters.iter().map(of).collect()
    }

    /// Takes no more records, sends what waits for at most `limit`, and ends the tasks.
    pub async fn stop(&self, limit: Duration) {
        self.0.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(seconds = limit.as_secs(), "flow records were left unsent when time was up");
        }
    }
}

/// Exporters on their way up.
struct Starter {
    exporters: Vec<Exporter>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Starter {
    fn add<S: Sink + 'static>(
        &mut self,
        kind: ExporterKind,
        target: String,
        only: Option<&Only>,
        sink: impl FnOnce(&Intake) -> Result<S, ExportError>,
    ) -> Result<(), ExportError> {
        let (intake, queue) = queue::new(only.cloned());
        let span = info_span!("export", kind = kind.name(), target = %target);
        let sink = span.in_scope(|| sink(&intake))?;
        self.tasks.spawn(queue::drain(queue, self.stop.clone(), sink).instrument(span));
        self.exporters.push(Exporter { kind, target, intake });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use samples::{answered, icmp, tcp, unanswered, uplink};

    #[tokio::test]
    async fn every_exporter_has_filters_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.jsonl");
        let silent = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let config = json!({
            "ipfix": [{"collector": format!("127.0.0.1:{port}"), "only": {"protocols": ["tcp"]}}],
            "otlp": [{"endpoint": format!("http://127.0.0.1:{port}"), "only": {"addresses": ["198.51.100.1"]}}],
            "json": {"path": path, "only": {"networks": ["shop/vlan100"]}},
        });
        let config: ExportConfig = serde_json::from_value(config).unwrap();
        let exporters = Exporters::start(&config, 7, "node-1").unwrap();
        exporters.offer(&[tcp(), icmp(true), uplink()].map(|flow| Arc::new(flow.into())));
        exporters.stop(Duration::from_secs(20)).await;
        let counts = exporters.counts();
        let counted = counts.iter().map(|counts| (counts.kind, counts.sent, counts.skipped, counts.dropped));
        let expected =
            [(ExporterKind::IpfixUdp, 1, 2, 0), (ExporterKind::Otlp, 0, 3, 0), (ExporterKind::Json, 2, 1, 0)];
        assert_eq!(counted.collect::<Vec<_>>(), expected);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
    }

    #[tokio::test]
    async fn flows_and_questions_share_a_queue_and_its_filters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.jsonl");
        let silent = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let collector = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
        let config = json!({
            "ipfix": [
                {"collector": collector, "only": {"ports": [53, 443]}},
                {"collector": collector, "only": {"records": ["dns"]}},
            ],
            "json": {"path": path, "only": {"ports": [53]}},
        });
        let config: ExportConfig = serde_json::from_value(config).unwrap();
        let exporters = Exporters::start(&config, 7, "node-1").unwrap();
        exporters.offer(&[
            Arc::new(answered().into()),
            Arc::new(tcp().into()),
            Arc::new(unanswered().into()),
        ]);
        exporters.stop(Duration::from_secs(20)).await;
        let counts = exporters.counts();
        let counted = counts.iter().map(|counts| (counts.sent, counts.skipped, counts.dropped));
        assert_eq!(counted.collect::<Vec<_>>(), [(1, 2, 0), (2, 1, 0), (2, 1, 0)]);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().all(|line| line.contains("\"type\":\"dns\"")), "{text}");
    }
}
