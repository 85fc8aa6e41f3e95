//! `ipam-allocate`: the whole IPAM service, asked by the agent's own client with a node's token, against callers that
//! write the pool's status themselves, against itself when the pool is nearly full, and against a bare creation.
//!
//! One controller with its default settings, no agent. All clients run in the cluster network. Every measurement has
//! a pool of its own, empty when it begins; releasing is outside the timing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use trunkline_agent::ipam_client::{IpamClient, IpamOptions};
use trunkline_agent::metrics::Metrics;
use trunkline_api::{AllocationOwner, IPAllocation, IPAllocationSpec, allocation_name};
use trunkline_ipam::proto::{AllocateRequest, InterfaceRequest, Pod, ReleaseRequest};

use super::antrea::{self, StatusPool};
use super::inside::{self, inside};
use super::pairs::Pairs;
use super::pods::{PodId, create_pods};
use super::report::{Case, Line};
use super::stats::{Goal, bounded_rate, first_and_last_rate, median, ms};
use super::storm::{Outcome, storm};
use super::{Done, Options};
use crate::light::{LightCluster, LightOptions};
use crate::{objects, wait};

const STORM: Case = Case { bench: "ipam-allocate/64", unit: "allocations/s", goal: Goal::AtLeast(60.0) };
const FULL: Case = Case { bench: "ipam-allocate/full", unit: "allocations/s", goal: Goal::AtLeast(0.8) };
const ONE: Case = Case { bench: "ipam-allocate/1", unit: "ms", goal: Goal::AtMost(1.5) };
/// All lines of this group.
pub(super) const CASES: [Case; 3] = [STORM, FULL, ONE];

/// Addresses of a pool.
const POOL: u32 = 4094;
const CALLERS: usize = 64;
/// Successes after which a side has shown its rate.
const TARGET: usize = 1000;
/// Time after which it has.
const LIMIT: Duration = Duration::from_secs(20);
/// Successes over which the first and the last rate are taken.
const PART: usize = 500;
/// Single allocations of one pair.
const BATCH: usize = 30;
const NAD: &str = "default/bench";
/// How long one call to the service may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures the chosen lines of this group.
pub(super) fn run(options: &Options, done: &mut Done<'_>) -> Result<()> {
    let runtime = Runtime::new().context("making a runtime")?;
    let cluster = runtime.block_on(start())?;
    let many = options.wants(&FULL);
    let count = if many { POOL as usize } else { TARGET };
    let pods = runtime.block_on(create_pods(cluster.client(), "ipam", count, &[], "n1"))?;
    inside(cluster.node(1).netns().path(), || async {
        let bench = Bench::connect(&cluster, pods).await?;
        if options.wants(&STORM) {
            done(bench.storm(options.reps).await?)?;
        }
        if options.wants(&FULL) {
            done(bench.full(options.reps).await?)?;
        }
        if options.wants(&ONE) {
            done(bench.one(options.reps).await?)?;
        }
        Ok(())
    })
}

async fn start() -> Result<LightCluster> {
    let cluster = LightCluster::start_bare("bench-ipam", LightOptions::nodes(1)).await?;
    antrea::install(cluster.client()).await?;
    let controller = cluster.controller(1);
    controller.configure("")?;
    controller.start(cluster.plane())?;
    controller.wait_live().await?;
    Ok(cluster)
}

struct Bench {
    client: Client,
    ipam: IpamClient,
    pods: Arc<Vec<PodId>>,
    pools: std::sync::atomic::AtomicU8,
    // Whoever lets go of them tells the client that the process stops.
    _address: watch::Sender<Option<String>>,
    _ca: watch::Sender<Option<String>>,
}

/// A pool that nothing has been taken from, by name and first address.
struct Fresh {
    name: String,
    first: Ipv4Addr,
    spec: Value,
}

impl Bench {
    async fn connect(cluster: &LightCluster, pods: Vec<PodId>) -> Result<Self> {
        let client = inside::client(&cluster.plane().kubeconfig_inside()).await?;
        let (address, ca) =
            wait::until("a controller leads", PATIENCE, async || announced(&client).await).await?;
        let (address_sender, address) = watch::channel(Some(address));
        let (ca_sender, ca) = watch::channel(Some(ca));
        let token_file = cluster.node(1).ipam_token();
        let options = IpamOptions { node: "n1".to_owned(), token_file, address, ca };
        let (ipam, _worker) = IpamClient::new(options, Metrics::new());
        let pods = Arc::new(pods);
        Ok(Self { client, ipam, pods, pools: 64.into(), _address: address_sender, _ca: ca_sender })
    }

