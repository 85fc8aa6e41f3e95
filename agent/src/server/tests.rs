//! The socket, its deadlines and its versions.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncReadExt;

use super::*;

/// Succeeds at once, or never: a pod called `slow` is waited for until cancelled.
#[derive(Default)]
struct Handler {
    cancelled: Arc<AtomicBool>,
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl CniHandler for Handler {
    async fn add(&self, request: SandboxRequest, _: Deadline) -> Result<AddReply, Failure> {
        if request.pod_name == "slow" {
            let _guard = OnDrop(Arc::clone(&self.cancelled));
            std::future::pending::<()>().await;
        }
        Ok(AddReply { interfaces: vec!["eth1".to_owned()] })
    }

    async fn del(&self, _: SandboxRequest, _: Deadline) -> Result<(), Failure> {
        Ok(())
    }

    async fn check(&self, request: SandboxRequest, _: Deadline) -> Result<(), Failure> {
        Err(Failure { code: 100, msg: format!("{} has no eth1", request.pod_name), details: String::new() })
    }

    fn flows(&self) -> Result<Value, Failure> {
        Ok(json!({ "flows": [] }))
    }

    fn dump(&self) -> Value {
        json!({ "node": "n1" })
    }
}

struct Running {
    directory: tempfile::TempDir,
    stop: CancellationToken,
    cancelled: Arc<AtomicBool>,
    task: JoinSet<()>,
}

impl Running {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let handler = Handler::default();
        let cancelled = Arc::clone(&handler.cancelled);
        let server = CniServer::bind(&directory.path().join("run/agent.sock")).expect("binds");
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(server.run(Arc::new(handler), stop.clone()));
        Self { directory, stop, cancelled, task }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/agent.sock")
    }

    async fn ask(&self, request: &str) -> Value {
        let mut stream = UnixStream::connect(self.socket()).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream.write_all(b"\n").await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    async fn wait_for_cancel(&self) {
        let waited = timeout(Duration::from_secs(5), async {
            while !self.cancelled.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("the handler is cancelled");
    }
}

fn request(op: &str, pod: &str, deadline_ms: u64) -> String {
    json!({
        "version": 1, "op": op, "container_id": "c1", "netns": "/run/netns/x", "ifname": "eth0",
        "args": { "K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod }, "deadline_ms": deadline_ms,
    })
    .to_string()
}

#[tokio::test]
async fn each_operation_is_answered() {
    let server = Running::start();
    let cases = [
        (request("add", "web", 1000), json!({ "version": 1, "ok": { "interfaces": ["eth1"] } })),
        (request("del", "web", 1000), json!({ "version": 1, "ok": {} })),
        (
            request("check", "web", 1000),
            json!({ "version": 1, "error": { "code": 100, "msg": "web has no eth1" } }),
        ),
        (r#"{"version":1,"op":"ping"}"#.to_owned(), json!({ "version": 1, "ok": {} })),
        (r#"{"version":1,"op":"dump"}"#.to_owned(), json!({ "version": 1, "ok": { "node": "n1" } })),
    ];
    for (request, expected) in cases {
        assert_eq!(server.ask(&request).await, expected, "{request}");
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_get_a_cni_error() {
    let server = Running::start();
    for (request, code, words) in [
        ("nonsense", 6, "cannot read"),
        (r#"{"version":7,"op":"ping"}"#, 11, "speaks protocol version 7, this trunkline-agent 1 to 1"),
        (r#"{"version":1,"op":"add"}"#, 4, "CNI_ARGS has no K8S_POD_NAMESPACE"),
    ] {
        let answer = server.ask(request).await;
        assert_eq!(answer["error"]["code"], code, "{request}");
        let msg = answer["error"]["msg"].as_str().expect("a message");
        assert!(msg.contains(words), "{msg}");
    }
}

#[tokio::test]
async fn a_passed_deadline_cancels_the_handler_and_says_so() {
    let server = Running::start();
    let answer = server.ask(&request("add", "slow", 50)).await;
    assert_eq!(answer["error"]["code"], code::DEADLINE);
    assert_eq!(
        answer["error"]["msg"],
        "pod default/slow: its secondary networks were not ready within 0.05 s"
    );
    server.wait_for_cancel().await;
}

#[tokio::test]
async fn a_plugin_that_hangs_up_cancels_the_handler() {
    let server = Running::start();
    let mut stream = UnixStream::connect(server.socket()).await.expect("connects");
    stream.write_all(request("add", "slow", 60_000).as_bytes()).await.expect("writes");
    stream.write_all(b"\n").await.expect("writes");
    drop(stream);
    server.wait_for_cancel().await;
}

#[tokio::test]
async fn the_socket_belongs_to_root_alone_and_a_stale_one_is_replaced() {
    let server = Running::start();
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&server.socket()), 0o600);
    assert_eq!(mode(server.socket().parent().expect("a directory")), 0o755);
    let second = CniServer::bind(&server.socket()).expect_err("it is served");
    assert!(matches!(second, ServerError::InUse { .. }), "{second}");

    let mut server = server;
    server.stop.cancel();
    while server.task.join_next().await.is_some() {}
    assert!(server.socket().exists(), "the file stays, so that plugins retry");
    CniServer::bind(&server.socket()).expect("a stale socket is no obstacle");
}

#[tokio::test]
async fn stopping_lets_an_open_request_end() {
    let mut server = Running::start();
    let mut stream = UnixStream::connect(server.socket()).await.expect("connects");
    // Served before the stop: the ping's answer proves that the connection after it is accepted, too.
    server.ask(r#"{"version":1,"op":"ping"}"#).await;
    server.stop.cancel();
    stream.write_all(b"{\"version\":1,\"op\":\"ping\"}\n").await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.contains("\"ok\""), "{answer}");
    while server.task.join_next().await.is_some() {}
}
