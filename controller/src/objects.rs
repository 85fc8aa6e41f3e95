//! API objects in the ledger's terms.
//!
//! Owns the translation, and that a malformed object becomes a reason rather than a failure. Must never decide.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use trunkline_api::{
    IPAllocation, IPAllocationSpec, IPPool, Nad, NadConfig, NetworkAttachmentDefinition, POOL_FINALIZER,
};
use trunkline_ipam::{Owner, PoolSpec};

/// A pool object, as far as the controller needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolObject {
    /// For the allocator.
    pub spec: PoolSpec,
    /// Object UID, for Events.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// It carries our finalizer.
    pub guarded: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Where a restarted controller should go on.
    pub cursor: Option<String>,
    /// `status.usage` as written: total and used.
    pub usage: Option<(i64, i64)>,
    /// `status.conditions` as written.
    pub conditions: Vec<Condition>,
}

/// One claimed address, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Object name.
    pub name: String,
    /// Object UID.
    pub uid: String,
    /// What is claimed, and for whom.
    pub spec: IPAllocationSpec,
}

/// What the controller needs of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NadFacts {
    /// VLAN that overrides the pools'.
    pub vlan: Option<u16>,
    /// Bridge that the network names.
    pub bridge: Option<String>,
    /// Pools it takes addresses from.
    pub pools: Vec<String>,
}

impl PoolObject {
    /// Reads a pool.
    pub fn read(pool: &IPPool) -> Self {
        let subnet = &pool.spec.subnet_info;
        let status = pool.status.as_ref();
        let spec = PoolSpec {
            name: pool.name_any(),
            subnet: subnet.subnet().map_err(|error| error.to_string()),
            ranges: pool
                .spec
                .ip_ranges
                .iter()
                .map(|range| range.bounds().map_err(|e| e.to_string()))
                .collect(),
            vlan: subnet.vlan.unwrap_or(0),
        };
        Self {
            spec,
            uid: pool.uid().unwrap_or_default(),
            generation: pool.metadata.generation,
            guarded: pool.finalizers().iter().any(|finalizer| finalizer == POOL_FINALIZER),
            deleting: pool.metadata.deletion_timestamp.is_some(),
            cursor: status.and_then(|status| status.cursor.clone()),
            usage: status.and_then(|status| status.usage).map(|usage| (usage.total, usage.used)),
            conditions: status.map(|status| status.conditions.clone()).unwrap_or_default(),
        }
    }
}

impl Claim {
    /// Reads an allocation.
    pub fn read(allocation: &IPAllocation) -> Self {
        Self {
            name: allocation.name_any(),
            uid: allocation.uid().unwrap_or_default(),
            spec: allocation.spec.clone(),
        }
    }

    /// Whose it is, for the allocator.
    pub fn owner(&self) -> Owner {
        let owner = &self.spec.owner;
        Owner {
            pod_uid: owner.pod_uid.clone(),
            interface: owner.interface.clone(),
            namespace: owner.pod_namespace.clone(),
            pod: owner.pod_name.clone(),
        }
    }
}

impl NadFacts {
    /// Reads a network. Others' and unreadable ones use no pool of ours.
    pub fn read(nad: &NetworkAttachmentDefinition) -> Self {
        match NadConfig::parse(nad.spec.config.as_deref()) {
            Ok(Nad::Ours(config)) => Self {
                vlan: config.vlan.map(u16::from),
                bridge: config.bridge.map(|bridge| bridge.to_string()),
                pools: config.ipam.map(|ipam| ipam.pools).unwrap_or_default(),
            },
            Ok(Nad::NotOurs { .. }) | Err(_) => Self::default(),
        }
    }
}

/// "namespace/name", the key of namespaced objects.
pub fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
