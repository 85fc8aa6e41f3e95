//! The CRDs on a real API server: what schema and CEL accept, and what they refuse with which words.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use trunkline_e2e::control_plane::{ControlPlane, Options};
use trunkline_e2e::run::Run;
use trunkline_e2e::switch::Switch;
use trunkline_e2e::wait;

/// What is done with an object, and the words of the refusal; none when it is accepted.
type Case = (&'static str, Value, Option<&'static str>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_refuses_what_can_be_refused_without_a_controller() -> Result<()> {
    let run = Run::start("crds")?;
    let switch = Switch::create(&run)?;
    let plane = ControlPlane::start(&run, &switch, Options::LIGHT).await?;
    for crd in trunkline_api::crds() {
        plane.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &serde_json::to_string(&crd)?)?;
    }
    let kinds = ["ippools", "ipallocations", "network-attachment-definitions"];
    wait::until("the CRDs are served", std::time::Duration::from_secs(20), || async {
        let served = kinds.iter().all(|kind| plane.kubectl(&["get", kind]).is_ok());
        Ok(served.then_some(()))
    })
    .await?;
    let steps = [pools(), pool_changes(), allocations(), allocation_changes()];
    for (verb, object, refusal) in steps.into_iter().flatten() {
        let told = plane.kubectl_with_input(&[verb, "-f", "-"], &object.to_string());
        match (told, refusal) {
            (Ok(_), None) => {}
            (Ok(_), Some(words)) => ensure!(false, "accepted instead of {words:?}: {object}"),
            (Err(error), None) => return Err(error).with_context(|| format!("refused: {object}")),
            (Err(error), Some(words)) => {
                ensure!(format!("{error:#}").contains(words), "{error:#} instead of {words:?}: {object}");
            }
        }
        if object["metadata"]["name"] == "used" && verb == "create" {
            let status = r#"{"status": {"usage": {"total": 253, "used": 1}}}"#;
            plane.kubectl(&["patch", "ipp", "used", "--subresource=status", "--type=merge", "-p", status])?;
        }
    }
    drop((plane, switch));
    run.teardown()
}

fn pool(name: &str, ranges: &Value, gateway: &str, prefix_length: i32, vlan: i32) -> Value {
    json!({
        "apiVersion": "crd.antrea.io/v1beta1", "kind": "IPPool", "metadata": { "name": name },
        "spec": { "ipRanges": ranges, "subnetInfo": { "gateway": gateway, "prefixLength": prefix_length, "vlan": vlan } },
    })
}

fn v4(name: &str, ranges: &Value) -> Value {
    pool(name, ranges, "10.10.0.1", 24, 100)
}

fn pools() -> Vec<Case> {
    let whole = json!([{"cidr": "10.10.0.0/24"}]);
    let form = "a range is either cidr, or start and end";
    let subnet = "every range must lie in the subnet of subnetInfo.gateway and prefixLength";
    let ranges = |count: u32| -> Value {
        (1..=count)
            .map(|last| json!({"start": format!("10.10.0.{last}"), "end": format!("10.10.0.{last}")}))
            .collect()
    };
    vec![
        ("create", v4("used", &whole), None),
        ("create", v4("unused", &whole), None),
        ("create", pool("v6", &json!([{"start": "fd00::10", "end": "fd00::ff"}]), "fd00::1", 64, 0), None),
        ("create", pool("pair", &json!([{"cidr": "10.9.0.0/31"}]), "10.9.0.0", 31, 0), None),
        ("create", v4("sixty-four", &ranges(64)), None),
        ("create", v4("bad", &ranges(65)), Some("must have at most 64 items")),
        ("create", v4("bad", &json!([{}])), Some(form)),
        ("create", v4("bad", &json!([{"start": "10.10.0.5"}])), Some(form)),
        (
            "create",
            v4("bad", &json!([{"cidr": "10.10.0.0/24", "start": "10.10.0.1", "end": "10.10.0.2"}])),
            Some(form),
        ),
        (
            "create",
            v4("bad", &json!([{"cidr": "10.10.0.0/33"}])),
            Some("cidr must be an address and a prefix length"),
        ),
        (
            "create",
            v4("bad", &json!([{"start": "x", "end": "10.10.0.2"}])),
            Some("start must be an IP address"),
        ),
        (
            "create",
            v4("bad", &json!([{"start": "10.10.0.2", "end": "fd00::1"}])),
            Some("start and end must be of one family"),
        ),
        (
            "create",
            v4("bad", &json!([{"cidr": "fd00::/120"}])),
            Some("must be of the family of subnetInfo.gateway"),
        ),
        ("create", v4("bad", &json!([{"cidr": "10.11.0.0/24"}])), Some(subnet)),
        ("create", v4("bad", &json!([{"start": "10.10.0.5", "end": "10.10.1.5"}])), Some(subnet)),
        ("create", pool("bad", &whole, "gateway", 24, 0), Some("gateway must be an IP address")),
        ("create", pool("bad", &whole, "10.10.0.1", 33, 0), Some("prefixLength must be 1 to 32 for IPv4")),
        ("create", pool("bad", &whole, "10.10.0.1", 24, 4095), Some("should be less than or equal to 4094")),
        ("create", v4(&"a".repeat(201), &whole), Some("may not be more than 200 bytes")),
    ]
}

