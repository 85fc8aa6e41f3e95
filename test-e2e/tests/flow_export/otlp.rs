//! Flow records as logs of a real OpenTelemetry Collector: sums, attributes, and what a collector that stands still or
//! dies costs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::*;

const OTELCOL: u16 = 4317;

/// Starts a Collector that prints all that it gets.
fn collector(bench: &Bench) -> Result<Process> {
    let config = bench.run.data("otelcol")?.join("otelcol.yaml");
    let text = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"127.0.0.1:{OTELCOL}\"}}}}}}}}\n\
         exporters: {{debug: {{verbosity: detailed, use_internal_logger: false}}}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}}}\n  \
         pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}\n"
    );
    fs::write(&config, text)?;
    let mut command = bench.netns.command(tools::path(Tool::Otelcol)?);
    command.arg("--config").arg(&config);
    bench.collector("otelcol", command, OTELCOL)
}

fn otlp(keys: &Value) -> Value {
    let mut collector = json!({"endpoint": format!("http://127.0.0.1:{OTELCOL}")});
    for (key, value) in keys.as_object().into_iter().flatten() {
        collector[key] = value.clone();
    }
    json!({"otlp": [collector]})
}

/// A log record or a resource as the debug exporter prints it: its heading, and what it has, with types.
type Printed = BTreeMap<String, String>;

/// All that collectors of a run have printed.
fn printed(collector: &Process) -> Result<Vec<Printed>> {
    let text = fs::read_to_string(collector.log())?;
    let mut all: Vec<Printed> = Vec::new();
    for line in text.lines() {
        if line.starts_with("LogRecord #") || line.starts_with("ResourceLog #") {
            all.push(Printed::from([("heading".to_owned(), line.to_owned())]));
        }
        let pair = line.trim_start().trim_start_matches("-> ").split_once(": ");
        if let (Some((key, value)), Some(last)) = (pair, all.last_mut()) {
            last.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(all)
}

fn is_log(printed: &Printed) -> bool {
    printed.get("heading").is_some_and(|heading| heading.starts_with("LogRecord"))
}

fn is_event(printed: &Printed, name: &str) -> bool {
    is_log(printed) && printed.get("EventName").is_some_and(|event| event == name)
}

fn number(record: &Printed, key: &str) -> Result<u64> {
    let value = record.get(key).and_then(|value| value.strip_prefix("Int(")?.strip_suffix(')'));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("{key} in {record:?}"))
}

#[test]
fn an_opentelemetry_collector_sums_up_what_was_sent() -> Result<()> {
    test("flows-otelcol", |bench| {
        let otelcol = collector(bench)?;
        bench.export(&otlp(&json!({})), all_kinds())?;
        let logs = wait::until_blocking("the Collector has what was sent", SOON, || {
            let logs = printed(&otelcol)?.into_iter().filter(|log| is_event(log, "trunkline.flow"));
            let logs: Vec<Printed> = logs.collect();
            let mut got = (0, 0);
            for log in &logs {
                got.0 += number(log, "trunkline.flow.packets")?;
                got.1 += number(log, "trunkline.flow.bytes")?;
            }
            ensure!(got == sums(), "it has {got:?} in {} records, sent were {:?}", logs.len(), sums());
            eprintln!("otelcol: {} records, {} packets, {} bytes", logs.len(), got.0, got.1);
            Ok(Some(logs))
        })?;
        ensure!(logs.len() == RECORDS as usize, "{} records", logs.len());
        for number in 0..RECORDS {
            let name = format!("Str(cart-{number})");
            let log = logs.iter().find(|log| log.get("k8s.pod.name") == Some(&name)).context(name)?;
            check(log, number)?;
        }
        let questions = wait::until_blocking("the Collector has the questions", SOON, || {
            let questions = printed(&otelcol)?.into_iter().filter(|log| is_event(log, "trunkline.dns"));
            let questions: Vec<Printed> = questions.collect();
            Ok((questions.len() == QUESTIONS as usize).then_some(questions))
        })?;
        let unanswered = |log: &&Printed| log.get("trunkline.dns.unanswered").is_some();
        ensure!(questions.iter().filter(unanswered).count() == QUESTIONS as usize / 4, "{questions:?}");
        let answered = questions.iter().filter(|log| !unanswered(log));
        for log in answered {
            ensure!(number(log, "trunkline.dns.latency_nano")? == 700_000, "{log:?}");
        }
        let all = printed(&otelcol)?;
        let resource = all.iter().find(|record| !is_log(record)).context("no resource")?;
        let node = [resource.get("service.name"), resource.get("k8s.node.name")];
        ensure!(
            node.map(|value| value.map(String::as_str))
                == [Some("Str(trunkline-agent)"), Some("Str(node-1)")]
        );
        Ok(())
    })
}

/// A log record against the flow record that it was made of.
fn check(log: &Printed, number: u32) -> Result<()> {
    let record = record(number);
    let vlan = u16::from(record.tap.vlan.context("a VLAN")?);
    let (v4, sent) = (number % 4 < 2, number.is_multiple_of(2));
    let source = if v4 { "192.0.2.1" } else { "2001:db8::1" };
    let port = match record.key.conversation() {
        Conversation::Ip { src_port, .. } => Some(format!("Int({src_port})")),
        _ => None,
    };
    let text = |text: &str| Some(format!("Str({text})"));
    for (key, value) in [
        ("EventName", Some("trunkline.flow".to_owned())),
        ("SeverityText", Some("INFO".to_owned())),
        ("trunkline.flow.schema", Some("Int(1)".to_owned())),
        ("trunkline.flow.bytes", Some(format!("Int({})", record.totals.bytes))),
        ("trunkline.flow.end_reason", text("active")),
        ("source.address", text(source)),
        ("source.port", port.clone()),
        ("network.transport", port.and_then(|_| text("tcp"))),
        ("network.type", text(if v4 { "ipv4" } else { "ipv6" })),
        ("network.io.direction", text(if sent { "transmit" } else { "receive" })),
        ("network.interface.name", text(&record.tap.device)),
        ("k8s.namespace.name", text("shop")),
        ("trunkline.interface.name", text("eth1")),
        ("trunkline.network.name", text(&format!("shop/vlan{vlan}"))),
        ("trunkline.network.vlan", Some(format!("Int({vlan})"))),
        ("trunkline.ip.dscp", Some("Int(46)".to_owned())),
        ("trunkline.wire.outer_vlan", number.is_multiple_of(7).then(|| "Int(200)".to_owned())),
        ("trunkline.tcp.handshake_rtt_nano", record.rtt.map(|rtt| format!("Int({})", rtt.as_nanos()))),
    ] {
        ensure!(log.get(key) == value.as_ref(), "{key} of {number} is {:?}, not {value:?}", log.get(key));
    }
    Ok(())
}

/// Exporters that go on, in the namespace; their runtime's threads are in it.
fn exporters(bench: &Bench) -> Result<(Runtime, Exporters)> {
    let config: ExportConfig = serde_json::from_value(otlp(&json!({"timeoutSeconds": 1})))?;
    bench.netns.enter(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let exporters = runtime.block_on(async { Exporters::start(&config, 7, "node-1") })?;
        anyhow::Ok((runtime, exporters))
    })?
}

