//! The part of a container runtime that concerns networks: sandboxes, and the node's CNI chain run as libcni runs it.
//!
//! Plugins are real and get what containerd gives them: environment, configuration and `prevResult` on standard
//! input, the pod's annotations by capability. A result is cached for DEL. Nothing here knows Trunkline.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::run::Run;

/// The capability by which a plugin asks for a pod's annotations.
pub(crate) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The pod that a sandbox is for, as `CNI_ARGS` names it.
#[derive(Clone, Debug)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`
    pub uid: String,
    /// What the capability hands over.
    pub annotations: BTreeMap<String, String>,
}

/// A sandbox: a network namespace with an id.
#[derive(Debug)]
pub struct Sandbox {
    /// The container id, 64 hex digits.
    pub id: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its pod.
    pub pod: PodRef,
}

impl Sandbox {
    /// Makes a sandbox with a new id.
    pub fn create(run: &Arc<Run>, pod: PodRef) -> Result<Self> {
        let id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let netns = Netns::create(run, &format!("s-{}", &id[..10]))?;
        Ok(Self { id, netns, pod })
    }
}

/// What a plugin says when it fails (CNI specification 1.1, section 5).
#[derive(Clone, Debug, Deserialize, thiserror::Error)]
#[error("{plugin}: {msg} (code {code}) {details}")]
pub struct CniError {
    /// The plugin that failed.
    #[serde(skip)]
    pub plugin: String,
    /// The code.
    #[serde(default)]
    pub code: u32,
    /// The message, which a runtime puts into the pod's Events.
    pub msg: String,
    /// More.
    #[serde(default)]
    pub details: String,
}

/// A node's CNI set-up: where its configuration, plugins and cached results are.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The namespace in which plugins run.
    pub netns: PathBuf,
    /// The folder with configurations; the first by name counts.
    pub conf_dir: PathBuf,
    /// Folders with plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// Where results are kept for DEL.
    pub cache_dir: PathBuf,
    /// Whether this runtime hands over annotations at all (containerd before 1.5 does not).
    pub hands_over_annotations: bool,
}

impl Runtime {
    /// The configuration in force: the first conflist by file name.
    pub fn conflist(&self) -> Result<(PathBuf, Value)> {
        let entries =
            fs::read_dir(&self.conf_dir).with_context(|| format!("listing {}", self.conf_dir.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "conflist"));
        files.sort();
        let first = files.into_iter().next().context("no CNI configuration")?;
        let text = fs::read(&first).with_context(|| format!("reading {}", first.display()))?;
        let value = serde_json::from_slice(&text).with_context(|| format!("reading {}", first.display()))?;
        Ok((first, value))
    }

