//! A real control plane in a network namespace of its own: etcd, kube-apiserver and, if asked for, scheduler and
//! controller-manager.
//!
//! The API server listens on port 443 of 198.51.100.10 (where nodes are) and of 10.96.0.1 (what pods are told).
//! RBAC and Node authorisation are on, anonymous access is off. It never listens outside the run's namespaces; the
//! test process and people come in through a forwarder on 127.0.0.1.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::forward::Forwarder;
use crate::netns::Netns;
use crate::pki::{Identity, Pki};
use crate::process::{self, Process};
use crate::run::Run;
use crate::switch::Switch;
use crate::tools::{self, Tool};
use crate::wait;

/// The API server's address on the cluster network, and every node's default gateway.
pub const SERVER_IP: &str = "198.51.100.10";
/// The cluster address of the `kubernetes` Service, which pods are told.
pub const SERVICE_IP: &str = "10.96.0.1";
/// How long the API server may take until it is ready.
const READY: Duration = Duration::from_mins(3);

/// What to run beside etcd and kube-apiserver.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// etcd calls fdatasync. Off is quicker, and only for what claims no durability.
    pub fsync: bool,
    /// kube-scheduler.
    pub scheduler: bool,
    /// kube-controller-manager.
    pub controller_manager: bool,
}

impl Options {
    /// What light nodes need.
    pub const LIGHT: Self = Self { fsync: true, scheduler: false, controller_manager: false };
    /// What real nodes need. They show no durability, and a disk that stalls for seconds would cost them their leases.
    pub const FULL: Self = Self { fsync: false, scheduler: true, controller_manager: true };
}

/// A running control plane. Its processes end when it is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    run: Arc<Run>,
    options: Options,
    netns: Netns,
    dir: PathBuf,
    pki: Pki,
    token: String,
    forwarder: Forwarder,
    etcd: Mutex<Option<Process>>,
    apiserver: Mutex<Option<Process>>,
    others: Mutex<Vec<Process>>,
}

impl ControlPlane {
    /// Starts it and waits until it is ready.
    pub async fn start(run: &Arc<Run>, switch: &Switch, options: Options) -> Result<Self> {
        let begin = Instant::now();
        let plane = Self::prepare(run, switch, options)?;
        plane.start_etcd()?;
        plane.start_apiserver()?;
        plane.wait_ready().await?;
        plane.start_others()?;
        eprintln!("control plane ready in {:.1} s", begin.elapsed().as_secs_f32());
        Ok(plane)
    }

    fn prepare(run: &Arc<Run>, switch: &Switch, options: Options) -> Result<Self> {
        tools::prepare(tools::CONTROL_PLANE)?;
        let netns = Netns::create(run, "cp")?;
        switch.plug_mgmt(&netns, "eth0", &format!("{SERVER_IP}/24"))?;
        netns.ip(&format!("addr add {SERVICE_IP}/32 dev lo"))?;
        let dir = run.data("control-plane")?;
        let pki = Pki::create(&dir.join("pki"))?;
        let token = format!("{:032x}", rand::random::<u128>());
        let target = SocketAddr::new(SERVER_IP.parse().context("the server's address")?, 443);
        let forwarder = Forwarder::spawn(run, "forward", netns.path(), target)?;
        let none = || Mutex::new(None);
        let (etcd, apiserver, others) = (none(), none(), Mutex::default());
        let run = run.clone();
        let plane = Self { run, options, netns, dir, pki, token, forwarder, etcd, apiserver, others };
        plane.write_files()?;
        Ok(plane)
    }

