//! The client against a real gRPC service over TLS, scripted by call number and token.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use trunkline_ipam::proto::{
    AllocateResponse, ListByNodeResponse, ReleaseResponse, ReportConflictResponse,
    ipam_server::{Ipam, IpamServer},
};

use super::*;

type Script = fn(call: usize, token: &str) -> Result<(), Status>;

struct Scripted {
    calls: Arc<AtomicUsize>,
    script: Script,
}

impl Scripted {
    fn answer<Req, Resp: Default>(&self, request: &Request<Req>) -> Result<Response<Resp>, Status> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let token = request.metadata().get("authorization").expect("a token").to_str().expect("text");
        (self.script)(call, token).map(|()| Response::new(Resp::default()))
    }
}

#[tonic::async_trait]
impl Ipam for Scripted {
    async fn allocate(&self, r: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        assert_eq!(r.get_ref().node, "node-a");
        self.answer(&r)
    }
    async fn release(&self, r: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        self.answer(&r)
    }
    async fn list_by_node(
        &self,
        r: Request<ListByNodeRequest>,
    ) -> Result<Response<ListByNodeResponse>, Status> {
        self.answer(&r)
    }
    async fn report_conflict(
        &self,
        r: Request<ReportConflictRequest>,
    ) -> Result<Response<ReportConflictResponse>, Status> {
        self.answer(&r)
    }
}

/// A controller: its address, how often it was called, and its task.
struct Controller {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

struct Bench {
    ca: String,
    key: String,
    dir: tempfile::TempDir,
    address: watch::Sender<Option<String>>,
    ca_slot: watch::Sender<Option<String>>,
    client: IpamClient,
    worker: Option<ReleaseWorker>,
}

impl Bench {
    fn new() -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let name = "trunkline-controller.trunkline-system.svc".to_owned();
        let certified = rcgen::generate_simple_self_signed(vec![name]).expect("a certificate");
        let (ca, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("token"), "old\n").expect("a token");
        let (address, address_receiver) = watch::channel(None);
        let (ca_slot, ca_receiver) = watch::channel(Some(ca.clone()));
        let options = IpamOptions {
            node: "node-a".into(),
            token_file: dir.path().join("token"),
            address: address_receiver,
            ca: ca_receiver,
        };
        let (client, worker) = IpamClient::new(options, Metrics::new());
        Self { ca, key, dir, address, ca_slot, client, worker: Some(worker) }
    }

    async fn controller(&self, script: Script) -> Controller {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let calls = Arc::new(AtomicUsize::new(0));
        let service = IpamServer::new(Scripted { calls: Arc::clone(&calls), script });
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&self.ca, &self.key));
        let server = Server::builder().tls_config(tls).expect("a good certificate").add_service(service);
        let mut task = JoinSet::new();
        task.spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
        });
        Controller { address, calls, _task: task }
    }

    fn lead(&self, controller: &Controller) {
        self.address.send_replace(Some(controller.address.to_string()));
    }

    async fn allocate(&self, within: Duration) -> Result<AllocateResponse, IpamError> {
        self.client.allocate(AllocateRequest::default(), Instant::now() + within).await
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_call_waits_for_a_leader_and_is_then_answered() {
    let bench = Bench::new();
    let controller = bench.controller(|_, token| {
        assert_eq!(token, "Bearer old");
        Ok(())
    });
    let controller = controller.await;
    let (answer, ()) = tokio::join!(bench.allocate(LONG), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.lead(&controller);
    });
    answer.expect("an answer");
    assert_eq!(controller.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_deposed_leader_is_left_for_the_new_one_at_once() {
    let bench = Bench::new();
    let old = bench.controller(|_, _| Err(Status::failed_precondition("not the leader"))).await;
    let new = bench.controller(|_, _| Ok(())).await;
    bench.lead(&old);
    let (answer, ()) = tokio::join!(bench.allocate(LONG), async {
        while old.calls.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.lead(&new);
    });
    answer.expect("an answer");
    assert_eq!(new.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_in_the_controllers_words() {
    let bench = Bench::new();
    let controller = bench.controller(|_, _| Err(Status::resource_exhausted("IPPool p is full"))).await;
    bench.lead(&controller);
    let error = bench.allocate(LONG).await.expect_err("a refusal");
    assert_eq!(error.to_string(), "IPPool p is full");
    assert_eq!(controller.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_controller_the_deadline_is_kept_and_said_why() {
    let bench = Bench::new();
    let started = Instant::now();
    let error = bench.allocate(Duration::from_millis(100)).await.expect_err("nobody there");
    assert!(matches!(error, IpamError::NoController) && error.is_transient());
    bench.address.send_replace(Some("127.0.0.1:1".into()));
    let error = bench.allocate(Duration::from_millis(200)).await.expect_err("nobody listens");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    bench.ca_slot.send_replace(None);
    let error = bench.allocate(Duration::from_millis(50)).await.expect_err("no CA");
    assert!(matches!(error, IpamError::NoCa), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    let bench = Bench::new();
    let controller = bench
        .controller(|_, token| match token {
            "Bearer new" => Ok(()),
            _ => Err(Status::unauthenticated("token expired")),
        })
        .await;
    bench.lead(&controller);
    let (answer, ()) = tokio::join!(bench.allocate(LONG), async {
        while controller.calls.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::fs::write(bench.dir.path().join("token"), "new").expect("a token");
    });
    answer.expect("an answer");
}

#[tokio::test]
async fn a_token_that_stays_refused_is_a_refusal() {
    let bench = Bench::new();
    let controller = bench.controller(|_, _| Err(Status::unauthenticated("unknown token"))).await;
    bench.lead(&controller);
    let error = bench.allocate(LONG).await.expect_err("a refusal");
    assert!(!error.is_transient(), "{error}");
    assert_eq!(controller.calls.load(Ordering::SeqCst), TOKEN_ATTEMPTS as usize);
}

#[tokio::test]
async fn a_controller_with_another_ca_is_not_believed_until_the_ca_is_there() {
    let bench = Bench::new();
    let other = rcgen::generate_simple_self_signed(vec!["x".into()]).expect("a certificate").cert.pem();
    bench.ca_slot.send_replace(Some(other.clone()));
    let controller = bench.controller(|_, _| Ok(())).await;
    bench.lead(&controller);
    let error = bench.allocate(Duration::from_millis(300)).await.expect_err("not believed");
    assert!(error.is_transient(), "{error}");
    assert_eq!(controller.calls.load(Ordering::SeqCst), 0);
    bench.ca_slot.send_replace(Some(format!("{other}{}", bench.ca)));
    bench.allocate(LONG).await.expect("both CAs are published while they rotate");
}

#[tokio::test]
async fn a_release_in_the_background_is_repeated_until_it_is_taken() {
    let mut bench = Bench::new();
    let controller = bench
        .controller(|call, _| if call < 2 { Err(Status::unavailable("starting")) } else { Ok(()) })
        .await;
    let stop = CancellationToken::new();
    let worker = bench.worker.take().expect("taken once");
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run(stop.clone()));
    bench.client.release_later(ReleaseRequest::default());
    bench.lead(&controller);
    let taken = async {
        while controller.calls.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, taken).await.expect("it is repeated");
    stop.cancel();
    tasks.join_next().await.expect("a task").expect("it ends");
}
