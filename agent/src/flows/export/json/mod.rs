//! Raw records as JSON lines, to a file that is rotated or to standard output.
//!
//! Owns the file. What cannot be written is dropped and counted; the next batch is tried all the same, since a full
//! disk may be emptied. Writing blocks a thread made for that, never the runtime's workers.

mod line;
mod rotate;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::queue::{Counts, Sink};
use super::{ExportError, JsonConfig};
use crate::flows::record::Record;
use line::Line;
use rotate::Rotating;

/// Failing writes are warned about at most this often.
const WARN: Duration = Duration::from_secs(60);

/// A file or standard output.
#[derive(Debug)]
pub(super) struct Lines {
    node: String,
    /// `None` only while a write is under way on another thread.
    output: Option<Output>,
    counts: Arc<Counts>,
    warned: Option<Instant>,
}

#[derive(Debug)]
enum Output {
    Stdout,
    File(Rotating),
}

impl Output {
    fn open(config: &JsonConfig) -> Result<Self, ExportError> {
        let JsonConfig { path, max_bytes, keep, only: _ } = config;
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = Rotating::open(path, *max_bytes, *keep);
        file.map(Self::File).map_err(|source| ExportError::Open { path: path.clone(), source })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File(file) => file.write(lines),
        }
    }
}

impl Lines {
    pub(super) fn open(config: &JsonConfig, node: &str, counts: Arc<Counts>) -> Result<Self, ExportError> {
        Ok(Self { node: node.to_owned(), output: Some(Output::open(config)?), counts, warned: None })
    }

    async fn put(&mut self, lines: Vec<u8>) -> io::Result<()> {
        let Some(mut output) = self.output.take() else {
            return Err(io::Error::other("an earlier write never ended"));
        };
        let written = tokio::task::spawn_blocking(move || (output.write(&lines), output)).await;
        let (written, output) = written.map_err(io::Error::other)?;
        self.output = Some(output);
        written
    }
}

