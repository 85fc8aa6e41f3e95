//! `flows` of `trunkline-agent.conf`: taps and the flow table.
//!
//! Owns keys, defaults and ranges; must never know what a tap costs.

use std::time::Duration;

use super::all::{self, AllConfig};
use super::dns::{self, DnsConfig};
use super::export::ExportConfig;
use super::sampling::{self, SamplingConfig};
use super::yaml::{Node, Problem};

/// What is counted, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsConfig {
    /// `enabled`. Default true.
    pub enabled: bool,
    /// `memoryMiB`, 4–4096: all maps of both epochs and the flow table. Default 64 MiB.
    pub memory_bytes: u64,
    /// `maxTaps`, 16–16384. Default 1024. Two counters of 64 bytes per tap, direction and processor come out of the memory.
    pub max_taps: u16,
    /// `intervalSeconds`, 1–60: how often what the programs counted is read. Default 5 s.
    pub interval: Duration,
    /// `activeTimeoutSeconds`, 1–3600: a flow that goes on is recorded this often. Default 60 s.
    pub active_timeout: Duration,
    /// `idleTimeoutSeconds`, 1–3600: a flow that was silent for this long has ended. Default 15 s.
    pub idle_timeout: Duration,
    /// `export`: where records go. Default nowhere.
    pub export: ExportConfig,
    /// `all`: taps on interfaces that are not ours. Default off.
    pub all: AllConfig,
    /// `dns`: questions to name servers. Default those to port 53.
    pub dns: DnsConfig,
    /// `sampling`: networks of which only some frames are looked at. Default none.
    pub sampling: SamplingConfig,
}

impl Default for FlowsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            memory_bytes: 64 << 20,
            max_taps: 1024,
            interval: Duration::from_secs(5),
            active_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_secs(15),
            export: ExportConfig::default(),
            all: AllConfig::default(),
            dns: DnsConfig::default(),
            sampling: SamplingConfig::default(),
        }
    }
}

pub(super) fn read(node: &Node<'_>) -> Result<FlowsConfig, Problem> {
    let mut fields = node.fields()?;
    let mut config = FlowsConfig::default();
    fields.set("enabled", &mut config.enabled, Node::boolean)?;
    fields.set("memoryMiB", &mut config.memory_bytes, |node| node.within(4, 4096).map(|mib| mib << 20))?;
    fields.set("maxTaps", &mut config.max_taps, |node| {
        node.within(16, 16_384).map(|taps| u16::try_from(taps).unwrap_or(u16::MAX))
    })?;
    fields.set("intervalSeconds", &mut config.interval, |node| node.seconds(1, 60))?;
    fields.set("activeTimeoutSeconds", &mut config.active_timeout, |node| node.seconds(1, 3600))?;
    fields.set("idleTimeoutSeconds", &mut config.idle_timeout, |node| node.seconds(1, 3600))?;
    fields.set("all", &mut config.all, all::read)?;
    fields.set("dns", &mut config.dns, dns::read)?;
    fields.set("sampling", &mut config.sampling, sampling::read)?;
    fields.set("export", &mut config.export, Node::deserialized)?;
    fields.finish()?;
    Ok(config)
}