    async fn storm(&self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(STORM, reps);
        let (mut failed, mut succeeded, mut ours_failed) = (0, 0, 0);
        while pairs.go_on() {
            let first = pairs.ours_first();
            let mut ours = if first { Some(self.fill(TARGET).await?) } else { None };
            let baseline = self.antrea().await?;
            let ours = match ours.take() {
                Some(ours) => ours,
                None => self.fill(TARGET).await?,
            };
            ours_failed += ours.failures;
            failed += baseline.failures;
            succeeded += baseline.times.len();
            let rate = |outcome: &Outcome| bounded_rate(&outcome.times, TARGET, LIMIT);
            pairs.push(rate(&ours), rate(&baseline));
        }
        Ok(pairs.line(&format!(
            "64 callers, one empty pool of 4,094, until 1,000 successes or 20 s; of {} allocations that the baseline \
             asked for, {failed} failed after 8 tries and were asked again; ours failed: {ours_failed}",
            failed + succeeded,
        )))
    }

    async fn full(&self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(FULL, reps);
        while pairs.go_on() {
            let outcome = self.fill(POOL as usize).await?;
            if outcome.times.len() < POOL as usize {
                bail!("only {} of {POOL} addresses were given", outcome.times.len());
            }
            let (first, last) = first_and_last_rate(&outcome.times, PART);
            pairs.push(last, first);
        }
        Ok(pairs.line("64 callers fill a pool of 4,094; ours is the rate of the last 500, baseline that of the first 500"))
    }

