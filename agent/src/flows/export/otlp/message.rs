//! Requests: who sends, and each record as a log record.
//!
//! Pure; the time is the caller's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use trunkline_ebpf::Conversation;

use super::attributes::{self, CONVENTIONS, nanoseconds, pair};
use crate::flows::record::{FlowRecord, Record, code_name};

/// The scope that every log record comes from.
const SCOPE: &str = "trunkline.flow";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who sends: the agent of a node. `host` is the machine's own name.
pub(super) fn resource(node: &str, host: Option<&str>) -> Resource {
    let known = [
        ("service.name", Some("trunkline-agent")),
        ("service.version", Some(VERSION)),
        ("k8s.node.name", Some(node)),
        ("host.name", host),
    ];
    let text = |(name, text): (&str, Option<&str>)| Some(pair(name, Value::StringValue(text?.to_owned())));
    Resource { attributes: known.into_iter().filter_map(text).collect(), ..Resource::default() }
}

/// One request with all of these.
pub(super) fn request(
    resource: &Resource,
    records: &[Arc<Record>],
    now: SystemTime,
) -> ExportLogsServiceRequest {
    let scope =
        InstrumentationScope { name: SCOPE.to_owned(), version: VERSION.to_owned(), ..Default::default() };
    let logs = ScopeLogs {
        scope: Some(scope),
        log_records: records.iter().map(|record| log(record, now)).collect(),
        schema_url: CONVENTIONS.to_owned(),
    };
    let of_node = ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs: vec![logs],
        schema_url: CONVENTIONS.to_owned(),
    };
    ExportLogsServiceRequest { resource_logs: vec![of_node] }
}

fn log(record: &Record, now: SystemTime) -> LogRecord {
    let (event, time) = match record {
        Record::Flow(flow) => ("trunkline.flow", flow.end),
        Record::Dns(query) => ("trunkline.dns", query.at),
    };
    LogRecord {
        time_unix_nano: nanoseconds(time),
        observed_time_unix_nano: nanoseconds(now),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(sentence(record))) }),
        attributes: attributes::of(record),
        event_name: event.to_owned(),
        ..LogRecord::default()
    }
}

/// What a person reads who lists logs: `shop/cart-0 eth1 transmit 192.0.2.1:40000 > 192.0.2.2:443, 5000 packets`.
pub(super) fn sentence(record: &Record) -> String {
    let mut text = String::with_capacity(128);
    if let Some(pod) = &record.tap().pod {
        // A String takes all that is written to it; here and below.
        let _ = write!(text, "{}/{} ", pod.namespace, pod.name);
    }
    let _ = write!(text, "{} {} ", record.tap().interface, attributes::direction(record));
    let _ = match record.key().conversation() {
        Conversation::Ip { src, dst, src_port: 0, dst_port: 0, protocol } => {
            write!(text, "{src} > {dst} protocol {protocol}")
        }
        Conversation::Ip { src, dst, src_port, dst_port, .. } => {
            let ends = [(src, src_port), (dst, dst_port)].map(std::net::SocketAddr::from);
            write!(text, "{} > {}", ends[0], ends[1])
        }
        Conversation::Icmp { src, dst, kind, code } => write!(text, "{src} > {dst} ICMP {kind}/{code}"),
        Conversation::Arp { sender, target, operation } => {
            write!(text, "{sender} > {target} ARP {operation}")
        }
        Conversation::Ethernet { ethertype, .. } => write!(text, "ethertype {ethertype:#06x}"),
    };
    let _ = match record {
        Record::Flow(FlowRecord { totals, one_in, .. }) => {
            let about = if *one_in > 1 { "about " } else { "" };
            write!(text, ", {about}{} packets, {about}{} bytes", totals.packets, totals.bytes)
        }
        Record::Dns(query) => match query.answer {
            Some(answer) => {
                let micros = answer.latency.as_micros();
                write!(text, ", DNS {}: {} after {micros} µs", query.id, code_name(answer.code))
            }
            None => write!(text, ", DNS {}: no answer", query.id),
        },
    };
    text
}
