//! `trunkctl flows`: who talks to whom on the secondary networks.
//!
//! Owns filters, order and columns. Must never leave out a flow in silence: what an agent leaves out is said.

mod merge;

use std::borrow::Cow;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use trunkline_agent::flows::{DnsRow, FlowRow, FlowsDump};
use trunkline_api::FlowProtocol;
use trunkline_api::export::AddressRange;

use crate::get::vlan;
use crate::output::{bytes, print};
use crate::source::{Nodes, Source};
use crate::table;

/// How often `--follow` looks again: as often as agents read their taps by default.
const AGAIN: Duration = Duration::from_secs(5);

/// ICMP and `ICMPv6`, in whose rows type and code take the place of ports.
const ICMP: [FlowProtocol; 2] = [FlowProtocol::Ip(1), FlowProtocol::Ip(58)];

/// Which flows, in which order and form. Several filters must all hold.
#[derive(Args)]
pub(crate) struct FlowsArgs {
    /// Interface in the pod, such as eth1, or an uplink
    #[arg(long)]
    interface: Option<String>,
    /// Network namespace of an interface that is not Trunkline's: its file's name, host, or net:[<inode>]
    #[arg(long)]
    netns: Option<String>,
    /// [<namespace>/]<name> of the pod, at either end
    #[arg(long)]
    pod: Option<String>,
    /// [<namespace>/]<name> of the network
    #[arg(long)]
    network: Option<String>,
    /// VLAN of the network; 0 is untagged
    #[arg(long)]
    vlan: Option<u16>,
    /// tcp, udp, icmp, icmpv6, arp, …, a protocol's number, or an ethertype as 0x88cc
    #[arg(long)]
    protocol: Option<FlowProtocol>,
    /// Port at either end; ICMP has none
    #[arg(long)]
    port: Option<u16>,
    /// Address or CIDR at either end
    #[arg(long)]
    address: Option<AddressRange>,
    /// sent or received, as the pod sees it
    #[arg(long, value_enum)]
    direction: Option<Way>,
    /// One row of flows that differ only by network, VLAN, bridge and tags
    #[arg(long)]
    ignore_vlan: bool,
    /// Only the first so many
    #[arg(long)]
    top: Option<usize>,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Order::Bytes)]
    sort: Order,
    /// Look again every five seconds, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Sent,
    Received,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Bytes on the wire
    Bytes,
    /// Packets on the wire
    Packets,
    /// Bytes a second
    Rate,
    /// The latest packet
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// One JSON list
    Json,
    /// Comma-separated values with a header (RFC 4180)
    Csv,
}

/// A flow with the node that saw it.
#[derive(Serialize)]
struct OfNode<'a> {
    node: &'a str,
    #[serde(flatten)]
    flow: Cow<'a, FlowRow>,
    /// Whether flows of several VLANs were merged into it, so that it is on none of them.
    #[serde(skip)]
    several_vlans: bool,
}