    fn write_files(&self) -> Result<()> {
        fs::write(self.dir.join("tokens.csv"), format!("{},admin,admin,system:masters\n", self.token))
            .context("writing the admin's token")?;
        let names = [
            "127.0.0.1",
            SERVER_IP,
            SERVICE_IP,
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        self.pki.issue("apiserver", "kube-apiserver", "", &names)?;
        self.pki.issue("etcd", "etcd", "", &["127.0.0.1", "localhost"])?;
        self.pki.issue("kubelet-client", "apiserver-kubelet-client", "system:masters", &[])?;
        self.pki.issue("front-proxy-client", "front-proxy-client", "", &[])?;
        self.write_kubeconfig("admin-inside", SERVER_IP, &User::Token(self.token.clone()))?;
        let outside = self.forwarder.address.to_string();
        self.write_kubeconfig("admin", &outside, &User::Token(self.token.clone()))?;
        Ok(())
    }

    /// The namespace it runs in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cluster's certificate authority.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// An administrator's kubeconfig that works from an ordinary shell of this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// An administrator's kubeconfig for processes inside the cluster network.
    pub fn kubeconfig_inside(&self) -> PathBuf {
        self.dir.join("admin-inside.kubeconfig")
    }

    /// Writes `<name>.kubeconfig` for processes inside the cluster network and returns its path.
    pub fn issue_kubeconfig(&self, name: &str, user: &User) -> Result<PathBuf> {
        self.write_kubeconfig(name, SERVER_IP, user)
    }

    fn write_kubeconfig(&self, name: &str, server: &str, user: &User) -> Result<PathBuf> {
        let path = self.dir.join(format!("{name}.kubeconfig"));
        let config = self.kubeconfig_value(server, user)?;
        fs::write(&path, serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn kubeconfig_value(&self, server: &str, user: &User) -> Result<serde_json::Value> {
        use base64::Engine as _;
        let ca = fs::read(self.pki.ca_cert()).context("reading the CA's certificate")?;
        let ca = base64::engine::general_purpose::STANDARD.encode(ca);
        let user = match user {
            User::Token(token) => serde_json::json!({ "token": token }),
            User::TokenFile(path) => serde_json::json!({ "tokenFile": path }),
            User::Certificate(id) => {
                serde_json::json!({ "client-certificate": id.cert, "client-key": id.key })
            }
        };
        Ok(serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{server}"), "certificate-authority-data": ca}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }))
    }

    /// A client with the administrator's rights, for the test process.
    pub async fn client(&self) -> Result<kube::Client> {
        self.client_as(&User::Token(self.token.clone())).await
    }

    /// A client with somebody else's rights, for the test process.
    pub async fn client_as(&self, user: &User) -> Result<kube::Client> {
        let value = self.kubeconfig_value(&self.forwarder.address.to_string(), user)?;
        let config: Kubeconfig = serde_json::from_value(value).context("reading our own kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .context("loading our own kubeconfig")?;
        kube::Client::try_from(config).context("making a client")
    }

    /// Runs kubectl as the administrator and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.kubectl_command()?.args(args))
    }

    /// Runs kubectl as the administrator with `input` on its standard input.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command()?;
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl's standard input")?;
        stdin.write_all(input.as_bytes()).context("writing to kubectl")?;
        drop(stdin);
        let done = child.wait_with_output().context("waiting for kubectl")?;
        if !done.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
        }
        String::from_utf8(done.stdout).context("kubectl printed no text")
    }

    /// Applies YAML or JSON as the administrator, on the server's side.
    ///
    /// An emulated machine takes longer to describe its API than kubectl waits for that: there kubectl does not look
    /// for unknown fields. The light tier does, with the same objects.
    pub fn apply(&self, text: &str) -> Result<()> {
        let validate = if wait::patience() == 1 { "--validate=strict" } else { "--validate=false" };
        let args = ["apply", "--server-side", validate, "--filename", "-"];
        self.kubectl_with_input(&args, text).map(drop)
    }

    /// A kubectl command for the administrator, without verbs.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(tools::path(Tool::Kubectl)?);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        Ok(command)
    }

    /// Waits until `/readyz` says ok.
    pub async fn wait_ready(&self) -> Result<()> {
        let client = self.client().await?;
        wait::until("the API server is ready", READY, || async {
            for process in [&self.etcd, &self.apiserver] {
                if let Some(process) = lock(process).as_ref() {
                    process.check()?;
                }
            }
            let request = http_get("/readyz")?;
            Ok(client.request_text(request).await.ok().filter(|text| text == "ok"))
        })
        .await
        .map(drop)
    }

    /// Kills the API server; etcd goes on.
    pub fn stop_apiserver(&self) {
        if let Some(process) = lock(&self.apiserver).take() {
            process.kill();
        }
    }

    /// Starts the API server (again); see [`Self::wait_ready`].
    pub fn start_apiserver(&self) -> Result<()> {
        let mut command = self.netns.command(tools::path(Tool::KubeApiserver)?);
        command.args(self.apiserver_flags());
        *lock(&self.apiserver) = Some(Process::spawn(&self.run, "kube-apiserver", command)?);
        Ok(())
    }

    fn start_etcd(&self) -> Result<()> {
        let file = |name: &str| self.dir.join("pki").join(name).display().to_string();
        let mut command = self.netns.command(tools::path(Tool::Etcd)?);
        command.args(["--name", "default", "--data-dir"]).arg(self.dir.join("etcd"));
        command.args([
            "--listen-client-urls=https://127.0.0.1:2379",
            "--advertise-client-urls=https://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
            "--client-cert-auth",
            "--log-level=warn",
        ]);
        command.arg(format!("--cert-file={}", file("etcd.crt")));
        command.arg(format!("--key-file={}", file("etcd.key")));
        command.arg(format!("--trusted-ca-file={}", file("ca.crt")));
        if !self.options.fsync {
            command.arg("--unsafe-no-fsync");
        }
        *lock(&self.etcd) = Some(Process::spawn(&self.run, "etcd", command)?);
        Ok(())
    }

    fn apiserver_flags(&self) -> Vec<String> {
        let file = |name: &str| self.dir.join("pki").join(name).display().to_string();
        let mut flags: Vec<String> = [
            "--bind-address=0.0.0.0",
            "--secure-port=443",
            "--endpoint-reconciler-type=none",
            "--etcd-servers=https://127.0.0.1:2379",
            "--anonymous-auth=false",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP,Hostname",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--shutdown-delay-duration=0s",
        ]
        .map(str::to_owned)
        .to_vec();
        flags.push(format!("--advertise-address={SERVER_IP}"));
        flags.push(format!("--token-auth-file={}", self.dir.join("tokens.csv").display()));
        let files = [
            ("etcd-cafile", "ca.crt"),
            ("etcd-certfile", "etcd.crt"),
            ("etcd-keyfile", "etcd.key"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("kubelet-client-certificate", "kubelet-client.crt"),
            ("kubelet-client-key", "kubelet-client.key"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("requestheader-client-ca-file", "ca.crt"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
        ];
        flags.extend(files.iter().map(|(flag, name)| format!("--{flag}={}", file(name))));
        flags
    }

    fn start_others(&self) -> Result<()> {
        if self.options.controller_manager {
            self.start_component(
                Tool::KubeControllerManager,
                "system:kube-controller-manager",
                &[
                    "--use-service-account-credentials".to_owned(),
                    format!(
                        "--service-account-private-key-file={}",
                        self.pki.service_account_key().display()
                    ),
                    format!("--root-ca-file={}", self.pki.ca_cert().display()),
                    format!("--cluster-signing-cert-file={}", self.pki.ca_cert().display()),
                    format!("--cluster-signing-key-file={}", self.pki.ca_key().display()),
                ],
            )?;
        }
        if self.options.scheduler {
            self.start_component(Tool::KubeScheduler, "system:kube-scheduler", &[])?;
        }
        Ok(())
    }

    fn start_component(&self, tool: Tool, user: &str, flags: &[String]) -> Result<()> {
        let identity = self.pki.issue(tool.name(), user, "", &[])?;
        let kubeconfig = self.issue_kubeconfig(tool.name(), &User::Certificate(identity))?;
        let mut command = self.netns.command(tools::path(tool)?);
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{flag}={}", kubeconfig.display()));
        }
        command.args(["--bind-address=127.0.0.1", "--leader-elect=false"]).args(flags);
        lock(&self.others).push(Process::spawn(&self.run, tool.name(), command)?);
        Ok(())
    }

    /// A file of the control plane's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Whom a kubeconfig stands for.
#[derive(Clone, Debug)]
pub enum User {
    /// The owner of a bearer token.
    Token(String),
    /// The owner of the bearer token in a file, read anew as it changes.
    TokenFile(PathBuf),
    /// The subject of a certificate.
    Certificate(Identity),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("making a request")
}
