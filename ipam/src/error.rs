//! Why an address cannot be given, in words for the person who reads `kubectl describe pod`.
//!
//! Owns the sentences. Must never decide anything.

use std::fmt;
use std::net::IpAddr;

use crate::{Family, Owner};

/// Why an interface gets no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No such pool is known.
    #[error("IPPool {pool} does not exist")]
    NoSuchPool {
        /// The name as asked for.
        pool: String,
    },
    /// Nothing is free in any pool of a family.
    #[error("no {family} address is free: {}", list(pools))]
    Exhausted {
        /// The family.
        family: Family,
        /// The pools that were tried, in order.
        pools: Vec<PoolUsage>,
    },
    /// A requested address cannot be given.
    #[error("requested address {address} cannot be given: {refusal}")]
    Requested {
        /// As asked for.
        address: IpAddr,
        /// The reason.
        refusal: Refusal,
    },
    /// Not an address.
    #[error("requested address {text:?} is not an IP address, with or without a prefix length")]
    Malformed {
        /// As asked for.
        text: String,
    },
    /// Two requested addresses of one family.
    #[error(
        "{first} and {second} are requested for one interface: at most one {family} address can be given"
    )]
    FamilyTwice {
        /// The family.
        family: Family,
        /// The first.
        first: IpAddr,
        /// The second.
        second: IpAddr,
    },
}

/// A pool that was tried, and why it gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Pool name.
    pub name: String,
    /// Addresses in use.
    pub used: u128,
    /// Addresses that can be given at all.
    pub total: u128,
    /// Addresses that rest after a conflict.
    pub quarantined: u128,
    /// The pool is being deleted.
    pub deleting: bool,
    /// Pools of the same network in which its free addresses are in use.
    pub shared_with: Vec<String>,
    /// Ranges that give nothing, each with its reason.
    pub problems: Vec<String>,
}

impl fmt::Display for PoolUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPPool {}", self.name)?;
        if self.deleting {
            return f.write_str(" is being deleted");
        }
        if self.total > 0 {
            write!(f, " is exhausted, {} of {} in use", self.used, self.total)?;
        } else {
            f.write_str(" has no address to give")?;
        }
        if self.quarantined > 0 {
            write!(f, ", {} resting after an address conflict", self.quarantined)?;
        }
        if !self.shared_with.is_empty() {
            write!(
                f,
                ", the others in overlapping IPPools of the same VLAN ({})",
                self.shared_with.join(", ")
            )?;
        }
        for problem in &self.problems {
            write!(f, "; {problem}")?;
        }
        Ok(())
    }
}

fn list(pools: &[PoolUsage]) -> String {
    pools.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why a named address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// In no range of the pools that the network names.
    #[error("it is in no range of {pools}")]
    OutsideRanges {
        /// The pools of its family with their ranges, or that there is none.
        pools: String,
    },
    /// Never given to pods.
    #[error("it is the {reserved} of IPPool {pool}")]
    Reserved {
        /// The pool.
        pool: String,
        /// What it is reserved for.
        reserved: Reserved,
    },
    /// Somebody has it.
    #[error("it is in use by interface {} of pod {}/{} (IPPool {pool})", owner.interface, owner.namespace, owner.pod)]
    Used {
        /// The pool it is claimed in.
        pool: String,
        /// Who.
        owner: Box<Owner>,
    },
    /// A duplicate-address probe was answered lately.
    #[error("another station on the network answered for it; it rests for {seconds} s more")]
    Quarantined {
        /// Until it may be given again.
        seconds: u64,
    },
    /// The prefix length asked for is not the pool's.
    #[error("the prefix length {asked} was asked for, IPPool {pool} has {length}")]
    PrefixLength {
        /// The pool.
        pool: String,
        /// As asked for.
        asked: u8,
        /// The pool's.
        length: u8,
    },
    /// The pool is going away.
    #[error("IPPool {pool} is being deleted")]
    Deleting {
        /// The pool.
        pool: String,
    },
}

/// Addresses of a subnet that are never given to pods (unless the subnet has only one or two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// First address of an IPv4 subnet.
    Network,
    /// Last address of an IPv4 subnet.
    Broadcast,
    /// The subnet's gateway.
    Gateway,
    /// First address of an IPv6 subnet (RFC 4291, 2.6.1).
    SubnetRouterAnycast,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network address",
            Self::Broadcast => "broadcast address",
            Self::Gateway => "gateway",
            Self::SubnetRouterAnycast => "subnet-router anycast address",
        })
    }
}
