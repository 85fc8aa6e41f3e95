//! The pod annotation `k8s.v1.cni.cncf.io/networks` (NPWG specification 1.3, section 4.1).
//!
//! Owns both of its forms and every refusal in them. Must never look whether a network exists.

use std::net::IpAddr;

use crate::{IfName, MacAddr};

mod parse;

pub use parse::parse_networks;

/// One element of the annotation: one interface that the pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSelection {
    /// Namespace of the network; the pod's own where the element names none.
    pub namespace: String,
    /// Name of the network (NAD).
    pub name: String,
    /// Requested interface name; never `eth0` or `lo`, and unique in the annotation.
    pub interface: Option<IfName>,
    /// Requested unicast MAC address, unique in the annotation.
    pub mac: Option<MacAddr>,
    /// Requested addresses; each must be given or the attachment fails.
    pub ips: Vec<IpRequest>,
}

impl NetworkSelection {
    /// "namespace/name" of the network.
    pub fn nad(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A requested address, with a prefix length where the user wrote one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpRequest {
    /// The address.
    pub address: IpAddr,
    /// Prefix length, at most the family's bits.
    pub prefix_length: Option<u8>,
}

impl std::fmt::Display for IpRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix_length {
            Some(length) => write!(f, "{}/{length}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// Why an annotation cannot be honoured, for the person who reads `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Neither form.
    #[error("annotation k8s.v1.cni.cncf.io/networks: {0}")]
    Malformed(String),
    /// One element is at fault.
    #[error("annotation k8s.v1.cni.cncf.io/networks, element {index}: {problem}")]
    Element {
        /// From 0.
        index: usize,
        /// Key, value, and what is right.
        problem: String,
    },
}

#[cfg(test)]
mod tests;
