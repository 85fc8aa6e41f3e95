//! Calls of agents, checked.
//!
//! Owns the bounds of every field. Must never look at pools.

use tonic::Status;
use trunkline_ipam::{Requested, proto};

use crate::ledger::{InterfaceAsk, Request};

/// Interfaces of one pod; far more than a pod ever asks for.
const MAX_INTERFACES: usize = 64;
/// Pools of one interface.
const MAX_POOLS: usize = 64;

/// Reads an Allocate call.
pub(super) fn allocate(request: proto::AllocateRequest) -> Result<Request, Status> {
    let pod = request.pod.ok_or_else(|| missing("pod"))?;
    for (name, value) in [("pod.namespace", &pod.namespace), ("pod.name", &pod.name), ("pod.uid", &pod.uid)] {
        if value.is_empty() {
            return Err(missing(name));
        }
    }
    if request.sandbox.is_empty() {
        return Err(missing("sandbox"));
    }
    if request.interfaces.len() > MAX_INTERFACES {
        let text =
            format!("{} interfaces are asked for, at most {MAX_INTERFACES} can be", request.interfaces.len());
        return Err(Status::invalid_argument(text));
    }
    let interfaces: Vec<_> = request.interfaces.into_iter().map(interface).collect::<Result<_, _>>()?;
    for (index, ask) in interfaces.iter().enumerate() {
        if interfaces[..index].iter().any(|earlier| earlier.interface == ask.interface) {
            return Err(Status::invalid_argument(format!("interface {} is asked for twice", ask.interface)));
        }
    }
    let (namespace, name, uid) = (pod.namespace, pod.name, pod.uid);
    Ok(Request { namespace, pod: name, uid, sandbox: request.sandbox, node: request.node, interfaces })
}

fn interface(request: proto::InterfaceRequest) -> Result<InterfaceAsk, Status> {
    let proto::InterfaceRequest { interface, nad, pools, vlan, ips } = request;
    if interface.is_empty() || interface.len() > 15 {
        return Err(Status::invalid_argument(format!("interface {interface:?} must have 1 to 15 bytes")));
    }
    let on = |text: String| Status::invalid_argument(format!("interface {interface} (NAD {nad}): {text}"));
    if nad.is_empty() {
        return Err(missing(&format!("nad of interface {interface}")));
    }
    if pools.is_empty() {
        return Err(on("no IPPool is named".to_owned()));
    }
    if pools.len() > MAX_POOLS {
        return Err(on(format!("{} IPPools are named, at most {MAX_POOLS} can be", pools.len())));
    }
    let vlan = match vlan {
        None => None,
        Some(vlan) => match u16::try_from(vlan) {
            Ok(tag) if tag <= 4094 => Some(tag),
            _ => return Err(on(format!("vlan {vlan} is not in 0-4094"))),
        },
    };
    let requested: Vec<_> = ips
        .iter()
        .map(|text| Requested::parse(text))
        .collect::<Result<_, _>>()
        .map_err(|e| on(e.to_string()))?;
    Ok(InterfaceAsk { interface, nad, pools, vlan, requested })
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> proto::AllocateRequest {
        proto::AllocateRequest {
            pod: Some(proto::Pod { namespace: "a".into(), name: "p".into(), uid: "u".into() }),
            sandbox: "s".into(),
            node: "n1".into(),
            interfaces: vec![proto::InterfaceRequest {
                interface: "eth1".into(),
                nad: "a/net".into(),
                pools: vec!["pool".into()],
                vlan: Some(100),
                ips: vec!["10.0.0.5/24".into()],
            }],
        }
    }

    #[test]
    fn a_call_is_checked_field_by_field() {
        assert!(allocate(good()).is_ok());
        let cases: [(fn(&mut proto::AllocateRequest), &str); 9] = [
            (|r| r.pod = None, "pod is missing"),
            (|r| r.sandbox.clear(), "sandbox is missing"),
            (|r| r.pod.get_or_insert_default().uid.clear(), "pod.uid is missing"),
            (|r| r.interfaces[0].interface = "an-interface-too-long".into(), "must have 1 to 15 bytes"),
            (|r| r.interfaces[0].pools.clear(), "interface eth1 (NAD a/net): no IPPool is named"),
            (|r| r.interfaces[0].vlan = Some(4095), "vlan 4095 is not in 0-4094"),
            (|r| r.interfaces[0].ips = vec!["x".into()], "requested address \"x\" is not an IP address"),
            (|r| r.interfaces.push(r.interfaces[0].clone()), "interface eth1 is asked for twice"),
            (|r| r.interfaces[0].nad.clear(), "nad of interface eth1 is missing"),
        ];
        for (spoil, expected) in cases {
            let mut request = good();
            spoil(&mut request);
            let status = allocate(request).expect_err(expected);
            assert!(status.message().contains(expected), "{} does not say {expected}", status.message());
        }
    }
}
