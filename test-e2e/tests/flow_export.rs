//! Flow records at real collectors: what they sum up is what was sent, and a dissector finds nothing malformed.
//!
//! nfdump, pmacct, goflow2, tshark and the OpenTelemetry Collector in a network namespace of their own; the exporters run in it too.

#[path = "flow_export/otlp.rs"]
mod otlp;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use trunkline_agent::flows::export::{ExportConfig, ExporterCounts, Exporters};
use trunkline_agent::flows::record::{DnsRecord, EndReason, Endpoint, FlowRecord, Record, TapIdentity};
use trunkline_e2e::debs::{self, Tree};
use trunkline_e2e::netns::Netns;
use trunkline_e2e::process::{self, Process};
use trunkline_e2e::run::{self, Run};
use trunkline_e2e::tools::{self, Tool};
use trunkline_e2e::{suite, wait};
use trunkline_ebpf::{Conversation, Direction, DnsAnswer, FlowKey, Slot, Tag, Totals};

const RECORDS: u32 = 600;
/// Questions to name servers among them: they have neither packets nor bytes.
const QUESTIONS: u32 = 40;
const NFCAPD: u16 = 9995;
const NFACCTD: u16 = 9996;
const GOFLOW2: u16 = 9997;
/// The port that dissectors know IPFIX by.
const TSHARK: u16 = 4739;
const SOON: Duration = Duration::from_secs(60);

/// Records that are sent without a look at whether they were read.
const AT_ONCE: usize = 60;

/// Whose turn it is.
static TURN: Mutex<()> = Mutex::new(());

/// A namespace with collectors in it.
struct Bench {
    run: Arc<Run>,
    netns: Netns,
    tree: Tree,
}

impl Bench {
    fn start(purpose: &str) -> Result<Self> {
        let run = Run::start(purpose)?;
        let netns = Netns::create(&run, "flows")?;
        Ok(Self { netns, tree: debs::collectors()?, run })
    }

    /// Starts a collector and waits until it listens.
    fn collector(&self, name: &str, command: Command, port: u16) -> Result<Process> {
        let collector = Process::spawn(&self.run, name, command)?;
        wait::until_blocking(&format!("{name} listens"), SOON, || {
            collector.check()?;
            let files = self.netns.enter(|| {
                ["udp", "udp6", "tcp"].map(|of| fs::read_to_string(format!("/proc/thread-self/net/{of}")))
            })?;
            let port = format!(":{port:04X} ");
            Ok(files.into_iter().flatten().any(|text| text.contains(&port)).then_some(()))
        })?;
        Ok(collector)
    }

    /// Sends the records in the namespace, to the end.
    fn send(&self, ipfix: &Value, records: Vec<Arc<Record>>) -> Result<Vec<ExporterCounts>> {
        self.export(&json!({ "ipfix": ipfix }), records)
    }

    /// The same by any exporters.
    fn export(&self, config: &Value, records: Vec<Arc<Record>>) -> Result<Vec<ExporterCounts>> {
        let config = ExportConfig::deserialize(config)?;
        let offered = records.len() as u64;
        let sent = self.netns.enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let exporters = Exporters::start(&config, 7, "node-1")?;
                // A collector binds its socket before it reads from it: no more goes there than the socket holds, and
                // the templates, which go first, have been read when the rest comes.
                for part in records.chunks(AT_ONCE) {
                    exporters.offer(part);
                    wait::until("everything was read", SOON, || async {
                        let sent = exporters.counts().iter().all(|counts| counts.waiting == 0);
                        Ok((sent && all_read()?).then_some(()))
                    })
                    .await?;
                }
                exporters.stop(SOON).await;
                anyhow::Ok(exporters.counts())
            })
        })??;
        let whole =
            |counts: &ExporterCounts| counts.sent == offered && (counts.dropped, counts.errors) == (0, 0);
        ensure!(sent.iter().all(whole), "not all was sent: {sent:?}");
        Ok(sent)
    }
}

