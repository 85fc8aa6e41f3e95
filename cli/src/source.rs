//! Where facts come from: the API server and, through `pods/exec`, the agents; or one agent's socket.
//!
//! Owns asking the agents, a bounded number at a time. Must never ask for more than an agent's own view, and opens no port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use trunkline_agent::dump::NodeDump;
use trunkline_agent::flows::FlowsDump;
use trunkline_agent::protocol::{Outcome, Response, VERSION};

use crate::cli::{Options, UsageError};
use crate::output::words;

/// Agents that are asked at the same time.
const AT_ONCE: usize = 16;
/// How long one agent may take; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(20);
/// Label of the agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=trunkline-agent";

/// What an agent can be asked for: the name is the agent's subcommand, and the request on its socket.
pub(crate) trait Answer: DeserializeOwned + Send + 'static {
    /// The question.
    const QUESTION: &'static str;

    /// The node that answered.
    fn node(&self) -> &str;
}

impl Answer for NodeDump {
    const QUESTION: &'static str = "dump";

    fn node(&self) -> &str {
        &self.node
    }
}

impl Answer for FlowsDump {
    const QUESTION: &'static str = "flows";

    fn node(&self) -> &str {
        &self.node
    }
}

/// Where facts come from.
pub(crate) enum Source {
    /// The API server, and through it every agent.
    Cluster(Box<Cluster>),
    /// The agent of the node that this runs on.
    Socket(PathBuf),
}

/// A cluster with Trunkline in it.
pub(crate) struct Cluster {
    /// Client of the API server.
    pub(crate) client: Client,
    /// Namespace that Trunkline is installed in.
    pub(crate) namespace: String,
    /// Only this node.
    node: Option<String>,
}

/// What the agents said.
pub(crate) struct Nodes<T = NodeDump> {
    /// By node name.
    pub(crate) dumps: Vec<T>,
    /// Nodes that did not answer, with the reason.
    pub(crate) silent: Vec<(String, String)>,
}

impl Source {
    /// Chooses by the flags; no request goes out yet.
    pub(crate) async fn open(options: &Options) -> anyhow::Result<Self> {
        if let Some(socket) = &options.socket {
            return Ok(Self::Socket(socket.clone()));
        }
        let wanted = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
        let config = match &options.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &wanted).await?
            }
            None if options.context.is_some() => Config::from_kubeconfig(&wanted).await?,
            None => Config::infer().await.context("no cluster: use --kubeconfig, or --socket on a node")?,
        };
        let client = Client::try_from(config).context("cannot make a client of the API server")?;
        let (namespace, node) = (options.system_namespace.clone(), options.node.clone());
        Ok(Self::Cluster(Box::new(Cluster { client, namespace, node })))
    }

    /// The cluster, for a verb that needs it.
    pub(crate) fn cluster(&self, verb: &str) -> anyhow::Result<&Cluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            Self::Socket(_) => {
                Err(UsageError(format!("{verb} asks the API server; leave --socket out")).into())
            }
        }
    }

    /// Node state, of one node or of all.
    pub(crate) async fn nodes(&self) -> anyhow::Result<Nodes> {
        self.ask().await
    }

    /// The answer to one question, of one node or of all.
    pub(crate) async fn ask<T: Answer>(&self) -> anyhow::Result<Nodes<T>> {
        match self {
            Self::Cluster(cluster) => cluster.ask(cluster.node.as_deref()).await,
            Self::Socket(path) => {
                let dump = tokio::time::timeout(PATIENCE, ask(path))
                    .await
                    .context("the agent does not answer")??;
                Ok(Nodes { dumps: vec![dump], silent: Vec::new() })
            }
        }
    }
}

impl Cluster {
    /// Node state, of one node or of all.
    pub(crate) async fn nodes(&self, node: Option<&str>) -> anyhow::Result<Nodes> {
        self.ask(node).await
    }

