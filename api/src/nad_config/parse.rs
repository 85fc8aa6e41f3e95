//! Reads `spec.config` key by key, so that each refusal can name its own.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{Dns, Nad, NadConfig, NadConfigError, NadIpam, Route, StaticAddress};
use crate::pool::MAX_POOL_NAME;
use crate::{Mtu, VlanId, json, k8s_name};

/// Every version of the CNI specification that was released.
const CNI_VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

const KEYS: [&str; 11] = [
    "cniVersion",
    "name",
    "type",
    "networkType",
    "mtu",
    "vlan",
    "bridge",
    "ipam",
    "routes",
    "addresses",
    "dns",
];
const IPAM_KEYS: [&str; 5] = ["type", "ippools", "routes", "addresses", "dns"];

type Fields = Map<String, Value>;
type Result<T, E = NadConfigError> = std::result::Result<T, E>;

pub(super) fn parse(config: Option<&str>) -> Result<Nad> {
    let text = config.unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(Nad::NotOurs { kind: String::new() });
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| NadConfigError::Malformed(format!("not valid JSON: {error}")))?;
    let fields = json::object(&value).map_err(NadConfigError::Malformed)?;
    if let Some(plugins) = fields.get("plugins") {
        return conflist(plugins);
    }
    match fields.get("type").and_then(Value::as_str) {
        Some("antrea") => network(fields).map(|config| Nad::Ours(Box::new(config))),
        kind => Ok(Nad::NotOurs { kind: kind.unwrap_or_default().to_owned() }),
    }
}

/// A list of plugins is another's business unless one of them is ours.
fn conflist(plugins: &Value) -> Result<Nad> {
    let types = plugins.as_array().into_iter().flatten().filter_map(|plugin| plugin["type"].as_str());
    let types: Vec<&str> = types.collect();
    if types.contains(&"antrea") {
        return Err(refuse(
            "plugins",
            "a list of plugins is not supported; write the antrea plugin's own keys",
        ));
    }
    Ok(Nad::NotOurs { kind: types.join(",") })
}

fn network(fields: &Fields) -> Result<NadConfig> {
    known(fields, "", &KEYS)?;
    version(fields)?;
    network_type(fields)?;
    let ipam = present(fields, "ipam").map(ipam_fields).transpose()?;
    let place = |key: &'static str| shared(fields, ipam, key);
    let config = NadConfig {
        name: optional(fields, "name", |value| json::text(value).map(str::to_owned))?,
        mtu: optional(fields, "mtu", mtu)?.flatten(),
        vlan: optional(fields, "vlan", vlan)?.flatten(),
        bridge: optional(fields, "bridge", json::parsed)?,
        ipam: ipam.map(pools).transpose()?,
        routes: place("routes")?.map_or_else(|| Ok(Vec::new()), |(key, value)| routes(&key, value))?,
        addresses: place("addresses")?
            .map_or_else(|| Ok(Vec::new()), |(key, value)| addresses(&key, value))?,
        dns: place("dns")?.map_or_else(|| Ok(Dns::default()), |(key, value)| dns(&key, value))?,
    };
    check_together(&config)?;
    Ok(config)
}

fn check_together(config: &NadConfig) -> Result<()> {
    if config.ipam.as_ref().is_some_and(|ipam| ipam.pools.is_empty()) && config.addresses.is_empty() {
        let right = "name an IPPool in ipam.ippools, or leave ipam out for layer 2 only";
        return Err(refuse("ipam", format!("has neither ippools nor addresses; {right}")));
    }
    let v6 = config.addresses.iter().find(|address| address.address.addr().is_ipv6());
    if let (Some(mtu), Some(v6)) = (config.mtu, v6)
        && !mtu.carries_ipv6()
    {
        let least = Mtu::MIN_IPV6;
        return Err(refuse("mtu", format!("{mtu} cannot carry {}; IPv6 needs at least {least}", v6.address)));
    }
    Ok(())
}

fn version(fields: &Fields) -> Result<()> {
    optional(fields, "cniVersion", |value| {
        let version = json::text(value)?;
        let released = CNI_VERSIONS.contains(&version);
        let right =
            || format!("{version:?} is not a released CNI version; use one of {}", CNI_VERSIONS.join(", "));
        if released { Ok(()) } else { Err(right()) }
    })?;
    Ok(())
}

