//! Claims in the protocol's terms.
//!
//! Owns the translation. Must never decide.

use std::net::IpAddr;

use trunkline_ipam::proto;

use crate::ledger::Ledger;
use crate::objects::Claim;

/// One claim of ListByNode.
pub(super) fn claim(ledger: &Ledger, claim: &Claim) -> proto::Claim {
    let owner = &claim.spec.owner;
    proto::Claim {
        pod: Some(proto::Pod {
            namespace: owner.pod_namespace.clone(),
            name: owner.pod_name.clone(),
            uid: owner.pod_uid.clone(),
        }),
        sandbox: owner.sandbox.clone(),
        interface: owner.interface.clone(),
        nad: owner.nad.clone(),
        allocation: Some(allocation(ledger, claim, false)),
    }
}

/// One address. A pool that is gone tells no subnet: the address then stands alone.
pub(super) fn allocation(ledger: &Ledger, claim: &Claim, created: bool) -> proto::Allocation {
    let address = claim.spec.address;
    let alone = if address.is_ipv4() { 32 } else { 128 };
    let subnet = ledger.subnet(&claim.spec.pool);
    let (length, gateway, vlan) = match subnet {
        Some((length, gateway, vlan)) => (length, Some(gateway), vlan),
        None => (alone, None, 0),
    };
    proto::Allocation {
        pool: claim.spec.pool.clone(),
        address: address.to_string(),
        prefix_length: u32::from(length),
        gateway: gateway.as_ref().map(IpAddr::to_string).unwrap_or_default(),
        vlan: u32::from(vlan),
        object: claim.name.clone(),
        created,
    }
}