/// Whether no UDP socket of this namespace holds anything that its program has not read (`/proc/net/udp`).
fn all_read() -> Result<bool> {
    for of in ["udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{of}"))?;
        let queues = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)?.split_once(':'));
        for (_, received) in queues {
            if u64::from_str_radix(received, 16)? > 0 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Both directions, both versions of IP, TCP and ICMP, three networks, some with a tag on the wire, some with a round
/// trip; bytes beyond 32 bits.
fn records() -> Vec<Arc<Record>> {
    (0..RECORDS).map(|number| Arc::new(record(number).into())).collect()
}

/// The same, with questions among them.
fn all_kinds() -> Vec<Arc<Record>> {
    let mut records = records();
    for number in 0..QUESTIONS {
        records.insert(number as usize * 15, Arc::new(question(number).into()));
    }
    records
}

/// A question over either version of IP; every fourth got no answer.
fn question(number: u32) -> DnsRecord {
    let FlowRecord { tap, peer, end, .. } = record(number);
    let (src, dst) = ends(number);
    let conversation = Conversation::Ip { src, dst, protocol: 17, src_port: 50_000, dst_port: 53 };
    let code = u8::try_from(number % 6).unwrap_or_default();
    let answer = DnsAnswer { code, latency: Duration::from_micros(700) };
    DnsRecord {
        tap,
        peer,
        key: FlowKey::new(Slot(0), Direction::Sent, [None, None], conversation),
        at: end,
        id: u16::try_from(number).unwrap_or_default(),
        asked: 1,
        answer: (!number.is_multiple_of(4)).then_some(answer),
    }
}

fn record(number: u32) -> FlowRecord {
    let (sent, vlan) = (number.is_multiple_of(2), 100 * (1 + number % 3));
    let endpoint = Endpoint {
        namespace: "shop".to_owned(),
        name: format!("cart-{number}"),
        uid: "0a1b2c3d-0000-4000-8000-000000000000".to_owned(),
        interface: "eth1".to_owned(),
    };
    let end = SystemTime::now();
    let tap = TapIdentity {
        device: format!("tl{vlan}"),
        ifindex: 1000 + vlan,
        interface: "eth1".to_owned(),
        netns: None,
        pod: Some(endpoint),
        network: Some(format!("shop/vlan{vlan}")),
        vlan: u16::try_from(vlan).ok().and_then(|vlan| vlan.try_into().ok()),
        bridge: Some("br-phys".to_owned()),
        since: end,
    };
    let tag = number.is_multiple_of(7).then_some(Tag { vid: 200, service: false });
    let direction = if sent { Direction::Sent } else { Direction::Received };
    let many = u64::from(number);
    FlowRecord {
        tap: Arc::new(tap),
        peer: None,
        key: FlowKey::new(Slot(0), direction, [tag, None], conversation(number)),
        totals: Totals {
            skbs: 10 + many,
            skb_bytes: 1000 + many,
            packets: 100 + many,
            bytes: 6_000_000_000 + many,
        },
        one_in: 1,
        start: end - Duration::from_secs(20),
        end,
        tcp_flags: 0x1b,
        tos: 0xb8,
        rtt: number.is_multiple_of(5).then_some(Duration::from_micros(81)),
        fragmented: false,
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        gap: false,
        reason: EndReason::Active,
    }
}

fn ends(number: u32) -> (IpAddr, IpAddr) {
    let address = |host: u8| -> IpAddr {
        if number % 4 < 2 {
            Ipv4Addr::new(192, 0, 2, host).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into()
        }
    };
    (address(1), address(2))
}

fn conversation(number: u32) -> Conversation {
    let (src, dst) = ends(number);
    if number % 10 == 8 {
        return Conversation::Icmp { src, dst, kind: if src.is_ipv4() { 8 } else { 128 }, code: 0 };
    }
    let src_port = u16::try_from(40_000 + number).unwrap_or(u16::MAX);
    Conversation::Ip { src, dst, protocol: 6, src_port, dst_port: 443 }
}

/// Packets and bytes of all records.
fn sums() -> (u64, u64) {
    let add = |(packets, bytes), totals: Totals| (packets + totals.packets, bytes + totals.bytes);
    (0..RECORDS).map(|number| record(number).totals).fold((0, 0), add)
}

fn test(purpose: &str, body: impl FnOnce(&Bench) -> Result<()>) -> Result<()> {
    if let Err(error) = run::require_root("this test") {
        return suite::skip(&error);
    }
    // One collector at a time: side by side, and on a small machine, they start slowly.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::start(purpose)?;
    let done = body(&bench);
    done.with_context(|| format!("logs are in {}", bench.run.out().display()))
}

fn udp(port: u16) -> Value {
    json!([{"collector": format!("127.0.0.1:{port}")}])
}

/// A collector that wants questions, too.
fn udp_with_questions(port: u16) -> Value {
    json!([{"collector": format!("127.0.0.1:{port}"), "only": {"records": ["flow", "dns"]}}])
}

#[test]
fn nfdump_sums_up_what_was_sent() -> Result<()> {
    test("flows-nfdump", |bench| {
        let folder = bench.run.data("nfcapd")?;
        let mut command = bench.tree.command_in(&bench.netns, "usr/bin/nfcapd");
        command.args(["-p", &NFCAPD.to_string(), "-b", "127.0.0.1", "-t", "3600", "-w"]).arg(&folder);
        let nfcapd = bench.collector("nfcapd", command, NFCAPD)?;
        bench.send(&udp(NFCAPD), records())?;
        // It writes its file when it ends.
        nfcapd.check()?;
        nfcapd.stop(SOON);
        let text = process::output(bench.tree.command("usr/bin/nfdump").arg("-R").arg(&folder).arg("-I"))?;
        let number = |key: &str| -> Result<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            Ok(value.with_context(|| format!("{key} in {text}"))?.trim().parse()?)
        };
        ensure!(number("Flows")? == u64::from(RECORDS), "{text}");
        ensure!((number("Packets")?, number("Bytes")?) == sums(), "{text}, sent {:?}", sums());
        eprintln!("nfdump: {} packets, {} bytes", number("Packets")?, number("Bytes")?);
        Ok(())
    })
}

