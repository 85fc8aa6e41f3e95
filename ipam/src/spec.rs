//! What a pool is made of, in plain types, and which of its ranges can be used.
//!
//! Owns the checks that the API server's rules cannot express. Must never hold what is in use.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Reserved;
use crate::address::{Family, value};

/// A pool as its user wrote it; what could not be read carries the reason in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Pool name.
    pub name: String,
    /// The gateway's address with the subnet's prefix length.
    pub subnet: Result<IpNet, String>,
    /// First and last address of every range, both included.
    pub ranges: Vec<Result<(IpAddr, IpAddr), String>>,
    /// The pool's VLAN, 0–4094; 0 is untagged.
    pub vlan: u16,
}

/// A layer-2 network, as far as the controller can tell two of them apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Effective VLAN, 0–4094; 0 is untagged.
    pub vlan: u16,
    /// Bridge that the network names; none is a node's only one, which may be any.
    pub bridge: Option<String>,
}

impl Network {
    /// Can frames of the two meet? Unnamed bridges may be any.
    pub fn may_meet(&self, other: &Self) -> bool {
        let bridges = match (&self.bridge, &other.bridge) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.vlan == other.vlan && bridges
    }
}

/// Why one range gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeProblem {
    /// The subnet itself is unusable, so every range is.
    #[error("{0}")]
    Subnet(String),
    /// Not readable.
    #[error("spec.ipRanges[{index}]: {reason}")]
    Unreadable {
        /// Position in the list, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// Not in the subnet.
    #[error("spec.ipRanges[{index}] ({first}-{last}) is not in the subnet {subnet}")]
    OutsideSubnet {
        /// Position in the list, from 0.
        index: usize,
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// Backwards.
    #[error("spec.ipRanges[{index}]: start {first} comes after end {last}")]
    Order {
        /// Position in the list, from 0.
        index: usize,
        /// `start`.
        first: IpAddr,
        /// `end`.
        last: IpAddr,
    },
    /// Shares addresses with an earlier range, which stays usable.
    #[error("spec.ipRanges[{index}] ({first}-{last}) overlaps spec.ipRanges[{earlier}]")]
    Overlap {
        /// Position in the list, from 0.
        index: usize,
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
        /// Position of the other, from 0.
        earlier: usize,
    },
}

/// A usable range: first and last value, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Range {
    pub(crate) fn contains(self, value: u128) -> bool {
        (self.first..=self.last).contains(&value)
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses, saturating (only `::/0` has one more than fits).
    pub(crate) fn size(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }
}

/// The usable ranges of a pool, in the user's order, and what is wrong with the others.
pub(crate) fn usable_ranges(spec: &PoolSpec) -> (Vec<Range>, Vec<RangeProblem>) {
    let subnet = match &spec.subnet {
        Ok(subnet) => subnet.trunc(),
        Err(reason) => return (Vec::new(), vec![RangeProblem::Subnet(reason.clone())]),
    };
    let mut usable: Vec<(usize, Range)> = Vec::new();
    let mut problems = Vec::new();
    for (index, range) in spec.ranges.iter().enumerate() {
        match usable_range(index, range, subnet, &usable) {
            Ok(range) => usable.push((index, range)),
            Err(problem) => problems.push(problem),
        }
    }
    (usable.into_iter().map(|(_, range)| range).collect(), problems)
}

fn usable_range(
    index: usize,
    range: &Result<(IpAddr, IpAddr), String>,
    subnet: IpNet,
    earlier: &[(usize, Range)],
) -> Result<Range, RangeProblem> {
    let &(first, last) =
        range.as_ref().map_err(|reason| RangeProblem::Unreadable { index, reason: reason.clone() })?;
    if !subnet.contains(&first) || !subnet.contains(&last) {
        return Err(RangeProblem::OutsideSubnet { index, first, last, subnet });
    }
    if first > last {
        return Err(RangeProblem::Order { index, first, last });
    }
    let range = Range { first: value(first), last: value(last) };
    match earlier.iter().find(|(_, other)| other.meets(range)) {
        Some(&(earlier, _)) => Err(RangeProblem::Overlap { index, first, last, earlier }),
        None => Ok(range),
    }
}

/// Addresses of the subnet that are never given. Subnets of one or two addresses reserve none (RFC 3021, RFC 6164).
pub(crate) fn reserved(subnet: IpNet) -> Vec<(u128, Reserved)> {
    let family = Family::of(subnet.addr());
    if family.bits() - subnet.prefix_len() < 2 {
        return Vec::new();
    }
    let mut reserved = match family {
        Family::V4 => {
            vec![
                (value(subnet.network()), Reserved::Network),
                (value(subnet.broadcast()), Reserved::Broadcast),
            ]
        }
        Family::V6 => vec![(value(subnet.network()), Reserved::SubnetRouterAnycast)],
    };
    let gateway = value(subnet.addr());
    if reserved.iter().all(|&(value, _)| value != gateway) {
        reserved.push((gateway, Reserved::Gateway));
    }
    reserved
}
