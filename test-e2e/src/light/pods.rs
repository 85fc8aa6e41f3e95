//! Pods of light nodes: the API object, the sandbox, the chain, and probes inside.
//!
//! A failed ADD is followed by DEL and, like kubelet, by another try with a new sandbox.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::light::{LightCluster, LightNode};
use crate::objects::{self, PodSpec};
use crate::process::{self, Process, ProcessId};
use crate::run::Run;
use crate::runtime::{CniError, PodRef, Sandbox};
use crate::{paths, probe, wait};

/// How long between two tries of a pod; kubelet takes about 11 s.
const RETRY: Duration = Duration::from_millis(500);
/// A flood of pings from a pod, to see what an event costs.
#[derive(Debug)]
pub struct Flood(Child);

impl Flood {
    /// Starts it and waits for the first answer.
    pub fn start(run: &Run, from: &RunningPod, target: &str) -> Result<Self> {
        let ready = run.dir().join(format!("flood-{:08x}", rand::random::<u32>()));
        let mut command =
            from.probe_command(&["flood", "--interface", "eth1", "--target", target, "--ready"])?;
        let child = command.arg(&ready).stdout(Stdio::piped()).spawn().context("starting a flood")?;
        wait::until_blocking("the flood runs", Duration::from_secs(30), || Ok(ready.exists().then_some(())))?;
        Ok(Self(child))
    }

    /// Ends it; the counts are `sent`, `received`, `lost` and `longest_silence_ms`.
    pub fn finish(self) -> Result<Value> {
        let id = ProcessId::of(i32::try_from(self.0.id())?).context("the flood has ended")?;
        id.signal(Signal::SIGTERM);
        serde_json::from_slice(&self.0.wait_with_output()?.stdout).context("reading a flood's count")
    }
}

/// The annotation that names what a pod got.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// A pod whose chain has succeeded.
#[derive(Debug)]
pub struct RunningPod {
    /// The API object as it was made.
    pub object: Pod,
    /// Where it runs.
    pub node: Arc<LightNode>,
    /// Its sandbox.
    pub sandbox: Arc<Sandbox>,
    /// What the chain answered.
    pub result: Value,
    /// How long the successful ADD took.
    pub add_time: Duration,
    /// The failures before it.
    pub failures: Vec<CniError>,
    server: Option<Process>,
}

impl RunningPod {
    /// The pod's name.
    pub fn name(&self) -> String {
        self.object.name_any()
    }

    /// The pod's UID.
    pub fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    /// Starts the identity server on every interface that is there now.
    pub fn serve(&mut self, run: &Arc<Run>) -> Result<()> {
        let mut command = self.sandbox.netns.command(paths::binary("trunkline-probe")?);
        command.arg("serve").env("POD_UID", self.uid());
        self.server = Some(Process::spawn(run, &format!("pod-{}", self.name()), command)?);
        probe::wait_serving(&self.sandbox.netns)
    }

    /// `trunkline-probe` in the pod's namespace.
    pub fn probe_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.sandbox.netns.command(paths::binary("trunkline-probe")?);
        command.args(args);
        Ok(command)
    }

    /// Runs `trunkline-probe` in the pod's namespace and reads the JSON that it prints.
    pub fn probe(&self, args: &[&str]) -> Result<Value> {
        let text = process::output(&mut self.probe_command(args)?)?;
        serde_json::from_str(&text).with_context(|| format!("reading what the probe printed: {text}"))
    }

    /// Sends ten million bytes over TCP to another pod's `eth1`; what was sent and what arrived, with their SHA-256.
    pub fn transfer(&self, run: &Run, to: &Self, target: &str) -> Result<(Value, Value)> {
        let ready = run.dir().join(format!("recv-{:08x}", rand::random::<u32>()));
        let mut command = to.probe_command(&["tcp-recv", "--interface", "eth1", "--ready"])?;
        let listening = command.arg(&ready).stdout(Stdio::piped()).spawn().context("starting a receiver")?;
        wait::until_blocking("the receiver listens", Duration::from_secs(30), || {
            Ok(ready.exists().then_some(()))
        })?;
        let sent = self.probe(&["tcp-send", "--interface", "eth1", "--target", target])?;
        let received = listening.wait_with_output().context("waiting for the receiver")?;
        Ok((sent, serde_json::from_slice(&received.stdout).context("reading what arrived")?))
    }

    /// The elements of the network-status annotation, as the API server has it now.
    pub async fn network_status(&self, client: &Client) -> Result<Vec<Value>> {
        network_status(client, &self.object).await
    }

    /// The addresses that network-status gives for an interface.
    pub async fn addresses(&self, client: &Client, interface: &str) -> Result<Vec<String>> {
        let status = self.network_status(client).await?;
        let entry = status.iter().find(|e| e["interface"] == interface);
        let entry = entry.with_context(|| format!("network-status of {} has no {interface}", self.name()))?;
        Ok(entry["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| Some(v.as_str()?.to_owned()))
            .collect())
    }

    /// The link-local address of an interface.
    pub fn link_local(&self, interface: &str) -> Result<String> {
        let links = self.sandbox.netns.ip_json(&format!("-6 addr show dev {interface} scope link"))?;
        let address =
            links[0]["addr_info"].as_array().into_iter().flatten().find_map(|a| a["local"].as_str());
        Ok(address
            .with_context(|| format!("{interface} of {} has no link-local address", self.name()))?
            .to_owned())
    }

    /// What the kernel says of a link in the pod.
    pub fn link(&self, interface: &str) -> Result<Value> {
        Ok(self.sandbox.netns.ip_json(&format!("addr show dev {interface}"))?[0].clone())
    }
}