    /// Lets 64 callers take `count` addresses of a new pool, and gives them back outside the timing.
    async fn fill(&self, count: usize) -> Result<Outcome> {
        let pool = self.fresh().await?;
        let limit = if count > TARGET { PATIENCE * 2 } else { LIMIT };
        let (ipam, pods, name) = (self.ipam.clone(), self.pods.clone(), Arc::new(pool.name));
        let outcome = storm(CALLERS, count, limit, move |index| {
            let (ipam, request) = (ipam.clone(), allocate_request(&pods[index], &name));
            async move {
                match ipam.allocate(request, deadline()).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.is_transient() => Ok(false),
                    Err(error) => Err(error).context("an allocation"),
                }
            }
        })
        .await?;
        self.release(count).await?;
        Ok(outcome)
    }

    async fn release(&self, count: usize) -> Result<()> {
        let (ipam, pods) = (self.ipam.clone(), self.pods.clone());
        storm(CALLERS, count, PATIENCE * 4, move |index| {
            let (ipam, request) = (ipam.clone(), release_request(&pods[index]));
            async move { ipam.release(request, deadline()).await.map(|_| true).context("a release") }
        })
        .await?;
        let left = objects::allocations(&self.client).await?;
        if left.is_empty() { Ok(()) } else { bail!("{} addresses were not given back", left.len()) }
    }

    async fn antrea(&self) -> Result<Outcome> {
        let pool = self.unmade();
        let pool = StatusPool::create(&self.client, &pool.name, &pool.spec, pool.first, POOL).await?;
        let pods = self.pods.clone();
        storm(CALLERS, TARGET, LIMIT, move |index| {
            let (pool, pod) = (pool.clone(), pods[index].name.clone());
            async move { pool.allocate(&pod).await }
        })
        .await
    }

    async fn one(&self, reps: usize) -> Result<Line> {
        let mut pairs = Pairs::begin(ONE, reps);
        while pairs.go_on() {
            let pool = self.fresh().await?;
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            // The first is not counted: it marks the pool as used.
            for (index, pod) in self.pods.iter().take(BATCH + 1).enumerate() {
                let begin = Instant::now();
                self.ipam
                    .allocate(allocate_request(pod, &pool.name), deadline())
                    .await
                    .context("an allocation")?;
                let took = ms(begin.elapsed());
                let created = self.create_bare(pod, index).await?;
                if index > 0 {
                    ours.push(took);
                    bare.push(created);
                }
            }
            self.delete_bare().await?;
            self.release(BATCH + 1).await?;
            pairs.push(median(&ours), median(&bare));
        }
        Ok(pairs.line(&format!(
            "one caller; medians of {BATCH} allocations and of {BATCH} creations of an IPAllocation object, in turn"
        )))
    }

    /// Creates such an object as the service would have; milliseconds.
    async fn create_bare(&self, pod: &PodId, index: usize) -> Result<f64> {
        let octet = u8::try_from(index + 1).context("a batch that fits into a /24")?;
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, octet));
        let owner = AllocationOwner {
            pod_namespace: "default".to_owned(),
            pod_name: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            sandbox: "0".repeat(64),
            interface: "eth2".to_owned(),
            nad: NAD.to_owned(),
        };
        let spec = IPAllocationSpec { pool: "bare".to_owned(), address, node: "n1".to_owned(), owner };
        let object = IPAllocation::new(&allocation_name("bare", address), spec);
        let api: Api<IPAllocation> = Api::all(self.client.clone());
        let begin = Instant::now();
        api.create(&PostParams::default(), &object).await.context("creating an object")?;
        Ok(ms(begin.elapsed()))
    }

    async fn delete_bare(&self) -> Result<()> {
        let api = objects::allocation_api(&self.client);
        for name in objects::allocations(&self.client).await?.iter().filter(|name| name.starts_with("bare."))
        {
            api.delete(name, &DeleteParams::default()).await.with_context(|| format!("deleting {name}"))?;
        }
        Ok(())
    }

    /// A pool that is not there yet. No two overlap.
    fn unmade(&self) -> Fresh {
        let number = self.pools.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let first = Ipv4Addr::new(10, number, 0, 1);
        let last = Ipv4Addr::from(u32::from(first) + POOL - 1);
        let spec = json!({
            "ipRanges": [{"start": first, "end": last}],
            "subnetInfo": {"gateway": Ipv4Addr::new(10, number, 31, 254), "prefixLength": 19},
        });
        Fresh { name: format!("bench-{number}"), first, spec }
    }

    /// A pool of ours, made.
    async fn fresh(&self) -> Result<Fresh> {
        let pool = self.unmade();
        let object = json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "IPPool",
            "metadata": {"name": pool.name}, "spec": pool.spec});
        let object: trunkline_api::IPPool = serde_json::from_value(object)?;
        let api: Api<trunkline_api::IPPool> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &object).await.context("creating a pool")?;
        wait::until("the controller has looked at the pool", PATIENCE, async || {
            let seen = api.get(&pool.name).await?.status.is_some_and(|status| !status.conditions.is_empty());
            Ok(seen.then_some(()))
        })
        .await?;
        Ok(pool)
    }
}

/// What the leader and the CA announce, once both are there.
async fn announced(client: &Client) -> Result<Option<(String, String)>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "trunkline-system");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "trunkline-system");
    let lease = leases.get_opt(trunkline_ipam::LEASE_NAME).await.context("reading the Lease")?;
    let map = maps.get_opt(trunkline_ipam::CA_NAME).await.context("reading the CA")?;
    let address =
        lease.and_then(|lease| lease.annotations().get(trunkline_ipam::ADDRESS_ANNOTATION).cloned());
    let ca = map.and_then(|map| map.data?.get(trunkline_ipam::CA_KEY).cloned());
    Ok(address.zip(ca))
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + PATIENCE
}

fn message(pod: &PodId) -> Pod {
    Pod { namespace: "default".to_owned(), name: pod.name.clone(), uid: pod.uid.clone() }
}

fn allocate_request(pod: &PodId, pool: &str) -> AllocateRequest {
    let interface = InterfaceRequest {
        interface: "eth1".to_owned(),
        nad: NAD.to_owned(),
        pools: vec![pool.to_owned()],
        ..InterfaceRequest::default()
    };
    AllocateRequest {
        pod: Some(message(pod)),
        sandbox: format!("{:0>64}", pod.uid.replace('-', "")),
        interfaces: vec![interface],
        ..AllocateRequest::default()
    }
}

fn release_request(pod: &PodId) -> ReleaseRequest {
    ReleaseRequest { pod: Some(message(pod)), ..ReleaseRequest::default() }
}
