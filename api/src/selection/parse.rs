//! Reads the annotation in both forms, and refuses what cannot be honoured.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{IpRequest, NetworkSelection, SelectionError};
use crate::{IfName, MacAddr, json, k8s_name};

/// Keys that are read.
const KEYS: [&str; 5] = ["name", "namespace", "interface", "mac", "ips"];
/// Keys of the specification that this version refuses unless they say nothing.
const NOT_YET: [&str; 6] =
    ["default-route", "bandwidth", "portMappings", "infiniband-guid", "cni-args", "ipam-claim-reference"];
/// Names that a pod's namespace already has.
const TAKEN: [&str; 2] = ["eth0", "lo"];

/// Reads the annotation's text; an element that names no namespace means `pod_namespace`. Blank text asks for
/// nothing. The same network twice is two attachments.
pub fn parse_networks(text: &str, pod_namespace: &str) -> Result<Vec<NetworkSelection>, SelectionError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // The community's Go client tells the forms apart in this way.
    let selections = if text.contains(['[', '{', '"']) {
        json_form(text, pod_namespace)?
    } else {
        let elements = text.split(',').enumerate();
        elements
            .map(|(index, token)| short(token.trim(), pod_namespace).map_err(at(index)))
            .collect::<Result<_, _>>()?
    };
    check_together(&selections)?;
    Ok(selections)
}

fn json_form(text: &str, pod_namespace: &str) -> Result<Vec<NetworkSelection>, SelectionError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| SelectionError::Malformed(format!("not valid JSON: {error}")))?;
    let Value::Array(elements) = &value else {
        let problem = format!("{} is not a list; write [{{\"name\": …}}]", json::shown(&value));
        return Err(SelectionError::Malformed(problem));
    };
    let elements = elements.iter().enumerate();
    elements.map(|(index, element)| long(element, pod_namespace).map_err(at(index))).collect()
}

fn at(index: usize) -> impl FnOnce(String) -> SelectionError {
    move |problem| SelectionError::Element { index, problem }
}

/// `[<namespace>/]<name>[@<interface>]`
fn short(token: &str, pod_namespace: &str) -> Result<NetworkSelection, String> {
    if token.is_empty() {
        return Err("is empty; write [<namespace>/]<name>[@<interface>]".to_owned());
    }
    let (network, interface) = match token.split_once('@') {
        Some((network, interface)) => (network, Some(interface)),
        None => (token, None),
    };
    let (namespace, name) = network.split_once('/').unwrap_or((pod_namespace, network));
    Ok(NetworkSelection {
        namespace: namespace_of(namespace)?,
        name: name_of(name)?,
        interface: interface.map(interface_of).transpose()?,
        mac: None,
        ips: Vec::new(),
    })
}

fn long(element: &Value, pod_namespace: &str) -> Result<NetworkSelection, String> {
    let fields = json::object(element)?;
    for (key, value) in fields {
        check_key(key, value)?;
    }
    let name = text(fields, "name")?.ok_or("name: is missing; every element names a network")?;
    Ok(NetworkSelection {
        namespace: namespace_of(text(fields, "namespace")?.unwrap_or(pod_namespace))?,
        name: name_of(name)?,
        interface: text(fields, "interface")?.map(interface_of).transpose()?,
        mac: text(fields, "mac")?.map(mac_of).transpose()?,
        ips: fields.get("ips").map_or_else(|| Ok(Vec::new()), ips_of)?,
    })
}

fn check_key(key: &str, value: &Value) -> Result<(), String> {
    if KEYS.contains(&key) {
        return Ok(());
    }
    if NOT_YET.contains(&key) {
        let refusal =
            || format!("{key}: {} cannot be honoured in this version; leave it out", json::shown(value));
        return if json::is_empty(value) { Ok(()) } else { Err(refusal()) };
    }
    // Names with a dot belong to others (NPWG specification 1.3, section 4.1.2.1).
    if key.contains('.') {
        return Ok(());
    }
    Err(format!("{key}: unknown key; known here: {}", KEYS.join(", ")))
}

/// A key's text; null and "" count as absent, as for the community's Go client.
fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let text = json::text(value).map_err(|problem| format!("{key}: {problem}"))?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        }
    }
}

fn namespace_of(text: &str) -> Result<String, String> {
    let refusal =
        || format!("namespace: {text:?} cannot be a namespace; use lower-case letters, digits and '-'");
    if k8s_name::is_label(text) { Ok(text.to_owned()) } else { Err(refusal()) }
}

fn name_of(text: &str) -> Result<String, String> {
    let right = "use lower-case letters, digits, '-' and '.'";
    let refusal = || format!("name: {text:?} cannot be the name of a NetworkAttachmentDefinition; {right}");
    if k8s_name::is_subdomain(text) { Ok(text.to_owned()) } else { Err(refusal()) }
}

fn interface_of(text: &str) -> Result<IfName, String> {
    if TAKEN.contains(&text) {
        return Err(format!("interface: {text:?} is taken in every pod; use another name, or leave it out"));
    }
    text.parse().map_err(|error| format!("interface: {error}"))
}

fn mac_of(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|error| format!("mac: {error}"))?;
    if mac.is_unicast() {
        return Ok(mac);
    }
    let kind = if mac.is_zero() { "all zero" } else { "a group address" };
    Err(format!("mac: {text:?} is {kind}; use a unicast address such as \"02:00:00:00:00:01\""))
}

fn ips_of(value: &Value) -> Result<Vec<IpRequest>, String> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let mut ips: Vec<IpRequest> = Vec::new();
    for (index, item) in json::list(value).map_err(|problem| format!("ips: {problem}"))?.iter().enumerate() {
        let ip = ip_of(item).map_err(|problem| format!("ips[{index}]: {problem}"))?;
        if ips.iter().any(|other| other.address == ip.address) {
            return Err(format!("ips[{index}]: {} is listed twice", ip.address));
        }
        ips.push(ip);
    }
    Ok(ips)
}

fn ip_of(value: &Value) -> Result<IpRequest, String> {
    let text = json::text(value)?;
    let refusal = || format!("{text:?} is not an IP address, with or without a prefix length");
    let ip = if text.contains('/') {
        let net: IpNet = text.parse().map_err(|_| refusal())?;
        IpRequest { address: net.addr(), prefix_length: Some(net.prefix_len()) }
    } else {
        IpRequest { address: text.parse().map_err(|_| refusal())?, prefix_length: None }
    };
    let address = ip.address;
    let usable = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    let usable = usable && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if usable { Ok(ip) } else { Err(format!("{address} cannot be an interface's address")) }
}

fn check_together(selections: &[NetworkSelection]) -> Result<(), SelectionError> {
    for (index, selection) in selections.iter().enumerate() {
        for (earlier, other) in selections[..index].iter().enumerate() {
            if let Some(name) =
                selection.interface.as_ref().filter(|_| selection.interface == other.interface)
            {
                return Err(at(index)(format!(
                    "interface: \"{name}\" is already asked for by element {earlier}"
                )));
            }
            if let Some(mac) = selection.mac.filter(|_| selection.mac == other.mac) {
                return Err(at(index)(format!("mac: \"{mac}\" is already asked for by element {earlier}")));
            }
        }
    }
    Ok(())
}