    /// ADD of the whole chain. The outer error is the harness's, the inner one a plugin's.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Result<Value, CniError>> {
        let (_, list) = self.conflist()?;
        let mut previous = None;
        for plugin in plugins(&list)? {
            match self.call("ADD", sandbox, &list, plugin, previous.as_ref())? {
                Ok(result) => previous = Some(result),
                Err(error) => return Ok(Err(error)),
            }
        }
        let result = previous.context("a chain without plugins")?;
        fs::create_dir_all(&self.cache_dir).context("creating the cache of results")?;
        fs::write(self.cached(sandbox), serde_json::to_vec(&result)?).context("caching a result")?;
        Ok(Ok(result))
    }

    /// DEL of the whole chain, last plugin first; the first failure ends it.
    pub fn del(&self, sandbox: &Sandbox) -> Result<Result<(), CniError>> {
        let (_, list) = self.conflist()?;
        let previous =
            fs::read(self.cached(sandbox)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        for plugin in plugins(&list)?.into_iter().rev() {
            if let Err(error) = self.call("DEL", sandbox, &list, plugin, previous.as_ref())? {
                return Ok(Err(error));
            }
        }
        let _ = fs::remove_file(self.cached(sandbox));
        Ok(Ok(()))
    }

    /// CHECK of the whole chain, with the cached result.
    pub fn check(&self, sandbox: &Sandbox) -> Result<Result<(), CniError>> {
        let (_, list) = self.conflist()?;
        let text = fs::read(self.cached(sandbox)).context("no cached result to check against")?;
        let previous: Value = serde_json::from_slice(&text)?;
        for plugin in plugins(&list)? {
            if let Err(error) = self.call("CHECK", sandbox, &list, plugin, Some(&previous))? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Calls one plugin of the configuration in force with `STATUS`, as containerd 2 does every 5 s.
    pub fn status(&self, plugin_type: &str) -> Result<Result<(), CniError>> {
        let (_, list) = self.conflist()?;
        let plugin = plugins(&list)?
            .into_iter()
            .find(|p| p["type"] == plugin_type)
            .with_context(|| format!("{plugin_type} is not in the chain"))?;
        let input = entry(&list, plugin, None);
        let env = vec![("CNI_COMMAND".to_owned(), "STATUS".to_owned()), self.cni_path()];
        Ok(self.exec(plugin_type, env, &input)?.map(drop))
    }

    fn cached(&self, sandbox: &Sandbox) -> PathBuf {
        self.cache_dir.join(format!("{}.json", sandbox.id))
    }

    fn call(
        &self,
        verb: &str,
        sandbox: &Sandbox,
        list: &Value,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Result<Result<Value, CniError>> {
        let name = plugin["type"].as_str().context("a plugin without a type")?;
        let mut input = entry(list, plugin, previous);
        if self.hands_over_annotations && plugin["capabilities"][ANNOTATIONS] == true {
            input["runtimeConfig"] = json!({ ANNOTATIONS: sandbox.pod.annotations });
        }
        self.exec(name, self.environment(verb, sandbox), &input)
    }

    pub(crate) fn environment(&self, verb: &str, sandbox: &Sandbox) -> Vec<(String, String)> {
        let pod = &sandbox.pod;
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            pod.namespace, pod.name, sandbox.id, pod.uid
        );
        let netns = sandbox.netns.path().display().to_string();
        let set = [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", sandbox.id.clone()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", args),
        ];
        set.into_iter().map(|(key, value)| (key.to_owned(), value)).chain([self.cni_path()]).collect()
    }

    fn cni_path(&self) -> (String, String) {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|d| d.display().to_string()).collect();
        ("CNI_PATH".to_owned(), dirs.join(":"))
    }

    /// Runs one plugin; the answer on standard output is a result, an error, or nothing.
    fn exec(&self, name: &str, env: Vec<(String, String)>, input: &Value) -> Result<Result<Value, CniError>> {
        let program = self.bin_dirs.iter().map(|d| d.join(name)).find(|p| p.is_file());
        let program = program.with_context(|| format!("no plugin {name} in {:?}", self.bin_dirs))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("--").arg(&program).envs(env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let mut stdin = child.stdin.take().context("a plugin's standard input")?;
        // A plugin that does not read its input (VERSION) may be gone by now.
        let _ = stdin.write_all(&serde_json::to_vec(input)?);
        drop(stdin);
        let done = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
        if done.status.success() {
            let empty = done.stdout.iter().all(u8::is_ascii_whitespace);
            let value = if empty { Value::Null } else { serde_json::from_slice(&done.stdout)? };
            return Ok(Ok(value));
        }
        let error: Result<CniError, _> = serde_json::from_slice(&done.stdout);
        match error {
            Ok(error) => Ok(Err(CniError { plugin: name.to_owned(), ..error })),
            Err(_) => bail!(
                "{name} failed ({}) without a CNI error: {}{}",
                done.status,
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            ),
        }
    }
}

fn plugins(list: &Value) -> Result<Vec<&Value>> {
    Ok(list["plugins"].as_array().context("a configuration without plugins")?.iter().collect())
}

/// What libcni hands to a plugin: its entry with the list's name and version, and the previous result.
pub(crate) fn entry(list: &Value, plugin: &Value, previous: Option<&Value>) -> Value {
    let mut input = plugin.clone();
    input["name"] = list["name"].clone();
    input["cniVersion"] = list["cniVersion"].clone();
    if let Some(previous) = previous {
        input["prevResult"] = previous.clone();
    }
    input
}

/// Writes the primary network of a node: the reference `bridge` plugin with `host-local` addresses.
pub fn write_primary(conf_dir: &Path, version: &str, bridge: &str, subnet: &str, data: &Path) -> Result<()> {
    let list = json!({
        "cniVersion": version,
        "name": "primary",
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": data,
                "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    fs::create_dir_all(conf_dir).with_context(|| format!("creating {}", conf_dir.display()))?;
    let path = conf_dir.join("10-primary.conflist");
    fs::write(&path, serde_json::to_vec_pretty(&list)?).with_context(|| format!("writing {}", path.display()))
}