impl Sink for Lines {
    async fn write(&mut self, batch: &[Arc<Record>]) {
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for record in batch {
            // Serializing cannot fail: no key is anything but a string, and a Vec takes all.
            if serde_json::to_writer(&mut lines, &Line::of(record, &self.node)).is_ok() {
                lines.push(b'\n');
            }
        }
        match self.put(lines).await {
            Ok(()) => self.counts.sent(batch.len()),
            Err(error) => {
                self.counts.error();
                self.counts.dropped(batch.len());
                if self.warned.is_none_or(|last| last.elapsed() >= WARN) {
                    self.warned = Some(Instant::now());
                    warn!(%error, "cannot write flow records; they are dropped and counted");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use trunkline_ebpf::{Conversation, Direction, FlowKey, Slot, Tag};

    use super::super::samples::{answered, icmp, record, tcp, unanswered, uplink};
    use super::super::{ExportConfig, Exporters};
    use super::*;
    use crate::flows::record::FlowRecord;

    fn line(record: impl Into<Record>) -> Value {
        serde_json::to_value(Line::of(&record.into(), "node-1")).unwrap()
    }

    #[test]
    fn a_line_says_everything() {
        let expected = json!({
            "schema": 1, "node": "node-1",
            "start": "2026-09-21T14:13:20.25Z", "end": "2026-09-21T14:13:25.5Z", "reason": "active",
            "direction": "sent", "device": "tl0a1b2c3d", "ifindex": 17, "interface": "eth1",
            "pod": {"namespace": "shop", "name": "cart-0", "uid": "uid-1", "interface": "eth1"},
            "peer": {"namespace": "shop", "name": "db-0", "uid": "uid-2", "interface": "eth2"},
            "network": "shop/vlan100", "vlan": 100, "bridge": "br-phys",
            "srcMac": "02:00:00:00:00:01", "dstMac": "02:00:00:00:00:02",
            "kind": "ip", "src": "192.0.2.1", "dst": "192.0.2.2", "protocol": 6, "srcPort": 40000, "dstPort": 443,
            "estimated": false, "oneIn": 1,
            "packets": 5000, "bytes": 6_400_000, "skbs": 120, "skbBytes": 6_100_000,
            "tcpFlags": 27, "tos": 184, "rttNanoseconds": 81_250,
        });
        assert_eq!(line(tcp()), expected);
    }

    #[test]
    fn a_question_is_a_line_of_its_own_type() {
        let expected = json!({
            "schema": 1, "type": "dns", "node": "node-1", "at": "2026-09-21T14:13:20.25Z",
            "direction": "sent", "device": "tl0a1b2c3d", "ifindex": 17, "interface": "eth1",
            "pod": {"namespace": "shop", "name": "cart-0", "uid": "uid-1", "interface": "eth1"},
            "peer": {"namespace": "shop", "name": "db-0", "uid": "uid-2", "interface": "eth2"},
            "network": "shop/vlan100", "vlan": 100, "bridge": "br-phys",
            "kind": "ip", "src": "192.0.2.1", "dst": "192.0.2.53", "protocol": 17, "srcPort": 40000, "dstPort": 53,
            "id": 4711, "asked": 2, "answered": true, "code": "NXDOMAIN", "latencyNanoseconds": 1_234_567,
        });
        assert_eq!(line(answered()), expected);
        let mut silent = expected;
        let fields = silent.as_object_mut().unwrap();
        fields.retain(|key, _| !["code", "latencyNanoseconds"].contains(&key.as_str()));
        fields.extend([("asked".to_owned(), json!(3)), ("answered".to_owned(), json!(false))]);
        assert_eq!(line(unanswered()), silent);
    }

    #[test]
    fn an_estimate_says_so() {
        let line = line(FlowRecord { one_in: 10, ..tcp() });
        assert_eq!((&line["estimated"], &line["oneIn"]), (&json!(true), &json!(10)));
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let uplink = line(uplink());
        for key in ["pod", "peer", "network", "vlan", "wireTags", "rttNanoseconds", "marks"] {
            assert!(uplink.get(key).is_none(), "{key}");
        }
    }

    #[test]
    fn kinds_tags_and_marks_have_their_words() {
        let echo = line(icmp(false));
        assert_eq!(
            (&echo["kind"], &echo["icmpType"], &echo["protocol"]),
            (&json!("icmp"), &json!(128), &json!(58))
        );
        let lldp = Conversation::Ethernet { src: [2; 6], dst: [3; 6], ethertype: 0x88cc };
        let mut other = record(lldp);
        let tags = [Some(Tag { vid: 7, service: true }), Some(Tag { vid: 9, service: false })];
        other.key = FlowKey::new(Slot(1), Direction::Received, tags, lldp).marked(false, true, true);
        other.gap = true;
        let other = line(other);
        assert_eq!((&other["kind"], &other["ethertype"]), (&json!("ethernet"), &json!(0x88cc)));
        assert_eq!(
            other["wireTags"],
            json!([{"vid": 7, "protocol": "802.1ad"}, {"vid": 9, "protocol": "802.1Q"}])
        );
        assert_eq!(other["marks"], json!(["truncated", "more-tags", "gap"]));
    }

    #[tokio::test]
    async fn what_is_offered_is_in_the_file_when_exporters_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.jsonl");
        let config: ExportConfig = serde_json::from_value(json!({"json": {"path": path}})).unwrap();
        let exporters = Exporters::start(&config, 7, "node-1").unwrap();
        let records: Vec<_> = std::iter::repeat_n(Arc::new(tcp().into()), 3000).collect();
        exporters.offer(&records);
        exporters.stop(Duration::from_secs(20)).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let bytes: u64 = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["bytes"].as_u64().unwrap())
            .sum();
        assert_eq!((text.lines().count(), bytes), (3000, 3000 * 6_400_000));
        assert_eq!(exporters.counts()[0].sent, 3000);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_is_an_error_at_start() {
        let config: ExportConfig =
            serde_json::from_value(json!({"json": {"path": "/proc/no/such/file"}})).unwrap();
        let error = Exporters::start(&config, 7, "node-1").unwrap_err();
        assert_eq!(error.to_string(), "cannot open /proc/no/such/file for flow records");
    }
}