#[test]
fn nfacctd_sums_up_what_was_sent() -> Result<()> {
    test("flows-nfacctd", |bench| {
        let folder = bench.run.data("nfacctd")?;
        let (config, out) = (folder.join("nfacctd.conf"), folder.join("out.json"));
        let keys = "src_host, dst_host, src_port, dst_port, proto, vlan, in_iface, out_iface";
        let text = format!(
            "daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {NFACCTD}\nplugins: print[out]\n\
             aggregate[out]: {keys}\nprint_output[out]: json\nprint_output_file[out]: {}\n\
             print_output_file_append[out]: true\nprint_refresh_time[out]: 1\n",
            out.display()
        );
        fs::write(&config, text)?;
        let mut command = bench.tree.command_in(&bench.netns, "usr/sbin/nfacctd");
        command.arg("-f").arg(&config);
        let _nfacctd = bench.collector("nfacctd", command, NFACCTD)?;
        bench.send(&udp_with_questions(NFACCTD), all_kinds())?;
        let lines = summed("nfacctd", &out)?;
        let vlans_right = |line: &Value| {
            let ifindex = line["iface_in"].as_u64().max(line["iface_out"].as_u64()).unwrap_or_default();
            line["iface_in"] == 0 || line["vlan"].as_u64() == Some(ifindex - 1000) || line["vlan"] == 200
        };
        ensure!(lines.iter().all(vlans_right), "a VLAN that was not sent: {lines:?}");
        Ok(())
    })
}

#[test]
fn goflow2_sums_up_what_was_sent() -> Result<()> {
    test("flows-goflow2", |bench| {
        let out = bench.run.data("goflow2")?.join("out.json");
        let mut command = bench.netns.command(tools::path(Tool::Goflow2)?);
        command.args(["-listen", &format!("netflow://127.0.0.1:{GOFLOW2}"), "-addr", "127.0.0.1:8080"]);
        command.args(["-format", "json", "-transport", "file", "-transport.file"]).arg(&out);
        let _goflow2 = bench.collector("goflow2", command, GOFLOW2)?;
        bench.send(&udp_with_questions(GOFLOW2), all_kinds())?;
        let lines = summed("goflow2", &out)?;
        let right = |line: &Value| {
            let pair = |interface: &str, vlan: &str| (line[interface].as_u64(), line[vlan].as_u64());
            let [received, sent] = [pair("in_if", "src_vlan"), pair("out_if", "dst_vlan")];
            let known = |(interface, vlan): (Option<u64>, Option<u64>)| {
                interface.is_some_and(|i| i > 1000) && interface == vlan.map(|vlan| vlan + 1000)
            };
            // Either side, as the direction says; the other has nothing.
            (known(received) && sent == (Some(0), Some(0))) || (known(sent) && received == (Some(0), Some(0)))
        };
        ensure!(lines.iter().all(right), "interface or VLAN wrong: {:?}", lines.iter().find(|l| !right(l)));
        ensure!(lines.iter().all(|line| line["tcp_flags"] == 0x1b || line["tcp_flags"] == 0), "TCP flags");
        Ok(())
    })
}

