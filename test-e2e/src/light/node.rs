//! One light node: a network namespace with a NIC in the cluster network and uplinks, its own Open vSwitch, a
//! primary CNI, and the agent with paths of its own.
//!
//! The agent runs in a mount namespace whose `/var/lib/trunkline` and boot id are the node's, so that nothing of it
//! is shared and a reboot looks like one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use serde_json::Value;

use crate::control_plane::{ControlPlane, SERVER_IP, User};
use crate::light::bpffs::Bpffs;
use crate::light::http;
use crate::light::ovs::Ovs;
use crate::light::usage::Usage;
use crate::netns::Netns;
use crate::process::{self, Process};
use crate::run::Run;
use crate::runtime::{self, Runtime};
use crate::switch::Switch;
use crate::tools::{self, Tool};
use crate::{debs, objects, paths, wait};

/// The port of the agent's health and metrics, in the node's own namespace.
const HEALTH_PORT: u16 = 10351;
/// How long an agent may take until it is ready and its conflist is written.
const READY: Duration = Duration::from_secs(90);
/// The audience of tokens for the IPAM service.
pub const IPAM_AUDIENCE: &str = "trunkline-ipam";

/// What a node is to have.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Uplinks: name of the NIC and number of the physical network it is plugged into.
    pub uplinks: Vec<(String, u8)>,
    /// The value of `secondaryNetwork.ovsBridges`, as YAML in one line.
    pub bridges: String,
    /// The agent's `datapathType`.
    pub datapath: String,
    /// More lines of the agent's configuration.
    pub more: String,
    /// The primary network's CNI version.
    pub cni_version: String,
    /// Turn generic receive offload of the uplinks on, which userspace datapaths do not bear.
    pub uplink_gro: bool,
}

impl Default for NodeOptions {
    /// One bridge `br-secondary` over `up1` in physical network 1.
    fn default() -> Self {
        Self {
            uplinks: vec![("up1".to_owned(), 1)],
            bridges: r#"[{"bridgeName": "br-secondary", "physicalInterfaces": ["up1"]}]"#.to_owned(),
            datapath: datapath(),
            more: String::new(),
            cni_version: "1.0.0".to_owned(),
            uplink_gro: false,
        }
    }
}

/// A light node.
#[derive(Debug)]
pub struct LightNode {
    name: String,
    index: u8,
    run: Arc<Run>,
    dir: PathBuf,
    data: PathBuf,
    options: Mutex<NodeOptions>,
    netns: Netns,
    bpffs: Bpffs,
    ovs: Ovs,
    agent: Mutex<Option<Process>>,
    object: Mutex<Node>,
    /// The switch's port that each uplink is plugged into.
    plugged: Mutex<BTreeMap<String, String>>,
}

impl LightNode {
    /// Makes the node and its Node object; the agent is not started yet.
    pub async fn create(
        run: &Arc<Run>,
        switch: &Switch,
        plane: &ControlPlane,
        index: u8,
        options: NodeOptions,
    ) -> Result<Self> {
        tools::prepare(tools::LIGHT)?;
        let name = format!("n{index}");
        let (dir, data) = (run.dir().join(&name), run.data(&name)?);
        let netns = Netns::create(run, &name)?;
        let plugged = Mutex::new(plug(switch, &netns, index, &options)?);
        let bpffs = Bpffs::create(run, dir.join("bpf"))?;
        let ovs = Ovs::start(run, &name, &netns, &dir.join("ovs"), &data)?;
        let client = plane.client().await?;
        let object = objects::create_node(&client, &name, &address(index)).await?;
        let (run, options) = (run.clone(), Mutex::new(options));
        let (agent, object) = (Mutex::default(), Mutex::new(object));
        let node = Self { name, index, run, dir, data, options, netns, bpffs, ovs, agent, object, plugged };
        node.install_files()?;
        node.renew_identity(plane, &client).await?;
        Ok(node)
    }

    fn install_files(&self) -> Result<()> {
        fs::create_dir_all(self.data.join("state")).context("creating the agent's state folder")?;
        self.new_boot_id()?;
        fs::create_dir_all(self.bin_dir()).context("creating the folder of plugins")?;
        let plugin = self.bin_dir().join("trunkline-cni");
        fs::copy(paths::binary("trunkline-cni")?, &plugin).context("installing the plugin")?;
        self.write_primary()?;
        self.write_config()
    }

    /// Writes the primary network's conflist, as its installer does.
    pub fn write_primary(&self) -> Result<()> {
        let version = self.options().cni_version.clone();
        let subnet = format!("10.244.{}.0/24", self.index);
        runtime::write_primary(&self.conf_dir(), &version, "cni0", &subnet, &self.dir.join("host-local"))
    }