/// Prints the flows, once or for ever.
pub(crate) async fn run(source: &Source, args: &FlowsArgs) -> anyhow::Result<()> {
    loop {
        let nodes: Nodes<FlowsDump> = source.ask().await?;
        show(&nodes, args)?;
        if !args.follow {
            return nodes.complete();
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn show(nodes: &Nodes<FlowsDump>, args: &FlowsArgs) -> anyhow::Result<()> {
    for node in nodes.dumps.iter().filter(|node| node.left_out > 0) {
        eprintln!("trunkctl: node {} has {} more flows, with fewer bytes each", node.node, node.left_out);
    }
    let all = nodes.dumps.iter().flat_map(|dump| {
        let wanted = dump.flows.iter().filter(|flow| args.wants(flow));
        wanted.map(|flow| merge::single(&dump.node, flow))
    });
    let mut flows: Vec<OfNode<'_>> = all.collect();
    if args.ignore_vlan {
        flows = merge::ignoring_vlan(flows);
    }
    flows.sort_by_key(|of| std::cmp::Reverse(args.sort.key(&of.flow)));
    flows.truncate(args.top.unwrap_or(usize::MAX));
    match args.output {
        Form::Table => {
            let rows: Vec<Vec<String>> = flows.iter().map(row).collect();
            print(&table::render(header(&flows), &rows))
        }
        Form::Json => {
            let flows = flows.iter().map(json).collect::<Result<Vec<_>, _>>()?;
            print(&format!("{}\n", serde_json::to_string_pretty(&flows)?))
        }
        Form::Csv => print(&csv(&flows)),
    }
}

impl Order {
    fn key(self, flow: &FlowRow) -> u64 {
        match self {
            Self::Bytes => flow.bytes,
            Self::Packets => flow.packets,
            Self::Rate => flow.bytes_per_second,
            Self::Last => flow.last_unix_ms,
        }
    }
}

impl FlowsArgs {
    fn wants(&self, flow: &FlowRow) -> bool {
        let name = |asked: &Option<String>, full: &str| {
            asked.as_ref().is_none_or(|asked| {
                full == asked
                    || (!asked.contains('/') && full.split_once('/').is_some_and(|(_, name)| name == asked))
            })
        };
        let way = |way: Way| (way == Way::Sent) == (flow.direction == "sent");
        let protocol = flow.protocol.parse::<FlowProtocol>().ok();
        let inside = |range: AddressRange| {
            let at = |text: &str| text.parse().is_ok_and(|address| range.contains(address));
            at(&flow.source) || at(&flow.destination)
        };
        let ports = if ICMP.map(Some).contains(&protocol) {
            [None; 2]
        } else {
            [flow.source_port, flow.destination_port]
        };
        self.interface.as_ref().is_none_or(|asked| *asked == flow.interface || *asked == flow.device)
            && self.netns.as_ref().is_none_or(|asked| *asked == flow.netns)
            && (name(&self.pod, &flow.pod) || name(&self.pod, &flow.peer))
            && name(&self.network, &flow.network)
            && self.vlan.is_none_or(|vlan| vlan == flow.vlan && !flow.network.is_empty())
            && self.protocol.is_none_or(|asked| protocol == Some(asked))
            && self.port.is_none_or(|port| ports.contains(&Some(port)))
            && self.address.is_none_or(inside)
            && self.direction.is_none_or(way)
    }
}

/// The last column is there where a row has something in it.
const HEADER: [&str; 15] = [
    "NODE",
    "POD/NETNS",
    "INTERFACE",
    "WAY",
    "PEER",
    "NETWORK",
    "VLAN",
    "PROTO",
    "SOURCE",
    "DESTINATION",
    "BYTES",
    "PACKETS",
    "RATE",
    "FLAGS/RTT",
    "DNS",
];

fn header(flows: &[OfNode<'_>]) -> &'static [&'static str] {
    let dns = flows.iter().any(|of| of.flow.dns.is_some());
    if dns { &HEADER } else { &HEADER[..HEADER.len() - 1] }
}

fn row(of: &OfNode<'_>) -> Vec<String> {
    let flow = &of.flow;
    let rtt = flow.rtt_us.map(|micros| format!("{micros:.0}µs"));
    let last: Vec<String> =
        [Some(flow.flags.clone()).filter(|flags| !flags.is_empty()), rtt].into_iter().flatten().collect();
    // A number that stands for frames that nobody looked at is not shown as if it were counted.
    let counted = |text: String| if flow.estimated { format!("~{text}") } else { text };
    vec![
        of.node.to_owned(),
        if flow.pod.is_empty() { flow.netns.clone() } else { flow.pod.clone() },
        flow.interface.clone(),
        flow.direction.clone(),
        flow.peer.clone(),
        flow.network.clone(),
        vlans(of),
        flow.protocol.clone(),
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        counted(bytes(flow.bytes)),
        counted(flow.packets.to_string()),
        counted(format!("{}/s", bytes(flow.bytes_per_second))),
        last.join(" "),
        flow.dns.as_ref().map(dns).unwrap_or_default(),
    ]
}

/// `3 ok 1.2ms`, `NXDOMAIN 0.8ms`, `2 ok, 1 failed, no answer 40.0ms`: the time is the longest.
fn dns(row: &DnsRow) -> String {
    let several = |number: u32, one: &str, more: &str| match number {
        0 => None,
        1 => Some(one.to_owned()),
        number => Some(format!("{number} {more}")),
    };
    let ok = row.answered.saturating_sub(row.failed);
    let only_one = row.answered == 1 && row.unanswered == 0;
    let parts = [
        (ok > 0).then(|| format!("{ok} ok")),
        several(row.failed, if only_one { &row.last_code } else { "1 failed" }, "failed"),
        several(row.unanswered, "no answer", "without answer"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let slowest = row.slowest_ms.map(|millis| format!(" {millis:.1}ms")).unwrap_or_default();
    parts.join(", ") + &slowest
}

fn vlans(of: &OfNode<'_>) -> String {
    if of.several_vlans {
        merge::SEVERAL.to_owned()
    } else if of.flow.network.is_empty() {
        of.flow.tags.clone()
    } else {
        vlan(Some(of.flow.vlan))
    }
}

/// Without a VLAN where it would be one of several.
fn json(of: &OfNode<'_>) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(of)?;
    if let Value::Object(fields) = &mut value
        && of.several_vlans
    {
        fields.remove("vlan");
    }
    Ok(value)
}

fn end(address: &str, port: Option<u16>) -> String {
    match port {
        None => address.to_owned(),
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    }
}

fn csv(flows: &[OfNode<'_>]) -> String {
    let mut text = "node,pod,interface,direction,peer,network,vlan,tags,bridge,protocol,source,source_port,destination,\
        destination_port,bytes,packets,skbs,skb_bytes,bytes_per_second,flags,rtt_us,first_unix_ms,last_unix_ms,notes,netns,one_in,\
        dns_answered,dns_unanswered,dns_failed,dns_slowest_ms,dns_last_code\r\n"
        .to_owned();
    for of in flows {
        let flow = &of.flow;
        let port = |port: Option<u16>| port.map(|port| port.to_string()).unwrap_or_default();
        let dns = |part: fn(&DnsRow) -> String| flow.dns.as_ref().map(part).unwrap_or_default();
        let fields = [
            of.node.to_owned(),
            flow.pod.clone(),
            flow.interface.clone(),
            flow.direction.clone(),
            flow.peer.clone(),
            flow.network.clone(),
            if of.several_vlans { merge::SEVERAL.to_owned() } else { flow.vlan.to_string() },
            flow.tags.clone(),
            flow.bridge.clone(),
            flow.protocol.clone(),
            flow.source.clone(),
            port(flow.source_port),
            flow.destination.clone(),
            port(flow.destination_port),
            flow.bytes.to_string(),
            flow.packets.to_string(),
            flow.skbs.to_string(),
            flow.skb_bytes.to_string(),
            flow.bytes_per_second.to_string(),
            flow.flags.clone(),
            flow.rtt_us.map(|micros| format!("{micros:.3}")).unwrap_or_default(),
            flow.first_unix_ms.to_string(),
            flow.last_unix_ms.to_string(),
            flow.notes.join("; "),
            flow.netns.clone(),
            flow.one_in.to_string(),
            dns(|dns| dns.answered.to_string()),
            dns(|dns| dns.unanswered.to_string()),
            dns(|dns| dns.failed.to_string()),
            dns(|dns| dns.slowest_ms.map(|millis| format!("{millis:.3}")).unwrap_or_default()),
            dns(|dns| dns.last_code.clone()),
        ];
        text.push_str(&fields.map(|field| quoted(&field)).join(","));
        text.push_str("\r\n");
    }
    text
}

/// RFC 4180: quotes where a comma, a quote or a line's end is inside.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FlowsArgs,
    }

    fn args(line: &str) -> FlowsArgs {
        Line::try_parse_from(std::iter::once("flows").chain(line.split_whitespace()))
            .expect("good flags")
            .args
    }

    fn flow() -> FlowRow {
        FlowRow {
            direction: "sent".into(),
            pod: "default/a".into(),
            interface: "eth1".into(),
            device: "tl1".into(),
            network: "default/v100".into(),
            vlan: 100,
            protocol: "tcp".into(),
            source: "10.0.0.1".into(),
            source_port: Some(4000),
            destination: "10.0.0.2".into(),
            destination_port: Some(80),
            peer: "default/b".into(),
            bytes: 1536,
            packets: 3,
            flags: "SYN,ACK".into(),
            rtt_us: Some(81.4),
            ..FlowRow::default()
        }
    }

    #[test]
    fn every_filter_must_hold() {
        for (line, wanted) in [
            ("", true),
            ("--interface eth1 --vlan 100 --protocol TCP --port 80", true),
            ("--pod a", true),
            ("--pod default/b", true),
            ("--pod c", false),
            ("--netns host", false),
            ("--network v100", true),
            ("--network other/v100", false),
            ("--vlan 0", false),
            ("--port 4000", true),
            ("--port 4001", false),
            ("--protocol 6", true),
            ("--protocol udp", false),
            ("--address 10.0.0.2", true),
            ("--address 10.0.0.0/30 --direction received", false),
            ("--address fd00::/8", false),
        ] {
            assert_eq!(args(line).wants(&flow()), wanted, "{line}");
        }
    }

    #[test]
    fn types_and_codes_of_icmp_are_no_ports() {
        let echo =
            FlowRow { protocol: "icmp".into(), source_port: Some(8), destination_port: Some(0), ..flow() };
        assert!(args("--protocol icmp").wants(&echo) && !args("--protocol icmp --port 8").wants(&echo));
    }

    #[test]
    fn a_protocol_that_there_is_not_is_refused() {
        let line = Line::try_parse_from(["flows", "--protocol", "tpc"]);
        assert!(line.is_err_and(|refused| refused.to_string().contains("\"tpc\" is no protocol")));
    }

    #[test]
    fn a_row_of_several_vlans_has_none_of_them() {
        let other = FlowRow { network: "default/v200".into(), vlan: 200, ..flow() };
        let first = flow();
        let merged = merge::ignoring_vlan(vec![merge::single("n1", &first), merge::single("n1", &other)]);
        assert_eq!(merged.len(), 1);
        assert_eq!(row(&merged[0])[5..7], ["*", "*"]);
        assert!(json(&merged[0]).is_ok_and(|json| json.get("vlan").is_none() && json["network"] == "*"));
        assert!(csv(&merged).contains(",default/b,*,*,,"), "{}", csv(&merged));
        assert!(json(&merge::single("n1", &first)).is_ok_and(|json| json["vlan"] == 100));
    }

    #[test]
    fn an_untagged_network_is_not_an_uplink() {
        let uplink = FlowRow { network: String::new(), vlan: 0, ..flow() };
        assert!(!args("--vlan 0").wants(&uplink));
        assert!(args("--vlan 0").wants(&FlowRow { vlan: 0, ..flow() }));
    }

    #[test]
    fn a_row_says_who_and_how_much() {
        let flow = flow();
        let row = row(&merge::single("n1", &flow));
        assert_eq!(
            row.join(" ").trim_end(),
            "n1 default/a eth1 sent default/b default/v100 100 tcp 10.0.0.1:4000 10.0.0.2:80 1.5 KiB 3 0 B/s SYN,ACK 81µs"
        );
        assert_eq!(end("fd00::1", Some(53)), "[fd00::1]:53");
    }

    #[test]
    fn estimates_are_marked_in_every_form() {
        let flow = FlowRow { estimated: true, one_in: 10, ..flow() };
        let of = merge::single("n1", &flow);
        assert_eq!(row(&of)[10..13], ["~1.5 KiB", "~3", "~0 B/s"]);
        assert!(json(&of).is_ok_and(|json| json["estimated"] == true && json["oneIn"] == 10));
        assert!(csv(&[of]).ends_with(",10,,,,,\r\n"));
    }

    #[test]
    fn questions_to_name_servers_have_a_column_where_there_are_any() {
        for (answered, unanswered, failed, slowest_ms, last_code, shown) in [
            (3, 0, 0, Some(1.234), "NOERROR", "3 ok 1.2ms"),
            (1, 0, 1, Some(0.8), "NXDOMAIN", "NXDOMAIN 0.8ms"),
            (0, 1, 0, None, "none", "no answer"),
            (0, 2, 0, None, "none", "2 without answer"),
            (4, 1, 2, Some(40.0), "none", "2 ok, 2 failed, no answer 40.0ms"),
            (2, 0, 1, Some(40.0), "SERVFAIL", "1 ok, 1 failed 40.0ms"),
        ] {
            let asked = DnsRow { answered, unanswered, failed, slowest_ms, last_code: last_code.into() };
            assert_eq!(dns(&asked), shown);
        }
        let (plain, asked) = (flow(), FlowRow { dns: Some(DnsRow::default()), ..flow() });
        let [plain, asked] = [&plain, &asked].map(|flow| merge::single("n1", flow));
        assert_eq!(header(std::slice::from_ref(&plain)).last(), Some(&"FLAGS/RTT"));
        assert!(json(&plain).is_ok_and(|json| json.get("dns").is_none()));
        assert_eq!(header(&[plain, asked]).last(), Some(&"DNS"));
    }

    #[test]
    fn an_interface_that_is_not_ours_is_named_by_its_namespace() {
        let flow = FlowRow { netns: "host".into(), pod: String::new(), network: String::new(), ..flow() };
        assert!(args("--netns host").wants(&flow) && !args("--netns blue").wants(&flow));
        assert_eq!(row(&merge::single("n1", &flow))[1], "host");
    }

    #[test]
    fn csv_quotes_what_has_commas() {
        let flow = flow();
        let text = csv(&[merge::single("n1", &flow)]);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains("\"SYN,ACK\"")), "{text}");
        let columns = text.lines().next().map(|line| line.split(',').count());
        assert_eq!(columns, Some(31));
    }
}
