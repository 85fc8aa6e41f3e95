//! A real etcd and kube-apiserver on loopback, the controller's binary, and an agent's client.
//!
//! Owns the processes it starts and ends them on every way out. Must never mock the API server. Without the binaries
//! (`KUBEBUILDER_ASSETS`) tests are skipped, loudly; under `CI=true` that is a failure.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use trunkline_api::{IPAllocation, IPPool};
use trunkline_ipam::proto::ipam_client::IpamClient;
use trunkline_ipam::proto::{self};
use trunkline_ipam::{ADDRESS_ANNOTATION, CA_KEY, CA_NAME, LEASE_NAME, SERVER_NAME, TOKEN_AUDIENCE};

pub(crate) const NAMESPACE: &str = "trunkline-system";
const ADMIN: &str = "test-admin-token";

/// Everything here becomes true within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the binaries are, if they are.
pub(crate) fn assets() -> Option<PathBuf> {
    let found = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = found.filter(|dir| dir.join("kube-apiserver").is_file() && dir.join("etcd").is_file());
    if found.is_none() {
        let message = "SKIPPED: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("{message}");
    }
    found
}

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    /// Ends it at once, without a word.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(&mut self) {
        let pid = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.is_ok_and(|status| status.success()), "cannot signal {pid}");
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// etcd and kube-apiserver with our CRDs.
pub(crate) struct ControlPlane {
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    _apiserver: Process,
    _etcd: Process,
    dir: TempDir,
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl ControlPlane {
    pub(crate) async fn start(assets: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let (client_port, peer_port, api_port) = (free_port(), free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let etcd = Process::start(
            Command::new(assets.join("etcd"))
                .arg("--data-dir")
                .arg(at("etcd"))
                .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .arg(format!("--initial-cluster=default={peer_url}"))
                .arg("--unsafe-no-fsync"),
            &at("etcd.log"),
        );
        let key = rcgen::KeyPair::generate().expect("a key");
        std::fs::write(at("sa.key"), key.serialize_pem()).expect("written");
        std::fs::write(at("sa.pub"), key.public_key_pem()).expect("written");
        std::fs::write(at("tokens.csv"), format!("{ADMIN},admin,admin,system:masters\n")).expect("written");
        let apiserver = Process::start(
            Command::new(assets.join("kube-apiserver"))
                .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
                .args([
                    "--endpoint-reconciler-type",
                    "none",
                    "--anonymous-auth=false",
                    "--authorization-mode=RBAC",
                ])
                .args(["--service-cluster-ip-range", "10.96.0.0/16"])
                .args(["--service-account-issuer", "https://kubernetes.default.svc"])
                .args(["--etcd-servers", &etcd_url, "--secure-port", &api_port.to_string()])
                .args(["--disable-admission-plugins", "ServiceAccount"])
                .arg("--service-account-key-file")
                .arg(at("sa.pub"))
                .arg("--service-account-signing-key-file")
                .arg(at("sa.key"))
                .arg("--cert-dir")
                .arg(at("certs"))
                .arg("--token-auth-file")
                .arg(at("tokens.csv")),
            &at("apiserver.log"),
        );
        let kubeconfig = at("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{api_port}"), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": ADMIN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).expect("written");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = kube::config::Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(read, &options).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        let plane = Self { client, kubeconfig, _apiserver: apiserver, _etcd: etcd, dir };
        plane.prepare().await;
        plane
    }

    async fn prepare(&self) {
        eventually("the API server answers", async || self.client.apiserver_version().await.ok()).await;
        let apply = PatchParams::apply("test").force();
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for crd in trunkline_api::crds() {
            eventually("a CRD is taken", async || {
                crds.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await.ok()
            })
            .await;
            eventually("a CRD is established", async || {
                let conditions = crds.get(&crd.name_any()).await.ok()?.status?.conditions?;
                conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
            })
            .await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = object(json!({"metadata": {"name": NAMESPACE}}));
        eventually("the namespace", async || {
            namespaces.create(&PostParams::default(), &namespace).await.ok()
        })
        .await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        for name in ["trunkline-agent", "default"] {
            let account = object(json!({"metadata": {"name": name}}));
            accounts.create(&PostParams::default(), &account).await.expect("an account");
        }
    }

    pub(crate) async fn node(&self, name: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .create(&PostParams::default(), &object(json!({"metadata": {"name": name}})))
            .await
            .expect("a node");
    }

    /// Makes a pod of this node and says its UID.
    pub(crate) async fn pod(&self, name: &str, node: &str) -> proto::Pod {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let pod = object(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
        }));
        let pod = eventually("a pod", async || pods.create(&PostParams::default(), &pod).await.ok()).await;
        proto::Pod { namespace: "default".to_owned(), name: name.to_owned(), uid: pod.uid().expect("a UID") }
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let now = kube::api::DeleteParams::default().grace_period(0);
        pods.delete(name, &now).await.expect("deleted");
    }

    /// A pool of VLAN 100 with this gateway and range.
    pub(crate) async fn pool(&self, name: &str, gateway: &str, prefix_length: u8, first: &str, last: &str) {
        let pool = object(json!({
            "metadata": {"name": name},
            "spec": {
                "ipRanges": [{"start": first, "end": last}],
                "subnetInfo": {"gateway": gateway, "prefixLength": prefix_length, "vlan": 100},
            },
        }));
        self.pools().create(&PostParams::default(), &pool).await.expect("a pool");
    }

    pub(crate) fn pools(&self) -> Api<IPPool> {
        Api::all(self.client.clone())
    }

    pub(crate) fn allocations(&self) -> Api<IPAllocation> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn allocation_names(&self) -> Vec<String> {
        let list = self.allocations().list(&kube::api::ListParams::default()).await.expect("a list");
        let mut names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// A token of an account, bound to a node if one is named.
    pub(crate) async fn token(&self, account: &str, audience: &str, node: Option<&str>) -> String {
        let bound = match node {
            None => None,
            Some(name) => {
                let node = Api::<Node>::all(self.client.clone()).get(name).await.expect("the node");
                Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Node".to_owned()),
                    name: Some(name.to_owned()),
                    uid: node.uid(),
                })
            }
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: bound,
            expiration_seconds: Some(3600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        made.expect("a token").status.expect("its status").token
    }

    /// Starts a replica of the controller with short periods.
    pub(crate) fn controller(&self, name: &str) -> Process {
        let config = self.dir.path().join(format!("{name}.conf"));
        let text = format!(
            "featureGates:\n  AntreaIPAM: true\nipamBindAddress: 127.0.0.1\nipamPort: {}\n\
             metricsBindAddress: 127.0.0.1\nmetricsPort: {}\ngcGracePeriodSeconds: 10\ngcIntervalSeconds: 1\n\
             leaseDurationSeconds: 6\n",
            free_port(),
            free_port(),
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-controller"));
        command.arg("--config").arg(&config).arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--pod-ip", "127.0.0.1", "--pod-name", name, "--namespace", NAMESPACE]);
        Process::start(&mut command, &self.dir.path().join(format!("{name}.log")))
    }

    /// What a replica has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Identity and address of the leader.
    pub(crate) async fn leader(&self) -> Option<(String, String)> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = leases.get_opt(LEASE_NAME).await.ok()??;
        let address = lease.annotations().get(ADDRESS_ANNOTATION)?.clone();
        let holder = lease.spec?.holder_identity.filter(|holder| !holder.is_empty())?;
        Some((holder, address))
    }

    /// A client of the leader, with this token.
    pub(crate) async fn agent(&self, token: &str) -> Agent {
        let (_, address) = eventually("there is a leader", async || self.leader().await).await;
        self.agent_at(&address, token).await
    }

    /// A client of the replica at this address.
    pub(crate) async fn agent_at(&self, address: &str, token: &str) -> Agent {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let ca = eventually("the CA is published", async || {
            maps.get_opt(CA_NAME).await.ok()??.data?.get(CA_KEY).cloned()
        })
        .await;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
        let channel = endpoint.tls_config(tls).expect("TLS").connect_lazy();
        Agent { client: IpamClient::new(channel), token: token.to_owned() }
    }

    /// An agent of this node, once it is served.
    pub(crate) async fn agent_of(&self, node: &str) -> Agent {
        let token = self.token("trunkline-agent", TOKEN_AUDIENCE, Some(node)).await;
        eventually("the leader serves", async || {
            let mut agent = self.agent(&token).await;
            agent.list(node).await.ok().map(|_| agent)
        })
        .await
    }
}

fn object<K: serde::de::DeserializeOwned>(json: serde_json::Value) -> K {
    serde_json::from_value(json).expect("a test's object")
}

/// What an agent's client does.
#[derive(Clone)]
pub(crate) struct Agent {
    client: IpamClient<Channel>,
    token: String,
}

impl Agent {
    fn call<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let bearer = format!("Bearer {}", self.token).parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    pub(crate) async fn allocate(
        &mut self,
        request: proto::AllocateRequest,
    ) -> Result<proto::AllocateResponse, tonic::Status> {
        let request = self.call(request);
        self.client.allocate(request).await.map(tonic::Response::into_inner)
    }

    /// The addresses of an allocation, "interface pool address/prefix" in order.
    pub(crate) async fn addresses(
        &mut self,
        request: proto::AllocateRequest,
    ) -> Result<Vec<String>, tonic::Status> {
        let response = self.allocate(request).await?;
        let of = |interface: proto::InterfaceAllocation| {
            let name = interface.interface;
            interface
                .addresses
                .into_iter()
                .map(move |given| format!("{name} {} {}/{}", given.pool, given.address, given.prefix_length))
                .collect::<Vec<_>>()
        };
        Ok(response.interfaces.into_iter().flat_map(of).collect())
    }

    pub(crate) async fn release(
        &mut self,
        pod: &proto::Pod,
        node: &str,
        sandbox: &str,
    ) -> Result<Vec<String>, tonic::Status> {
        let request = proto::ReleaseRequest {
            pod: Some(pod.clone()),
            sandbox: sandbox.to_owned(),
            node: node.to_owned(),
            interfaces: Vec::new(),
        };
        let request = self.call(request);
        self.client.release(request).await.map(|response| response.into_inner().released)
    }

    pub(crate) async fn list(&mut self, node: &str) -> Result<Vec<proto::Claim>, tonic::Status> {
        let request = self.call(proto::ListByNodeRequest { node: node.to_owned() });
        self.client.list_by_node(request).await.map(|response| response.into_inner().claims)
    }

    pub(crate) async fn report(
        &mut self,
        request: proto::ReportConflictRequest,
    ) -> Result<(), tonic::Status> {
        let request = self.call(request);
        self.client.report_conflict(request).await.map(|_| ())
    }
}

/// An Allocate call for a pod: (interface, pools) each.
pub(crate) fn ask(
    pod: &proto::Pod,
    node: &str,
    sandbox: &str,
    interfaces: &[(&str, &[&str])],
) -> proto::AllocateRequest {
    let interface = |(name, pools): &(&str, &[&str])| proto::InterfaceRequest {
        interface: (*name).to_owned(),
        nad: "default/net".to_owned(),
        pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
        vlan: None,
        ips: Vec::new(),
    };
    proto::AllocateRequest {
        pod: Some(pod.clone()),
        sandbox: sandbox.to_owned(),
        node: node.to_owned(),
        interfaces: interfaces.iter().map(interface).collect(),
    }
}