impl LightCluster {
    /// Runs a pod: makes the object, then tries ADD until it succeeds or `limit` has passed.
    pub async fn run_pod_within(&self, number: usize, spec: &PodSpec, limit: Duration) -> Result<RunningPod> {
        let node = self.node(number).clone();
        let object = objects::create_pod(self.client(), spec, node.name()).await?;
        self.start_pod(&node, object, limit).await
    }

    /// [`Self::run_pod_within`] 60 s.
    pub async fn run_pod(&self, number: usize, spec: &PodSpec) -> Result<RunningPod> {
        self.run_pod_within(number, spec, Duration::from_mins(1)).await
    }

    /// Brings a Pod object's sandbox up, as kubelet does with what it finds bound to its node.
    pub async fn start_pod(&self, node: &Arc<LightNode>, object: Pod, limit: Duration) -> Result<RunningPod> {
        let begin = Instant::now();
        let mut failures: Vec<CniError> = Vec::new();
        loop {
            match self.try_pod(node, &object).await? {
                Ok((sandbox, result, add_time)) => {
                    let ip = result["ips"][0]["address"].as_str().and_then(|a| a.split('/').next());
                    objects::set_phase(self.client(), &object, "Running", ip).await?;
                    let (node, server) = (node.clone(), None);
                    return Ok(RunningPod { object, node, sandbox, result, add_time, failures, server });
                }
                Err(error) if begin.elapsed() > limit * wait::patience() => {
                    bail!("{} has not started within {limit:?}: {error}", object.name_any())
                }
                Err(error) => failures.push(error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One try: a new sandbox and ADD; after a failure DEL, and the sandbox is removed.
    pub async fn try_pod(
        &self,
        node: &Arc<LightNode>,
        object: &Pod,
    ) -> Result<Result<(Arc<Sandbox>, Value, Duration), CniError>> {
        let (run, node, pod) = (self.run().clone(), node.clone(), pod_ref(object));
        let work = tokio::task::spawn_blocking(move || {
            let sandbox = Sandbox::create(&run, pod)?;
            let runtime = node.runtime()?;
            let begin = Instant::now();
            match runtime.add(&sandbox)? {
                Ok(result) => Ok(Ok((Arc::new(sandbox), result, begin.elapsed()))),
                Err(error) => {
                    // A failed DEL is kubelet's to repeat; the sandbox's own garbage collection covers us here.
                    let _ = runtime.del(&sandbox)?;
                    Ok(Err(error))
                }
            }
        });
        work.await.context("a sandbox's thread")?
    }

    /// Takes a pod down as kubelet does: processes, DEL, the sandbox, then the object.
    pub async fn delete_pod(&self, pod: RunningPod) -> Result<()> {
        let (namespace, name) = (pod.object.namespace().unwrap_or_default(), pod.name());
        tokio::task::spawn_blocking(move || pod.tear_down()).await.context("a sandbox's thread")??;
        objects::delete_pod(self.client(), &namespace, &name).await
    }

    /// Takes all these pods down, one after the other.
    pub async fn delete_pods(&self, pods: Vec<RunningPod>) -> Result<()> {
        for pod in pods {
            self.delete_pod(pod).await?;
        }
        Ok(())
    }
}

impl RunningPod {
    /// DEL, repeated while it fails, and the end of the sandbox; the object stays.
    pub fn tear_down(self) -> Result<()> {
        drop(self.server);
        let runtime = self.node.runtime()?;
        let mut last = None;
        for _ in 0..20 {
            match runtime.del(&self.sandbox)? {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(RETRY);
        }
        bail!("DEL of {} keeps failing: {last:?}", self.object.name_any())
    }

    /// The sandbox dies without DEL, as in a reboot.
    pub fn crash(self) -> Pod {
        self.object
    }
}

fn pod_ref(object: &Pod) -> PodRef {
    PodRef {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        annotations: object.annotations().clone().into_iter().collect::<BTreeMap<_, _>>(),
    }
}

/// The elements of a pod's network-status annotation, as the API server has it now.
pub async fn network_status(client: &Client, pod: &Pod) -> Result<Vec<Value>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let pod = pods.get(&pod.name_any()).await.context("reading the pod")?;
    let text = pod.annotations().get(NETWORK_STATUS).context("no network-status")?;
    serde_json::from_str(text).with_context(|| format!("reading network-status: {text}"))
}