fn settled(
    exporters: &Exporters,
    what: &str,
    so: impl Fn(&ExporterCounts) -> bool,
) -> Result<ExporterCounts> {
    wait::until_blocking(what, SOON, || {
        let counts = exporters.counts().remove(0);
        Ok(so(&counts).then_some(counts))
    })
}

/// Stops every thread of a process, and returns once they are.
fn stand_still(process: &Process) -> Result<()> {
    process.signal(Signal::SIGSTOP);
    wait::until_blocking("every thread stands still", SOON, || {
        for thread in fs::read_dir(format!("/proc/{}/task", process.id().pid))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which is in parentheses (proc(5)).
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state != Some('T') {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

#[test]
fn a_collector_that_stands_still_or_dies_costs_records_and_none_arrives_twice() -> Result<()> {
    test("flows-otelcol-outages", |bench| {
        let otelcol = collector(bench)?;
        let (_runtime, exporters) = exporters(bench)?;
        let records = records();
        let mut hundreds = records.chunks(100);
        let mut offer = || -> Result<()> {
            let begin = Instant::now();
            exporters.offer(hundreds.next().context("all were offered")?);
            ensure!(begin.elapsed() < Duration::from_millis(500), "offering waits");
            Ok(())
        };
        offer()?;
        settled(&exporters, "the first are acknowledged", |counts| counts.sent == 100)?;

        stand_still(&otelcol)?;
        offer()?;
        let counts = settled(&exporters, "no answer is an error", |counts| counts.dropped == 100)?;
        ensure!(counts.sent == 100 && counts.errors > 0, "{counts:?}");
        otelcol.signal(Signal::SIGCONT);
        offer()?;
        settled(&exporters, "it is found again", |counts| counts.sent == 200)?;

        otelcol.kill();
        offer()?;
        settled(&exporters, "a dead collector is an error", |now| now.errors > counts.errors)?;
        let otelcol = collector(bench)?;
        offer()?;
        let done = |counts: &ExporterCounts| counts.sent + counts.dropped == 500;
        let counts = settled(&exporters, "what waited is acknowledged", done)?;
        ensure!(counts.sent >= 300, "{counts:?}");

        // A request that nobody waited for may have been taken all the same.
        let names = wait::until_blocking("all that was acknowledged is printed", SOON, || {
            let printed = printed(&otelcol)?;
            let mut logs: Vec<String> = printed
                .iter()
                .filter(|record| is_log(record))
                .filter_map(|log| log.get("k8s.pod.name").cloned())
                .collect();
            ensure!(logs.len() as u64 >= counts.sent, "{} records, {counts:?}", logs.len());
            logs.sort();
            Ok(Some(logs))
        })?;
        let different: BTreeSet<&String> = names.iter().collect();
        ensure!(different.len() == names.len(), "{} records of {} flows", names.len(), different.len());
        eprintln!("otelcol: {} of 500 records arrived, {} acknowledged", names.len(), counts.sent);
        Ok(())
    })
}
