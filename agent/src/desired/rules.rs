//! The rules, in the order in which a user would want to hear of them: network, bridge, VLAN, addresses, MTU.
//!
//! Owns section 4 of the design as far as it concerns a pod. Must never do I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trunkline_api::{
    AgentConfig, BridgeName, DefaultMtu, IPPool, IpRequest, Mtu, Nad, NadConfig, NetworkAttachmentDefinition,
    NetworkSelection, VlanId,
};

use super::attachment::{Attachment, Desired, DesiredWarning, NadKey, PodRef, PoolChoice};
use super::bridges::{BridgeFacts, BridgeObstacle};
use super::error::DesiredError;
use super::names::Names;

/// The objects that a pod's networks are made of, as a cache or an API server knows them.
pub trait Catalogue {
    /// The NAD of this name, if there is one.
    fn nad(&self, namespace: &str, name: &str) -> Option<Arc<NetworkAttachmentDefinition>>;
    /// The `IPPool` of this name, if there is one.
    fn pool(&self, name: &str) -> Option<Arc<IPPool>>;
}

/// Everything that decides what a pod gets.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a PodRef,
    /// This node's name, for messages.
    pub node: &'a str,
    /// The annotation, parsed.
    pub selections: &'a [NetworkSelection],
    /// Interface names that the pod has from others; `eth0` and `lo` count anyway.
    pub taken: &'a BTreeSet<String>,
    /// The configuration in force.
    pub config: &'a AgentConfig,
    /// This node's bridges; one that is configured and missing here counts as not made yet.
    pub bridges: &'a BTreeMap<BridgeName, BridgeFacts>,
    /// NADs and pools.
    pub catalogue: &'a dyn Catalogue,
}

/// What the pod should have on this node; the first thing that is wrong ends it, since a pod is one unit.
pub fn desired(inputs: &Inputs<'_>) -> Result<Desired, DesiredError> {
    let mut names = Names::new(&inputs.config.interface_prefix, inputs.taken, inputs.selections);
    let mut result = Desired::default();
    for selection in inputs.selections {
        let nad = NadKey { namespace: selection.namespace.clone(), name: selection.name.clone() };
        let request = Request { inputs, nad, selection };
        match request.network()? {
            None => result.left_alone.push(request.nad),
            Some(network) => {
                let (attachment, warning) = request.attachment(*network, &mut names)?;
                result.attachments.push(attachment);
                result.warnings.extend(warning);
            }
        }
    }
    Ok(result)
}

/// One element of the annotation, on its way.
struct Request<'a> {
    inputs: &'a Inputs<'a>,
    nad: NadKey,
    selection: &'a NetworkSelection,
}

