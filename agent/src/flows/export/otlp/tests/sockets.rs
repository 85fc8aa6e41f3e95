//! The exporter's task against a server of the real protocol: what arrives, and what each way of failing costs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::*;
use crate::flows::export::{ExportConfig, ExporterCounts, Exporters, QUEUE_RECORDS};

pub(super) const SOON: Duration = Duration::from_secs(30);

/// What the server does with a request; it takes all once its script is at its end.
pub(super) enum Answer {
    Reject(i64),
    Status(Status),
    Never,
}

/// What the server was given.
#[derive(Clone, Default)]
pub(super) struct Taker {
    script: Arc<Mutex<VecDeque<Answer>>>,
    /// Sizes of requests that were acknowledged, and of all.
    pub(super) taken: Arc<Mutex<Vec<usize>>>,
    pub(super) seen: Arc<Mutex<Vec<usize>>>,
    pub(super) tenant: Arc<Mutex<Option<String>>>,
}

/// A server's own runtime: a server's connections outlive the task that accepts them, but not this.
pub(super) struct Listening(Option<Runtime>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl LogsService for Taker {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let tenant = request.metadata().get("x-tenant").map(|value| value.to_str().unwrap().to_owned());
        *held(&self.tenant) = tenant;
        let count = request.into_inner().resource_logs[0].scope_logs[0].log_records.len();
        held(&self.seen).push(count);
        let answer = held(&self.script).pop_front();
        let partial_success = match answer {
            Some(Answer::Never) => std::future::pending().await,
            Some(Answer::Status(status)) => return Err(status),
            Some(Answer::Reject(rejected_log_records)) => {
                Some(ExportLogsPartialSuccess { rejected_log_records, error_message: "too old".to_owned() })
            }
            None => None,
        };
        held(&self.taken).push(count);
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

impl Taker {
    pub(super) fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { script: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    /// Serves until what is returned is dropped, which ends every connection.
    pub(super) fn listen(&self, at: SocketAddr, identity: Option<Identity>) -> (SocketAddr, Listening) {
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let router = server.add_service(LogsServiceServer::new(self.clone()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            router.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        (address, Listening(Some(runtime)))
    }

    pub(super) fn taken(&self) -> usize {
        held(&self.taken).iter().sum()
    }

    pub(super) fn requests(&self) -> usize {
        held(&self.seen).len()
    }
}

pub(super) fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(super) fn start(config: &serde_json::Value) -> Exporters {
    let config: ExportConfig = serde_json::from_value(json!({"otlp": [config]})).unwrap();
    Exporters::start(&config, 7, "node-1").unwrap()
}

fn to(address: SocketAddr) -> Exporters {
    start(&json!({"endpoint": format!("http://{address}"), "timeoutSeconds": 1}))
}

pub(super) fn many(count: usize) -> Vec<Arc<Record>> {
    std::iter::repeat_n(Arc::new(tcp().into()), count).collect()
}

pub(super) async fn counts_once(
    exporters: &Exporters,
    so: impl Fn(&ExporterCounts) -> bool,
) -> ExporterCounts {
    let look = async {
        loop {
            let counts = exporters.counts().remove(0);
            if so(&counts) {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, look).await.unwrap_or_else(|_| panic!("never so: {:?}", exporters.counts()))
}

#[tokio::test]
async fn records_are_sent_once_they_are_acknowledged() {
    let server = Taker::default();
    let (address, _task) = server.listen(anywhere(), None);
    let exporters = start(&json!({"endpoint": format!("http://{address}"), "headers": {"x-tenant": "shop"}}));
    exporters.offer(&many(3000));
    let counts = counts_once(&exporters, |counts| counts.sent == 3000).await;
    assert_eq!((counts.kind.name(), counts.dropped, counts.errors, counts.waiting), ("otlp", 0, 0, 0));
    assert_eq!(server.taken(), 3000);
    assert_eq!(held(&server.tenant).as_deref(), Some("shop"));
    exporters.stop(SOON).await;
}

#[tokio::test]
async fn records_that_a_collector_rejects_are_dropped() {
    let server = Taker::answering([Answer::Reject(3), Answer::Reject(0), Answer::Reject(1000)]);
    let (address, _task) = server.listen(anywhere(), None);
    let exporters = to(address);
    for (sent, dropped, errors) in [(7, 3, 1), (17, 3, 1), (17, 13, 2)] {
        exporters.offer(&many(10));
        let counts = counts_once(&exporters, |counts| counts.sent + counts.dropped == sent + dropped).await;
        assert_eq!((counts.sent, counts.dropped, counts.errors), (sent, dropped, errors));
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_is_dropped_and_one_that_finds_no_room_is_sent_again() {
    let busy = || Answer::Status(Status::unavailable("memory limit"));
    let server = Taker::answering([Answer::Status(Status::invalid_argument("no")), busy(), busy()]);
    let (address, _task) = server.listen(anywhere(), None);
    let exporters = to(address);
    exporters.offer(&many(5));
    let counts = counts_once(&exporters, |counts| counts.dropped == 5).await;
    assert_eq!((counts.sent, counts.errors), (0, 1));
    exporters.offer(&many(6));
    let counts = counts_once(&exporters, |counts| counts.sent == 6).await;
    assert_eq!((counts.dropped, counts.errors), (5, 3));
    assert_eq!((server.requests(), server.taken()), (4, 6));
}

#[tokio::test]
async fn records_wait_for_a_collector_that_is_not_there_yet() {
    let address = TcpListener::bind(anywhere()).await.unwrap().local_addr().unwrap();
    let exporters = to(address);
    exporters.offer(&many(2000));
    let counts = counts_once(&exporters, |counts| counts.errors > 0).await;
    assert_eq!((counts.sent, counts.dropped), (0, 0));
    let server = Taker::default();
    let (_, _task) = server.listen(address, None);
    let counts = counts_once(&exporters, |counts| counts.sent == 2000).await;
    assert_eq!((counts.dropped, server.taken()), (0, 2000));
}

#[tokio::test]
async fn a_collector_that_vanishes_and_comes_back_gets_what_waited_and_nothing_twice() {
    let server = Taker::default();
    let (address, task) = server.listen(anywhere(), None);
    let exporters = to(address);
    exporters.offer(&many(10));
    counts_once(&exporters, |counts| counts.sent == 10).await;
    drop(task);
    // The connection that it had is broken: what is under way on it may be lost, and is counted then.
    let mut offered = 10;
    let begin = Instant::now();
    while exporters.counts()[0].errors == 0 {
        assert!(begin.elapsed() < SOON, "the collector is missed by nobody");
        exporters.offer(&many(1));
        offered += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exporters.offer(&many(5));
    offered += 5;
    let back = Taker::default();
    let (_, _task) = back.listen(address, None);
    let counts = counts_once(&exporters, |counts| counts.sent + counts.dropped == offered).await;
    // What was taken and not acknowledged any more counts as dropped.
    let arrived = u64::try_from(server.taken() + back.taken()).unwrap();
    assert!((counts.sent..=offered).contains(&arrived), "{arrived} arrived of {offered}: {counts:?}");
    assert!(back.taken() >= 5, "{counts:?}");
    exporters.offer(&many(20));
    let after = counts_once(&exporters, |now| now.sent == counts.sent + 20).await;
    assert_eq!((after.dropped, after.errors), (counts.dropped, counts.errors), "all is well again");
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_records_and_never_blocks() {
    let server = Taker::answering([Answer::Never, Answer::Never]);
    let (address, _task) = server.listen(anywhere(), None);
    let exporters = to(address);
    exporters.offer(&many(1));
    let begin = Instant::now();
    let counts = counts_once(&exporters, |counts| counts.dropped == 1).await;
    assert_eq!((counts.sent, counts.errors), (0, 1));
    assert!((1.0..10.0).contains(&begin.elapsed().as_secs_f64()), "one second is the limit");
    exporters.offer(&many(1));
    counts_once(&exporters, |_| server.requests() == 2).await;
    let before = Instant::now();
    exporters.offer(&many(QUEUE_RECORDS + 5000));
    assert!(before.elapsed() < Duration::from_secs(1), "offering waits");
    let counts = exporters.counts().remove(0);
    assert!(counts.dropped >= 5000 && counts.waiting <= QUEUE_RECORDS, "{counts:?}");
    let all = u64::try_from(QUEUE_RECORDS + 5002).unwrap();
    let counts = counts_once(&exporters, |counts| counts.sent + counts.dropped == all).await;
    assert_eq!(u64::try_from(server.taken()).unwrap(), counts.sent, "it answers again");
    assert!(server.requests() > 60, "what waited was sent: {counts:?}");
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing_costs_records_and_never_blocks() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let exporters = to(listener.local_addr().unwrap());
    exporters.offer(&many(10));
    let _silent = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let counts = counts_once(&exporters, |counts| counts.errors > 0).await;
    assert_eq!(counts.sent, 0);
    let before = Instant::now();
    exporters.stop(Duration::from_millis(200)).await;
    assert!(before.elapsed() < Duration::from_secs(2), "stopping waits");
}

/// Prints how long it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_full_of_records_goes_through_in_seconds() {
    let server = Taker::default();
    let (address, _task) = server.listen(anywhere(), None);
    let exporters = to(address);
    let begin = Instant::now();
    exporters.offer(&many(QUEUE_RECORDS));
    let all = u64::try_from(QUEUE_RECORDS).unwrap();
    let counts = counts_once(&exporters, |counts| counts.sent + counts.dropped == all).await;
    eprintln!("{} of {all} records in {:.2} s", counts.sent, begin.elapsed().as_secs_f64());
    assert_eq!(u64::try_from(server.taken()).unwrap(), counts.sent);
    assert_eq!(counts.dropped, 0, "{counts:?}");
}
