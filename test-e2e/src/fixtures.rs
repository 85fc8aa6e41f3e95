//! Manifests that suites build: networks and pools, as YAML that kubectl applies.
//!
//! Text only; what is wrong in it is for the API server and the agent to find.

use serde_json::{Value, json};

/// A `NetworkAttachmentDefinition` of type antrea and networkType vlan, with these keys of its own.
pub fn network(namespace: &str, name: &str, keys: &Value) -> String {
    let mut config = json!({"cniVersion": "0.3.0", "type": "antrea", "networkType": "vlan"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    document(&json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"config": config.to_string()},
    }))
}

/// An `ipam` section that takes from these pools.
pub fn ipam(pools: &[&str]) -> Value {
    json!({"type": "antrea", "ippools": pools})
}

/// An `IPPool` with one range; `vlan` 0 leaves the VLAN out.
pub fn pool(name: &str, start: &str, end: &str, gateway: &str, prefix: u8, vlan: u16) -> String {
    let mut subnet = json!({"gateway": gateway, "prefixLength": prefix});
    if vlan > 0 {
        subnet["vlan"] = vlan.into();
    }
    document(&json!({
        "apiVersion": "crd.antrea.io/v1beta1",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"ipRanges": [{"start": start, "end": end}], "subnetInfo": subnet},
    }))
}

fn document(value: &Value) -> String {
    format!("---\n{value}\n")
}