impl Request<'_> {
    /// The network's configuration; `None` where another plugin serves it.
    fn network(&self) -> Result<Option<Box<NadConfig>>, DesiredError> {
        let NadKey { namespace, name } = &self.nad;
        let Some(object) = self.inputs.catalogue.nad(namespace, name) else {
            return Err(DesiredError::NadMissing { nad: self.nad.clone() });
        };
        match NadConfig::parse(object.spec.config.as_deref()) {
            Ok(Nad::Ours(config)) => Ok(Some(config)),
            Ok(Nad::NotOurs { .. }) => Ok(None),
            Err(problem) => Err(DesiredError::NadInvalid { nad: self.nad.clone(), problem }),
        }
    }

    fn attachment(
        &self,
        network: NadConfig,
        names: &mut Names<'_>,
    ) -> Result<(Attachment, Option<DesiredWarning>), DesiredError> {
        self.may_use(&network)?;
        let bridge = self.bridge(network.bridge.as_ref())?;
        let (pools, pool_vlans) = self.pools(&network)?;
        let vlan = self.vlan(network.vlan, &pools, &pool_vlans)?;
        self.check_ips(&pools)?;
        let attachment = Attachment {
            interface: names.name(self.selection, &self.nad, self.inputs.taken)?,
            nad: self.nad.clone(),
            bridge: bridge.name.clone(),
            vlan,
            mtu: self.mtu(network.mtu, bridge)?,
            mac: self.selection.mac,
            requested_ips: self.selection.ips.iter().map(|request| request.address).collect(),
            pools,
            addresses: network.addresses,
            routes: network.routes,
            dns: network.dns,
        };
        if attachment.serves_v6() && !attachment.mtu.carries_ipv6() {
            return Err(DesiredError::MtuTooSmallForV6 { nad: self.nad.clone(), mtu: attachment.mtu });
        }
        let warning = (!bridge.carries(vlan)).then(|| self.not_carried(&attachment));
        Ok((attachment, warning))
    }

    fn may_use(&self, network: &NadConfig) -> Result<(), DesiredError> {
        let Inputs { pod, node, config, .. } = self.inputs;
        if config.namespace_isolation && self.nad.namespace != pod.namespace {
            let pod_namespace = pod.namespace.clone();
            return Err(DesiredError::OtherNamespace { nad: self.nad.clone(), pod_namespace });
        }
        if network.ipam.is_some() && !config.gates.antrea_ipam {
            return Err(DesiredError::IpamGateOff { nad: self.nad.clone(), node: (*node).to_owned() });
        }
        Ok(())
    }

    fn bridge(&self, named: Option<&BridgeName>) -> Result<&BridgeFacts, DesiredError> {
        let Inputs { node, config, bridges: facts, .. } = self.inputs;
        let (nad, node) = (self.nad.clone(), (*node).to_owned());
        let bridges = || config.bridges.iter().map(|bridge| bridge.name.clone()).collect();
        let name = match (named, config.bridges.as_slice()) {
            (_, []) => return Err(DesiredError::NoBridge { nad, node }),
            (Some(bridge), all) if all.iter().all(|each| each.name != *bridge) => {
                return Err(DesiredError::BridgeUnknown {
                    nad,
                    bridge: bridge.clone(),
                    node,
                    bridges: bridges(),
                });
            }
            (Some(bridge), _) => bridge,
            (None, [only]) => &only.name,
            (None, _) => return Err(DesiredError::BridgeAmbiguous { nad, node, bridges: bridges() }),
        };
        let obstacle = match facts.get(name) {
            Some(BridgeFacts { obstacle: Some(obstacle), .. }) => obstacle.clone(),
            Some(bridge) => return Ok(bridge),
            None => BridgeObstacle::Pending { reason: "it is not set up yet".to_owned() },
        };
        Err(DesiredError::BridgeNotReady { nad, bridge: name.clone(), node, obstacle: Box::new(obstacle) })
    }

    /// The pools in the NAD's order, and each one's VLAN.
    fn pools(&self, network: &NadConfig) -> Result<(Vec<PoolChoice>, Vec<Option<VlanId>>), DesiredError> {
        let listed = network.ipam.as_ref().map_or(&[][..], |ipam| &ipam.pools);
        let read = |name: &String| {
            let missing = || DesiredError::PoolMissing { nad: self.nad.clone(), pool: name.clone() };
            let pool = self.inputs.catalogue.pool(name).ok_or_else(missing)?;
            let invalid =
                |problem| DesiredError::PoolInvalid { nad: self.nad.clone(), pool: name.clone(), problem };
            let info = &pool.spec.subnet_info;
            let subnet = info.subnet().map_err(|problem| invalid(problem.to_string()))?;
            let vlan = info.vlan_id().map_err(|problem| invalid(format!("subnetInfo.vlan: {problem}")))?;
            Ok((PoolChoice { name: name.clone(), subnet }, vlan))
        };
        listed.iter().map(read).collect::<Result<Vec<_>, _>>().map(|pairs| pairs.into_iter().unzip())
    }

    /// The NAD's VLAN wins; pools on different ones need it.
    fn vlan(
        &self,
        of_nad: Option<VlanId>,
        pools: &[PoolChoice],
        of_pools: &[Option<VlanId>],
    ) -> Result<Option<VlanId>, DesiredError> {
        if of_nad.is_some() {
            return Ok(of_nad);
        }
        let first = of_pools.first().copied().flatten();
        if of_pools.iter().all(|vlan| *vlan == first) {
            return Ok(first);
        }
        let label =
            |vlan: &Option<VlanId>| vlan.map_or_else(|| "untagged".to_owned(), |id| format!("VLAN {id}"));
        let pools = pools
            .iter()
            .zip(of_pools)
            .map(|(pool, vlan)| format!("{}: {}", pool.name, label(vlan)))
            .collect();
        Err(DesiredError::PoolVlansDiffer { nad: self.nad.clone(), pools })
    }

    /// Requested addresses are honoured or refused; whether one is free is the allocator's question.
    fn check_ips(&self, pools: &[PoolChoice]) -> Result<(), DesiredError> {
        let ips = &self.selection.ips;
        if pools.is_empty() && !ips.is_empty() {
            let ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(DesiredError::IpsWithoutPool { nad: self.nad.clone(), ips });
        }
        for (index, ip) in ips.iter().enumerate() {
            let fits = |pool: &&PoolChoice| {
                pool.subnet.contains(&ip.address)
                    && ip.prefix_length.is_none_or(|length| length == pool.subnet.prefix_len())
            };
            if !pools.iter().any(|pool| fits(&pool)) {
                let subnets =
                    pools.iter().map(|pool| format!("{} ({})", pool.subnet.trunc(), pool.name)).collect();
                return Err(DesiredError::IpOutsidePools {
                    nad: self.nad.clone(),
                    ip: ip.to_string(),
                    subnets,
                });
            }
            let same_family = |earlier: &&IpRequest| earlier.address.is_ipv4() == ip.address.is_ipv4();
            if let Some(earlier) = ips[..index].iter().find(same_family) {
                let (first, second) = (earlier.to_string(), ip.to_string());
                return Err(DesiredError::TwoIpsOfOneFamily { nad: self.nad.clone(), first, second });
            }
        }
        Ok(())
    }

    fn mtu(&self, of_nad: Option<Mtu>, bridge: &BridgeFacts) -> Result<Mtu, DesiredError> {
        match (of_nad, bridge.uplink_mtu) {
            (Some(mtu), Some(limit)) if mtu > limit => Err(DesiredError::MtuTooLarge {
                nad: self.nad.clone(),
                mtu,
                limit,
                bridge: bridge.name.clone(),
                node: self.inputs.node.to_owned(),
            }),
            (Some(mtu), _) => Ok(mtu),
            (None, limit) => Ok(match self.inputs.config.default_mtu {
                DefaultMtu::Fixed(mtu) => limit.map_or(mtu, |limit| mtu.min(limit)),
                DefaultMtu::Uplink => limit.unwrap_or(Mtu::DEFAULT),
            }),
        }
    }

    fn not_carried(&self, attachment: &Attachment) -> DesiredWarning {
        let (interface, nad) = (attachment.interface.clone(), self.nad.clone());
        let (bridge, node) = (attachment.bridge.clone(), self.inputs.node.to_owned());
        match attachment.vlan {
            Some(vlan) => DesiredWarning::VlanNotCarried { interface, nad, vlan, bridge, node },
            None => DesiredWarning::UntaggedNotCarried { interface, nad, bridge, node },
        }
    }
}