/// Waits until the lines of a collector's file sum up to what was sent.
fn summed(collector: &str, file: &PathBuf) -> Result<Vec<Value>> {
    wait::until_blocking(&format!("{collector} has what was sent"), SOON, || {
        let text = fs::read_to_string(file)?;
        // The last object may be half written, and goflow2's threads put two into a line at times.
        let objects = serde_json::Deserializer::from_str(&text).into_iter();
        let lines: Vec<Value> = objects.map_while(Result::ok).collect();
        let sum = |key: &str| lines.iter().filter_map(|line| line[key].as_u64()).sum::<u64>();
        let got = (sum("packets"), sum("bytes"));
        if got == sums() {
            eprintln!("{collector}: {} packets, {} bytes", got.0, got.1);
            return Ok(Some(lines));
        }
        bail!("it has {got:?} in {} lines, sent were {:?}", lines.len(), sums())
    })
}

#[test]
fn tshark_finds_nothing_malformed_and_the_right_vlan_and_interface() -> Result<()> {
    test("flows-tshark", |bench| {
        let capture = bench.run.data("tshark")?.join("flows.pcapng");
        let sink = bench.netns.enter(|| std::net::UdpSocket::bind(("127.0.0.1", TSHARK)))??;
        sink.set_read_timeout(Some(Duration::from_secs(5)))?;
        let sink = std::thread::spawn(move || while sink.recv(&mut [0; 2048]).is_ok() {});
        let mut command = bench.tree.command_in(&bench.netns, "usr/bin/dumpcap");
        command.args(["-i", "lo", "-f", &format!("udp port {TSHARK}"), "-w"]).arg(&capture);
        let dumpcap = Process::spawn(&bench.run, "dumpcap", command)?;
        wait::until_blocking("dumpcap captures", SOON, || {
            dumpcap.check()?;
            Ok(process::tail(dumpcap.log(), 20).contains("File:").then_some(()))
        })?;
        bench.send(&udp_with_questions(TSHARK), all_kinds())?;
        sink.join().map_err(|_| anyhow!("the sink panicked"))?;
        let tshark = |args: &[&str]| {
            process::output(bench.tree.command("usr/bin/tshark").arg("-r").arg(&capture).args(args))
        };
        let column = |field: &str| -> Result<Vec<u64>> {
            let text = tshark(&["-T", "fields", "-e", field])?;
            text.split([',', '\n']).filter(|n| !n.is_empty()).map(|n| Ok(n.trim().parse()?)).collect()
        };
        let total = |field: &str| column(field).map(|values| values.iter().sum::<u64>());
        // dumpcap writes what it has now and then; what it has not written when it ends is lost.
        wait::until_blocking("the capture holds what was sent", SOON, || {
            let got = (total("cflow.packets")?, total("cflow.octets")?);
            ensure!(got == sums(), "it has {got:?}, sent were {:?}", sums());
            eprintln!("tshark: {} packets, {} bytes", got.0, got.1);
            Ok(Some(()))
        })?;
        dumpcap.stop(SOON);
        let complaints = tshark(&["-Y", "_ws.malformed || _ws.expert.severity >= 6291456"])?;
        ensure!(complaints.trim().is_empty(), "tshark complains: {complaints}");
        // All questions were sent, half of the flows were.
        for (interface, vlan, count) in [
            ("cflow.inputint", "cflow.vlanid", RECORDS / 2),
            ("cflow.outputint", "cflow.post_vlanid", RECORDS / 2 + QUESTIONS),
        ] {
            let vlans: Vec<u64> = column(vlan)?.into_iter().map(|vlan| vlan + 1000).collect();
            let interfaces = column(interface)?;
            ensure!(
                interfaces.len() == count as usize && interfaces == vlans,
                "{interface} {interfaces:?}, {vlan} {vlans:?}"
            );
        }
        Ok(())
    })
}