fn pool_changes() -> Vec<Case> {
    let whole = json!([{"cidr": "10.10.0.0/24"}]);
    let longer = json!([{"cidr": "10.10.0.0/24"}, {"start": "10.10.0.9", "end": "10.10.0.9"}]);
    let other = json!([{"start": "10.10.0.9", "end": "10.10.0.9"}, {"cidr": "10.10.0.0/24"}]);
    let append = "ranges may only be appended";
    let vlan = "subnetInfo.vlan cannot change while addresses of the pool are in use";
    vec![
        ("replace", v4("unused", &longer), None),
        ("replace", v4("unused", &other), Some(append)),
        ("replace", v4("unused", &whole), Some(append)),
        ("replace", v4("unused", &json!(null)), Some(append)),
        ("replace", pool("unused", &longer, "10.10.0.2", 24, 100), Some("gateway cannot change")),
        ("replace", pool("unused", &longer, "10.10.0.1", 23, 100), Some("prefixLength cannot change")),
        ("replace", pool("unused", &longer, "10.10.0.1", 24, 200), None),
        ("replace", pool("used", &whole, "10.10.0.1", 24, 200), Some(vlan)),
        ("replace", pool("used", &whole, "10.10.0.1", 24, 0), Some(vlan)),
        ("replace", v4("used", &longer), None),
    ]
}

fn allocation(name: &str, pool: &str, address: &str, changed: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "ipam.trunkline.io/v1alpha1", "kind": "IPAllocation", "metadata": { "name": name },
        "spec": { "pool": pool, "address": address, "node": "n1", "owner": {
            "podNamespace": "default", "podName": "p", "podUID": "u", "sandbox": "s", "interface": "eth1",
            "nad": "default/n" } },
    });
    for (key, value) in changed.as_object().into_iter().flatten() {
        let place = if key == "node" { &mut object["spec"] } else { &mut object["spec"]["owner"] };
        place[key] = value.clone();
    }
    object
}

fn allocations() -> Vec<Case> {
    let same = json!({});
    let name = "the name must be <pool>.ip-";
    let canonical = "address must be an IP address in its canonical form";
    let v6 = "used.ip6-fd000000000000000000000000000010";
    vec![
        ("create", allocation("used.ip-10-10-0-5", "used", "10.10.0.5", &same), None),
        ("create", allocation("used.ip-10-10-0-5", "used", "10.10.0.5", &same), Some("already exists")),
        ("create", allocation(v6, "used", "fd00::10", &same), None),
        ("create", allocation("used.ip-10-10-0-6", "used", "10.10.0.7", &same), Some(name)),
        ("create", allocation("other.ip-10-10-0-6", "used", "10.10.0.6", &same), Some(name)),
        ("create", allocation("used.ip6-fd00", "used", "fd00::11", &same), Some(name)),
        ("create", allocation(&v6.replace("10", "11"), "used", "fd00::12", &same), Some(name)),
        ("create", allocation(&v6.replace("10", "11"), "used", "fd00:0::11", &same), Some(canonical)),
        ("create", allocation("used.ip-x", "used", "x", &same), Some(canonical)),
    ]
}

fn allocation_changes() -> Vec<Case> {
    let changed = |key: &str| allocation("used.ip-10-10-0-5", "used", "10.10.0.5", &json!({ key: "x" }));
    let owner = "nothing but sandbox can change";
    vec![
        ("replace", changed("sandbox"), None),
        ("replace", changed("node"), Some("node cannot change")),
        ("replace", changed("podUID"), Some(owner)),
        ("replace", changed("podName"), Some(owner)),
        ("replace", changed("interface"), Some(owner)),
        ("replace", changed("nad"), Some(owner)),
    ]
}