fn network_type(fields: &Fields) -> Result<()> {
    match present(fields, "networkType") {
        None => Err(refuse("networkType", "is missing; use \"vlan\"")),
        Some(Value::String(kind)) if kind == "vlan" => Ok(()),
        Some(Value::String(kind)) if kind == "sriov" => {
            Err(refuse("networkType", "\"sriov\" is not supported in this version; use \"vlan\""))
        }
        Some(other) => {
            let shown = json::shown(other);
            Err(refuse("networkType", format!("{shown} is unknown; use \"vlan\"")))
        }
    }
}

fn mtu(value: &Value) -> Result<Option<Mtu>, String> {
    if value.as_u64() == Some(0) {
        return Ok(None);
    }
    let mtu =
        value.as_u64().and_then(|bytes| u32::try_from(bytes).ok()).and_then(|mtu| Mtu::try_from(mtu).ok());
    mtu.map(Some).ok_or_else(|| {
        format!("{} is not an MTU; use 68 to 65535 bytes, or 0 for the default", json::shown(value))
    })
}

fn vlan(value: &Value) -> Result<Option<VlanId>, String> {
    let tag = value.as_u64().and_then(|tag| u16::try_from(tag).ok());
    let vlan = tag.and_then(|tag| VlanId::from_tag(tag).ok());
    vlan.ok_or_else(|| format!("{} is not a VLAN; use 1 to 4094, or 0 for untagged", json::shown(value)))
}

fn ipam_fields(value: &Value) -> Result<&Fields> {
    let fields = json::object(value).map_err(|problem| refuse("ipam", problem))?;
    known(fields, "ipam.", &IPAM_KEYS)?;
    match present(fields, "type") {
        None => Err(refuse("ipam.type", "is missing; use \"antrea\", or leave ipam out for layer 2 only")),
        Some(Value::String(kind)) if kind == "antrea" => Ok(fields),
        Some(other) => {
            Err(refuse("ipam.type", format!("{} is not supported; use \"antrea\"", json::shown(other))))
        }
    }
}

fn pools(fields: &Fields) -> Result<NadIpam> {
    let Some(value) = present(fields, "ippools") else { return Ok(NadIpam::default()) };
    let mut pools: Vec<String> = Vec::new();
    for (key, item) in items("ipam.ippools", value)? {
        let pool = json::text(item).map_err(|problem| refuse(&key, problem))?;
        if !k8s_name::is_subdomain(pool) || pool.len() > MAX_POOL_NAME {
            return Err(refuse(&key, format!("{pool:?} cannot be the name of an IPPool")));
        }
        if pools.iter().any(|other| other == pool) {
            return Err(refuse(&key, format!("{pool:?} is listed twice")));
        }
        pools.push(pool.to_owned());
    }
    Ok(NadIpam { pools })
}

/// `routes`, `addresses` and `dns` live in `ipam` by habit and at the top by specification; either is taken.
fn shared<'a>(
    fields: &'a Fields,
    ipam: Option<&'a Fields>,
    key: &'static str,
) -> Result<Option<(String, &'a Value)>> {
    let inner = ipam.and_then(|ipam| present(ipam, key));
    match (present(fields, key), inner) {
        (Some(_), Some(_)) => Err(refuse(key, format!("is given here and as ipam.{key}; keep one"))),
        (Some(value), None) => Ok(Some((key.to_owned(), value))),
        (None, Some(value)) => Ok(Some((format!("ipam.{key}"), value))),
        (None, None) => Ok(None),
    }
}

fn routes(key: &str, value: &Value) -> Result<Vec<Route>> {
    items(key, value)?.into_iter().map(|(key, item)| route(&key, item)).collect()
}

fn route(key: &str, value: &Value) -> Result<Route> {
    let fields = json::object(value).map_err(|problem| refuse(key, problem))?;
    known(fields, &format!("{key}."), &["dst", "gw"])?;
    let dst_key = format!("{key}.dst");
    let dst = present(fields, "dst").ok_or_else(|| refuse(&dst_key, "is missing"))?;
    let dst = prefix(dst).map_err(|problem| refuse(&dst_key, problem))?.trunc();
    if dst.prefix_len() == 0 {
        let problem =
            format!("{dst} would change the pod's default route, which cannot be honoured in this version");
        return Err(refuse(&dst_key, problem));
    }
    let gw_key = format!("{key}.gw");
    let gw = present(fields, "gw").map(address).transpose().map_err(|problem| refuse(&gw_key, problem))?;
    match gw {
        Some(gw) if gw.is_ipv4() != dst.addr().is_ipv4() => {
            Err(refuse(&gw_key, format!("{gw} is not of the family of dst {dst}")))
        }
        gw => Ok(Route { dst, gw }),
    }
}