    /// Asks the agents of all nodes, or of one.
    async fn ask<T: Answer>(&self, node: Option<&str>) -> anyhow::Result<Nodes<T>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut params = ListParams::default().labels(AGENTS);
        if let Some(node) = node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let agents = pods.list(&params).await.context("cannot list the agents' pods")?.items;
        if agents.is_empty() {
            let place = node.map_or_else(String::new, |node| format!(" on node {node}"));
            return Err(anyhow!("no agent runs{place}: there is no pod {AGENTS} in {}", self.namespace));
        }
        let asked = futures::stream::iter(agents.into_iter().map(|agent| {
            let pods = pods.clone();
            async move {
                let (node, name) = (node_of(&agent), agent.name_any());
                let phase = agent.status.and_then(|status| status.phase).unwrap_or_default();
                if phase != "Running" {
                    return (node, Err(anyhow!("its agent's pod {name} is {phase}, not Running")));
                }
                let said = tokio::time::timeout(PATIENCE, exec(&pods, &name)).await;
                let late = |_| Err(anyhow!("no answer within {} s", PATIENCE.as_secs()));
                (node, said.unwrap_or_else(late))
            }
        }));
        let answers: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let mut nodes = Nodes { dumps: Vec::new(), silent: Vec::new() };
        for (node, answer) in answers {
            match answer {
                Ok(dump) => nodes.dumps.push(dump),
                Err(error) => nodes.silent.push((node, words(&error))),
            }
        }
        nodes.dumps.sort_by(|a: &T, b: &T| a.node().cmp(b.node()));
        nodes.silent.sort();
        Ok(nodes)
    }
}

impl<T> Nodes<T> {
    /// Says on standard error who did not answer, and makes that a failure.
    pub(crate) fn complete(&self) -> anyhow::Result<()> {
        for (node, reason) in &self.silent {
            eprintln!("trunkctl: node {node} does not answer: {reason}");
        }
        match self.silent.len() {
            0 => Ok(()),
            silent => {
                Err(anyhow!("incomplete: {silent} of {} nodes did not answer", silent + self.dumps.len()))
            }
        }
    }
}

/// The node of a pod; a pod that has none yet names the node that it was made for.
fn node_of(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let bound = spec.and_then(|spec| spec.node_name.clone());
    let wanted = || {
        let affinity = spec?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms =
            &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let fields = terms.first()?.match_fields.as_ref()?;
        fields.first()?.values.as_ref()?.first().cloned()
    };
    bound.or_else(wanted).unwrap_or_else(|| "(none yet)".to_owned())
}

/// Puts a question to the agent in an agent's pod.
async fn exec<T: Answer>(pods: &Api<Pod>, agent: &str) -> anyhow::Result<T> {
    let params = AttachParams::default().container("agent").max_stdout_buf_size(1 << 16);
    let command = ["/usr/local/bin/trunkline-agent", T::QUESTION, "-o", "json"];
    let mut process =
        pods.exec(agent, command, &params).await.with_context(|| format!("cannot run in pod {agent}"))?;
    let status = process.take_status();
    let (mut out, mut err) = (process.stdout(), process.stderr());
    let (mut said, mut complained) = (String::new(), String::new());
    let read_out = async {
        match &mut out {
            Some(stream) => stream.read_to_string(&mut said).await,
            None => Ok(0),
        }
    };
    let read_err = async {
        match &mut err {
            Some(stream) => stream.read_to_string(&mut complained).await,
            None => Ok(0),
        }
    };
    let (read, _) = tokio::join!(read_out, read_err);
    read.with_context(|| format!("the connection to pod {agent} broke"))?;
    if let Some(status) = status
        && let Some(status) = status.await
        && status.status.as_deref() == Some("Failure")
    {
        let reason = if complained.is_empty() { status.message.unwrap_or_default() } else { complained };
        return Err(anyhow!("{}", reason.trim()));
    }
    serde_json::from_str(&said).with_context(|| format!("the answer of pod {agent} cannot be read"))
}

/// Asks the agent behind a socket.
async fn ask<T: Answer>(path: &Path) -> anyhow::Result<T> {
    let mut stream = UnixStream::connect(path).await.with_context(|| {
        format!("the agent does not answer at {} (is it running on this node?)", path.display())
    })?;
    let request = serde_json::json!({ "version": VERSION, "op": T::QUESTION, "deadline_ms": 10_000 });
    stream.write_all(format!("{request}\n").as_bytes()).await.context("the agent broke off")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.context("the agent broke off")?;
    let response: Response = serde_json::from_str(&line).context("the agent's answer cannot be read")?;
    match response.outcome {
        Outcome::Ok(dump) => serde_json::from_value(dump).context("the agent's answer cannot be read"),
        Outcome::Error(failure) => Err(anyhow!("{}", failure.msg)),
    }
}

#[cfg(test)]
mod tests;
