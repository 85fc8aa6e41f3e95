//! `flows.dns` of `trunkline-agent.conf`: questions to name servers.
//!
//! Owns keys and defaults. Must never look into a message.

use super::yaml::{Node, Problem};

/// Which questions are followed to their answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// `enabled`. Default true.
    pub enabled: bool,
    /// `port` of name servers, UDP and TCP. Default 53.
    pub port: u16,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self { enabled: true, port: 53 }
    }
}

impl DnsConfig {
    /// The port to follow; `None` where nothing is.
    pub fn followed(&self) -> Option<u16> {
        self.enabled.then_some(self.port)
    }
}

pub(super) fn read(node: &Node<'_>) -> Result<DnsConfig, Problem> {
    let mut fields = node.fields()?;
    let mut config = DnsConfig::default();
    fields.set("enabled", &mut config.enabled, Node::boolean)?;
    fields.set("port", &mut config.port, Node::port)?;
    fields.finish()?;
    Ok(config)
}