fn addresses(key: &str, value: &Value) -> Result<Vec<StaticAddress>> {
    items(key, value)?.into_iter().map(|(key, item)| static_address(&key, item)).collect()
}

fn static_address(key: &str, value: &Value) -> Result<StaticAddress> {
    let fields = json::object(value).map_err(|problem| refuse(key, problem))?;
    known(fields, &format!("{key}."), &["address", "gateway"])?;
    let address_key = format!("{key}.address");
    let value = present(fields, "address").ok_or_else(|| refuse(&address_key, "is missing"))?;
    let net = prefix(value).map_err(|problem| refuse(&address_key, problem))?;
    let gateway_key = format!("{key}.gateway");
    let gateway = present(fields, "gateway").map(address).transpose();
    let gateway = gateway.map_err(|problem| refuse(&gateway_key, problem))?;
    match gateway {
        Some(gateway) if !net.contains(&gateway) => {
            Err(refuse(&gateway_key, format!("{gateway} is not in the subnet of {net}")))
        }
        gateway => Ok(StaticAddress { address: net, gateway }),
    }
}

fn dns(key: &str, value: &Value) -> Result<Dns> {
    let fields = json::object(value).map_err(|problem| refuse(key, problem))?;
    known(fields, &format!("{key}."), &["nameservers", "domain", "search", "options"])?;
    let texts = |name: &str| {
        let Some(value) = present(fields, name) else { return Ok(Vec::new()) };
        let items = items(&format!("{key}.{name}"), value)?.into_iter();
        let texts = items.map(|(key, item)| match json::text(item) {
            Ok(text) => Ok(text.to_owned()),
            Err(problem) => Err(refuse(&key, problem)),
        });
        texts.collect::<Result<Vec<String>>>()
    };
    let domain = present(fields, "domain").map(json::text).transpose();
    let domain = domain.map_err(|problem| refuse(&format!("{key}.domain"), problem))?;
    let dns = Dns {
        nameservers: texts("nameservers")?,
        domain: domain.map(str::to_owned),
        search: texts("search")?,
        options: texts("options")?,
    };
    let wrong = dns.nameservers.iter().enumerate().find(|(_, server)| server.parse::<IpAddr>().is_err());
    match wrong {
        None => Ok(dns),
        Some((index, server)) => {
            Err(refuse(&format!("{key}.nameservers[{index}]"), format!("{server:?} is not an IP address")))
        }
    }
}

fn prefix(value: &Value) -> Result<IpNet, String> {
    let net = json::text(value)?.parse();
    net.map_err(|_| {
        format!("{} is not an address with a prefix length, such as \"10.1.0.0/16\"", json::shown(value))
    })
}

fn address(value: &Value) -> Result<IpAddr, String> {
    json::text(value)?.parse().map_err(|_| format!("{} is not an IP address", json::shown(value)))
}

/// A key's value; null counts as absent.
fn present<'a>(fields: &'a Fields, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn optional<T>(
    fields: &Fields,
    key: &str,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Result<Option<T>> {
    present(fields, key).map(read).transpose().map_err(|problem| refuse(key, problem))
}

/// The items of a list with the key of each.
fn items<'a>(key: &str, value: &'a Value) -> Result<Vec<(String, &'a Value)>> {
    let items = json::list(value).map_err(|problem| refuse(key, problem))?;
    Ok(items.iter().enumerate().map(|(index, item)| (format!("{key}[{index}]"), item)).collect())
}

fn known(fields: &Fields, within: &str, keys: &[&str]) -> Result<()> {
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            Err(refuse(&format!("{within}{key}"), format!("unknown key; known here: {}", keys.join(", "))))
        }
    }
}

fn refuse(key: &str, problem: impl Into<String>) -> NadConfigError {
    NadConfigError::Key { key: key.to_owned(), problem: problem.into() }
}