    fn new_boot_id(&self) -> Result<()> {
        let random = rand::random::<u128>();
        let hex = format!("{random:032x}");
        let id = format!("{}-{}-{}-{}-{}\n", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        fs::write(self.data.join("boot_id"), id).context("writing the node's boot id")
    }

    /// Gives the agent new tokens, bound to the Node object that is there now.
    pub async fn renew_identity(&self, plane: &ControlPlane, client: &Client) -> Result<()> {
        let object = lock(&self.object).clone();
        let token = objects::node_bound_token(client, "trunkline-agent", &object, "").await?;
        fs::write(self.dir.join("token"), token).context("writing the agent's token")?;
        let token = objects::node_bound_token(client, "trunkline-agent", &object, IPAM_AUDIENCE).await?;
        fs::write(self.ipam_token(), token).context("writing the agent's token for IPAM")?;
        let user = User::TokenFile(self.dir.join("token"));
        plane.issue_kubeconfig(&format!("agent-{}", self.name), &user)?;
        Ok(())
    }

    /// Replaces the Node object by a new one, as a node that was deleted registers itself again.
    pub async fn register_again(&self, plane: &ControlPlane, client: &Client) -> Result<()> {
        let object = objects::create_node(client, &self.name, &address(self.index)).await?;
        *lock(&self.object) = object;
        self.renew_identity(plane, client).await
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node's Open vSwitch.
    pub fn ovs(&self) -> &Ovs {
        &self.ovs
    }

    /// The Node object as it was when it was made.
    pub fn object(&self) -> Node {
        lock(&self.object).clone()
    }

    /// Pulls the cable of an uplink, or puts it back.
    pub fn set_cable(&self, switch: &Switch, uplink: &str, plugged: bool) -> Result<()> {
        let port = lock(&self.plugged).get(uplink).cloned();
        switch.set_carrier(&port.with_context(|| format!("{} has no uplink {uplink}", self.name))?, plugged)
    }

    /// The node's address in the cluster network.
    pub fn address(&self) -> String {
        address(self.index)
    }

    fn options(&self) -> MutexGuard<'_, NodeOptions> {
        lock(&self.options)
    }

    /// Where CNI configurations are.
    pub fn conf_dir(&self) -> PathBuf {
        self.data.join("net.d")
    }

    /// Where our plugin is.
    pub fn bin_dir(&self) -> PathBuf {
        self.data.join("bin")
    }

    /// The node's BPF file system.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The agent's token for the IPAM service.
    pub fn ipam_token(&self) -> PathBuf {
        self.dir.join("ipam-token")
    }

    /// The agent's token for the API server.
    pub fn api_token(&self) -> Result<String> {
        fs::read_to_string(self.dir.join("token")).context("reading the agent's token")
    }

    /// The agent's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.data.join("trunkline-agent.conf")
    }

