//! A controller as a process, in a namespace of its own in the cluster network.
//!
//! Its address is 198.51.100.(200 + number), as a pod's would be the pod network's.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;

use crate::control_plane::{ControlPlane, SERVER_IP, User};
use crate::light::http;
use crate::netns::Netns;
use crate::process::Process;
use crate::run::Run;
use crate::switch::Switch;
use crate::{objects, paths, wait};

/// The port of the controller's health and metrics.
const HEALTH_PORT: u16 = 10352;
/// How long a controller may take until it answers.
const LIVE: Duration = Duration::from_secs(90);

/// A light controller.
#[derive(Debug)]
pub struct Controller {
    name: String,
    run: Arc<Run>,
    netns: Netns,
    address: String,
    process: Mutex<Option<Process>>,
}

impl Controller {
    /// Makes its namespace and credentials; the process is not started yet.
    pub async fn create(
        run: &Arc<Run>,
        switch: &Switch,
        plane: &ControlPlane,
        client: &Client,
        index: u8,
    ) -> Result<Self> {
        let name = format!("controller-{index}");
        let netns = Netns::create(run, &format!("c{index}"))?;
        let address = format!("198.51.100.{}", 200 + index);
        switch.plug_mgmt(&netns, "eth0", &format!("{address}/24"))?;
        netns.ip(&format!("route add default via {SERVER_IP}"))?;
        let token = objects::free_token(client, "trunkline-controller").await?;
        plane.issue_kubeconfig(&name, &User::Token(token))?;
        let controller = Self { name, run: run.clone(), netns, address, process: Mutex::default() };
        controller.configure("gcGracePeriodSeconds: 10\ngcIntervalSeconds: 1\nleaseDurationSeconds: 8\n")?;
        Ok(controller)
    }

    /// Writes its configuration: the gate on, and these lines.
    pub fn configure(&self, more: &str) -> Result<()> {
        fs::write(self.config_file(), format!("featureGates:\n  AntreaIPAM: true\n{more}"))
            .context("writing a controller's configuration")
    }

    fn config_file(&self) -> std::path::PathBuf {
        self.run.dir().join(format!("{}.conf", self.name))
    }

    /// Starts it; see [`Self::wait_live`].
    pub fn start(&self, plane: &ControlPlane) -> Result<()> {
        let mut command = self.netns.command(paths::binary("trunkline-controller")?);
        command.arg("--config").arg(self.config_file());
        command.arg("--kubeconfig").arg(plane.file(&format!("{}.kubeconfig", self.name)));
        command.args([
            "--namespace",
            "trunkline-system",
            "--pod-ip",
            &self.address,
            "--pod-name",
            &self.name,
        ]);
        let process = Process::spawn(&self.run, &self.name, command)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// Waits until its health says that it runs.
    pub async fn wait_live(&self) -> Result<()> {
        wait::until(&format!("{} runs", self.name), LIVE, || async {
            if let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                process.check()?;
            }
            self.http("/healthz").map(Some)
        })
        .await
        .map(drop)
    }

    /// GET of its HTTP port.
    pub fn http(&self, path: &str) -> Result<String> {
        http::get(self.netns.path(), HEALTH_PORT, path)
    }

    /// Stops it in an orderly way.
    pub fn stop(&self) {
        if let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.stop(Duration::from_secs(10));
        }
    }

    /// Kills it with `SIGKILL`.
    pub fn kill(&self) {
        if let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.kill();
        }
    }
}
