//! The baseline of `ipam-allocate`: every caller writes its address into the pool's status, as Antrea does.
//!
//! Reads the pool, picks the lowest free address, writes the status back on condition that nobody else has; up to 8
//! tries, 10 ms × 1.5 with a tenth of jitter between them. Kinder than the original in one thing: every try reads the
//! pool anew from the API server, never from an informer that lags behind. The pools are of a copy of the CRD in
//! another group, so that no controller works on them meanwhile.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::wait;

/// The group of the copied CRD.
const GROUP: &str = "bench.trunkline.io";
/// Tries of one allocation.
const TRIES: u32 = 8;
/// Pause after the first try.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// What each pause is longer than the one before.
const FACTOR: f64 = 1.5;
/// The most that is added to a pause by chance, as a part of it.
const JITTER: f64 = 0.1;

/// Makes the copy of the `IPPool` CRD and waits until it is served.
pub(super) async fn install(client: &Client) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut crd = crds.get("ippools.crd.antrea.io").await.context("reading the CRD of IPPools")?;
    crd.metadata = ObjectMeta { name: Some(format!("ippools.{GROUP}")), ..ObjectMeta::default() };
    GROUP.clone_into(&mut crd.spec.group);
    crd.spec.names.short_names = None;
    crd.spec.names.categories = None;
    crd.status = None;
    crds.create(&PostParams::default(), &crd).await.context("creating the copied CRD")?;
    let served = async || Ok(api(client).list(&ListParams::default()).await.is_ok().then_some(()));
    wait::until("the copied CRD is served", Duration::from_secs(20), served).await
}

fn api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, "v1beta1", "IPPool");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "ippools"))
}

/// A pool whose status every caller writes.
#[derive(Clone, Debug)]
pub(super) struct StatusPool {
    api: Api<DynamicObject>,
    name: String,
    first: Ipv4Addr,
    size: u32,
}

impl StatusPool {
    /// Makes an empty pool with this spec, whose only range begins at `first` and has `size` addresses.
    pub(super) async fn create(
        client: &Client,
        name: &str,
        spec: &Value,
        first: Ipv4Addr,
        size: u32,
    ) -> Result<Self> {
        let api = api(client);
        let object = json!({"apiVersion": format!("{GROUP}/v1beta1"), "kind": "IPPool",
            "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object)?;
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("creating the pool {name}"))?;
        Ok(Self { api, name: name.to_owned(), first, size })
    }

    /// One allocation; false when all tries ran into somebody else's write.
    pub(super) async fn allocate(&self, pod: &str) -> Result<bool> {
        for number in 0..TRIES {
            if self.attempt(pod).await? {
                return Ok(true);
            }
            if number + 1 < TRIES {
                tokio::time::sleep(pause(number, rand::random())).await;
            }
        }
        Ok(false)
    }

    async fn attempt(&self, pod: &str) -> Result<bool> {
        let mut pool =
            self.api.get(&self.name).await.with_context(|| format!("reading the pool {}", self.name))?;
        let mut entries = pool.data["status"]["ipAddresses"].as_array().cloned().unwrap_or_default();
        let address = lowest_free(&entries, self.first, self.size).context("the pool is full")?;
        entries.push(json!({
            "ipAddress": address,
            "phase": "Allocated",
            "owner": {"pod": {"name": pod, "namespace": "default", "containerID": "0".repeat(64), "ifName": "eth1"}},
        }));
        pool.data["status"]["ipAddresses"] = Value::Array(entries);
        match self.api.replace_status(&self.name, &PostParams::default(), &pool).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error).with_context(|| format!("writing the status of the pool {}", self.name)),
        }
    }
}

/// The lowest address of the range that no entry has.
fn lowest_free(entries: &[Value], first: Ipv4Addr, size: u32) -> Option<Ipv4Addr> {
    let used = entries.iter().filter_map(|entry| entry["ipAddress"].as_str()?.parse::<Ipv4Addr>().ok());
    let used: HashSet<u32> = used.map(u32::from).collect();
    let first = u32::from(first);
    (first..first + size).find(|address| !used.contains(address)).map(Ipv4Addr::from)
}

/// The pause after try `number`, counted from 0; `chance` is from 0 to 1.
fn pause(number: u32, chance: f64) -> Duration {
    FIRST_PAUSE.mul_f64(FACTOR.powi(i32::try_from(number).unwrap_or(i32::MAX)) * chance.mul_add(JITTER, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_address_fills_gaps_first() {
        let entry = |address: &str| json!({ "ipAddress": address });
        let first = Ipv4Addr::new(10, 0, 0, 1);
        let cases: [(&[&str], Option<&str>); 4] = [
            (&[], Some("10.0.0.1")),
            (&["10.0.0.1", "10.0.0.3"], Some("10.0.0.2")),
            (&["10.0.0.1", "10.0.0.2"], Some("10.0.0.3")),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3"], None),
        ];
        for (used, expected) in cases {
            let entries: Vec<_> = used.iter().map(|address| entry(address)).collect();
            let free = lowest_free(&entries, first, 3).map(|address| address.to_string());
            assert_eq!(free.as_deref(), expected, "{used:?}");
        }
    }

    #[test]
    fn pauses_grow_by_half_and_jitter_adds_up_to_a_tenth() {
        assert_eq!(pause(0, 0.0), Duration::from_millis(10));
        assert_eq!(pause(0, 1.0), Duration::from_millis(11));
        assert_eq!(pause(2, 0.0), Duration::from_micros(22_500));
        let all: Duration = (0..TRIES - 1).map(|number| pause(number, 0.0)).sum();
        assert!((320..325).contains(&all.as_millis()), "{all:?}");
    }
}