    /// The node's runtime, which runs the chain that is in force.
    pub fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime {
            netns: self.netns.path().to_owned(),
            conf_dir: self.conf_dir(),
            bin_dirs: vec![self.bin_dir(), tools::dir(Tool::CniBridge)?],
            cache_dir: self.data.join("results"),
            hands_over_annotations: true,
        })
    }

    /// Changes the node's options and writes the agent's configuration anew.
    pub fn reconfigure(&self, change: impl FnOnce(&mut NodeOptions)) -> Result<()> {
        change(&mut self.options());
        self.write_config()
    }

    fn write_config(&self) -> Result<()> {
        let options = self.options();
        let text = format!(
            "featureGates:\n  SecondaryNetwork: true\n  AntreaIPAM: true\n\
             secondaryNetwork:\n  ovsBridges: {}\n\
             datapathType: {}\novsRunDir: {}\ncniBinDir: {}\ncniConfDir: {}\n{}",
            options.bridges,
            options.datapath,
            self.ovs.run_dir().display(),
            self.bin_dir().display(),
            self.conf_dir().display(),
            options.more,
        );
        let new = self.config_file().with_extension("new");
        fs::write(&new, text).context("writing the agent's configuration")?;
        fs::rename(&new, self.config_file()).context("putting the agent's configuration in place")
    }

    /// What `trunkctl` prints of this node, as JSON.
    pub fn trunkctl(&self, args: &[&str]) -> Result<Vec<Value>> {
        let mut command = Command::new(paths::binary("trunkctl")?);
        command.args(args).args(["-o", "json", "--socket"]).arg(self.agent_socket());
        serde_json::from_str(&process::output(&mut command)?).context("reading trunkctl's list")
    }

    /// Starts the agent; see [`Self::wait_agent_ready`].
    pub fn start_agent(&self, plane: &ControlPlane) -> Result<()> {
        // Slave propagation: namespaces mounted later under /run/netns must show up.
        let mut command = self.netns.command("unshare");
        command.args(["-m", "--propagation", "slave", "sh", "-ec", MOUNTS, "sh"]);
        command.arg(self.data.join("state")).arg(self.data.join("boot_id"));
        command.arg(paths::binary("trunkline-agent")?).arg("--config").arg(self.config_file());
        command.args(["--node-name", &self.name, "--namespace", "trunkline-system"]);
        command.arg("--kubeconfig").arg(plane.file(&format!("agent-{}.kubeconfig", self.name)));
        command.arg("--bpffs").arg(self.bpffs.path());
        command.arg("--socket").arg(self.agent_socket()).arg("--ipam-token-file").arg(self.ipam_token());
        let process = Process::spawn(&self.run, &format!("{}-agent", self.name), command)?;
        *lock(&self.agent) = Some(process);
        Ok(())
    }

    /// Waits until the agent is ready and has written its conflist.
    pub async fn wait_agent_ready(&self) -> Result<()> {
        wait::until(&format!("the agent of {} is ready", self.name), READY, || async {
            if let Some(agent) = lock(&self.agent).as_ref() {
                agent.check()?;
            }
            let ready = self.agent_http("/readyz").is_ok();
            Ok((ready && self.conf_dir().join("00-trunkline.conflist").exists()).then_some(()))
        })
        .await
    }

    /// GET of the agent's HTTP port; fails on any status but 200.
    pub fn agent_http(&self, path: &str) -> Result<String> {
        http::get(self.netns.path(), HEALTH_PORT, path)
    }

    /// Stops the agent in an orderly way.
    pub fn stop_agent(&self) {
        if let Some(agent) = lock(&self.agent).take() {
            agent.stop(Duration::from_secs(10));
        }
    }

    /// Kills the agent with `SIGKILL`.
    pub fn kill_agent(&self) {
        if let Some(agent) = lock(&self.agent).take() {
            agent.kill();
        }
    }

    /// What the running agent takes up.
    pub fn agent_usage(&self) -> Result<Usage> {
        let agent = lock(&self.agent);
        Usage::of(agent.as_ref().context("the agent does not run")?.id().pid)
    }

    /// The path of the agent's log.
    pub fn agent_log(&self) -> PathBuf {
        self.run.log(&format!("{}-agent", self.name))
    }

    /// Everything that a reboot does to a node: processes and links are gone, disks stay, the boot id is new.
    ///
    /// Pods' sandboxes must have been dropped before, and the agent be started after.
    pub fn reboot(&self, switch: &Switch) -> Result<()> {
        self.kill_agent();
        self.ovs.kill_switch();
        self.ovs.kill_server();
        let _ = fs::remove_dir_all(self.ovs.run_dir());
        let _ = fs::remove_file(self.agent_socket());
        let _ = fs::remove_dir_all(self.data.join("results"));
        let _ = fs::remove_dir_all(self.dir.join("host-local"));
        self.netns.recreate()?;
        self.bpffs.remount()?;
        self.new_boot_id()?;
        let options = self.options().clone();
        *lock(&self.plugged) = plug(switch, &self.netns, self.index, &options)?;
        self.ovs.start_daemons(&self.netns)
    }
}

/// In the agent's mount namespace: a private /var/lib with the node's folder, and the node's boot id.
const MOUNTS: &str = "mount -t tmpfs trunkline /var/lib; mkdir /var/lib/trunkline; \
    mount --bind \"$1\" /var/lib/trunkline; mount --bind \"$2\" /proc/sys/kernel/random/boot_id; shift 2; exec \"$@\"";

/// Plugs all NICs in; returns the switch's port of each uplink.
fn plug(
    switch: &Switch,
    netns: &Netns,
    index: u8,
    options: &NodeOptions,
) -> Result<BTreeMap<String, String>> {
    switch.plug_mgmt(netns, "eth0", &format!("{}/24", address(index)))?;
    netns.ip(&format!("route add default via {SERVER_IP}"))?;
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    let mut plugged = BTreeMap::new();
    for (name, fabric) in &options.uplinks {
        plugged.insert(name.clone(), switch.plug_fabric(netns, name, *fabric)?);
        if options.uplink_gro {
            ethtool(netns, &["-K", name, "gro", "on"])?;
        }
    }
    Ok(plugged)
}

/// Whether ethtool says that a feature (`tx-checksumming`, …) of a link is on.
pub fn offloads(netns: &Netns, link: &str, feature: &str) -> Result<bool> {
    let said = ethtool(netns, &["-k", link])?;
    let line = said.lines().find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "));
    Ok(line.with_context(|| format!("ethtool knows no {feature} of {link}: {said}"))?.starts_with("on"))
}

/// Runs ethtool in a namespace.
pub fn ethtool(netns: &Netns, args: &[&str]) -> Result<String> {
    process::output(debs::ethtool()?.command_in(netns, "sbin/ethtool").args(args))
}

fn address(index: u8) -> String {
    format!("198.51.100.{}", 10 + index)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a node's state folder is, for tests that look into the journal.
pub fn state_dir(run: &Run, node: &str) -> PathBuf {
    Path::new(run.out()).join(node).join("state")
}

/// The datapath that light nodes use: `TRUNKLINE_E2E_DATAPATH`, by default `netdev`, which needs no kernel module.
pub fn datapath() -> String {
    std::env::var("TRUNKLINE_E2E_DATAPATH")
        .ok()
        .filter(|kind| !kind.is_empty())
        .unwrap_or("netdev".to_owned())
}
