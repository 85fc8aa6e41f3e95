//! The plugin's real binary, run as a runtime runs it, against a small agent on a socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PREV_RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.2/24"}],"dns":{}}"#;

/// One call of the plugin.
struct Call {
    command: &'static str,
    config: String,
    environment: Vec<(&'static str, String)>,
}

impl Call {
    fn new(command: &'static str, socket: &Path, annotations: Option<Value>) -> Self {
        let runtime_config = match annotations {
            Some(annotations) => json!({ "io.kubernetes.cri.pod-annotations": annotations }),
            None => json!({}),
        };
        let config = format!(
            r#"{{"cniVersion":"1.0.0","name":"net","type":"trunkline-cni","socket":{},"timeoutSeconds":5,"runtimeConfig":{runtime_config},"prevResult":{PREV_RESULT}}}"#,
            json!(socket),
        );
        let pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";
        let environment = vec![
            ("CNI_CONTAINERID", "c0ffee".to_owned()),
            ("CNI_NETNS", "/run/netns/x".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_ARGS", pod.to_owned()),
        ];
        Self { command, config, environment }
    }

    fn run(&self) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trunkline-cni"))
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .envs(self.environment.clone())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        child.stdin.take().expect("piped").write_all(self.config.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    }
}

fn asks() -> Value {
    json!({ "k8s.v1.cni.cncf.io/networks": "vlan100" })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn error_of(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("an error object")
}

/// Answers each connection with the next line; an empty one closes without an answer. Yields the requests.
fn agent(socket: &Path, answers: &[&str]) -> mpsc::Receiver<Value> {
    let listener = UnixListener::bind(socket).expect("binds");
    let (requests, received) = mpsc::channel();
    let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("reads");
            // Not every test looks at the requests.
            let _ = requests.send(serde_json::from_str(&line).expect("a request"));
            if !answer.is_empty() {
                writeln!(stream, "{answer}").expect("writes");
            }
        }
    });
    received
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("agent.sock");
    (directory, socket)
}

#[test]
fn a_pod_that_asks_for_nothing_needs_no_agent() {
    let (_directory, socket) = place();
    for annotations in [Value::Null, json!({}), json!({ "k8s.v1.cni.cncf.io/networks": "" })] {
        let output = Call::new("ADD", &socket, Some(annotations.clone())).run();
        assert!(output.status.success(), "{annotations}: {output:?}");
        assert_eq!(text(&output.stdout), PREV_RESULT, "{annotations}");
        let output = Call::new("DEL", &socket, Some(annotations)).run();
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn add_hands_everything_to_the_agent_and_returns_the_previous_result_unchanged() {
    let (_directory, socket) = place();
    let requests = agent(&socket, &[r#"{"version":1,"ok":{"interfaces":["eth1"]}}"#]);
    let output = Call::new("ADD", &socket, Some(asks())).run();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), PREV_RESULT);
    let request = requests.recv().expect("a request");
    for (key, value) in [
        ("version", json!(1)),
        ("op", json!("add")),
        ("container_id", json!("c0ffee")),
        ("netns", json!("/run/netns/x")),
        ("ifname", json!("eth0")),
        ("network", json!("net")),
        ("annotations", json!({ "k8s.v1.cni.cncf.io/networks": "vlan100" })),
        ("prev_result", serde_json::from_str(PREV_RESULT).expect("JSON")),
    ] {
        assert_eq!(request[key], value, "{key}");
    }
    assert_eq!(request["args"]["K8S_POD_NAME"], "web-0");
    let deadline = request["deadline_ms"].as_u64().expect("a number");
    assert!((3500..=4500).contains(&deadline), "{deadline}");
    assert!(request["started_unix_ms"].as_u64().expect("a number") > 1_600_000_000_000);
}

#[test]
fn the_agents_failure_is_printed_word_for_word() {
    let (_directory, socket) = place();
    agent(
        &socket,
        &[r#"{"version":1,"error":{"code":100,"msg":"network shop/vlan100 is not there","details":"d"}}"#],
    );
    let error = error_of(&Call::new("ADD", &socket, Some(asks())).run());
    let expected = json!({
        "cniVersion": "1.0.0", "code": 100, "msg": "trunkline: network shop/vlan100 is not there", "details": "d"
    });
    assert_eq!(error, expected);
}

#[test]
fn add_waits_for_an_agent_that_is_being_restarted() {
    let (_directory, socket) = place();
    let later = socket.clone();
    let starter = thread::spawn(move || {
        thread::sleep(Duration::from_millis(600));
        let starting = r#"{"version":1,"error":{"code":102,"msg":"starting"}}"#;
        agent(&later, &["", starting, r#"{"version":1,"ok":{}}"#])
    });
    let output = Call::new("ADD", &socket, Some(asks())).run();
    assert!(output.status.success(), "{output:?}");
    let requests = starter.join().expect("no panic");
    assert_eq!(requests.iter().count(), 3, "closed without an answer, not ready, answered");
}

#[test]
fn add_without_an_agent_fails_closed_and_says_what_to_look_at() {
    let (_directory, socket) = place();
    let begun = Instant::now();
    let error = error_of(&Call::new("ADD", &socket, Some(asks())).run());
    assert!((4..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(error["code"], 11);
    let msg = error["msg"].as_str().expect("a message");
    assert!(msg.contains(&format!("did not answer at {} within 5 s", socket.display())), "{msg}");
    assert!(msg.contains("kubectl -n trunkline-system get pods -o wide"), "{msg}");
}

#[test]
fn del_without_an_agent_succeeds_after_a_short_while() {
    let (_directory, socket) = place();
    let begun = Instant::now();
    let output = Call::new("DEL", &socket, Some(asks())).run();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!((3..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(text(&output.stderr).contains("orphan collection takes over"), "{output:?}");
}

#[test]
fn del_of_a_pod_of_which_nothing_is_known_asks_the_agent() {
    let (_directory, socket) = place();
    let requests = agent(&socket, &[r#"{"version":1,"ok":{}}"#]);
    let output = Call::new("DEL", &socket, None).run();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let request = requests.recv().expect("a request");
    assert_eq!((&request["op"], &request["annotations"]), (&json!("del"), &Value::Null));
}

#[test]
fn an_agent_that_fails_a_del_does_not_keep_the_pod() {
    let (_directory, socket) = place();
    agent(&socket, &[r#"{"version":1,"error":{"code":100,"msg":"OVS is down"}}"#]);
    let output = Call::new("DEL", &socket, Some(asks())).run();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(text(&output.stderr).contains("OVS is down"), "{output:?}");
}

#[test]
fn without_annotations_from_the_runtime_only_allowed_namespaces_start_unasked() {
    let (_directory, socket) = place();
    let mut call = Call::new("ADD", &socket, None);
    call.environment.push(("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns".to_owned()));
    let output = call.run();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), PREV_RESULT.to_owned()));

    let requests = agent(&socket, &[r#"{"version":1,"ok":{}}"#]);
    assert!(Call::new("ADD", &socket, None).run().status.success());
    assert_eq!(requests.recv().expect("the agent looks the pod up")["annotations"], Value::Null);
}

#[test]
fn check_asks_the_agent() {
    let (_directory, socket) = place();
    agent(&socket, &[r#"{"version":1,"error":{"code":100,"msg":"eth1 is gone"}}"#]);
    assert_eq!(error_of(&Call::new("CHECK", &socket, Some(asks())).run())["msg"], "trunkline: eth1 is gone");
    let mut old = Call::new("CHECK", &socket, Some(asks()));
    old.config = old.config.replacen("1.0.0", "0.3.1", 1);
    assert_eq!(error_of(&old.run())["code"], 1, "0.3.1 has no CHECK");
}

#[test]
fn status_and_gc_succeed_without_an_agent_and_version_lists_what_is_spoken() {
    let (_directory, socket) = place();
    for command in ["STATUS", "GC"] {
        let mut call = Call::new(command, &socket, None);
        call.environment.clear();
        let output = call.run();
        assert!(output.status.success() && output.stdout.is_empty(), "{command}: {output:?}");
    }
    let mut call = Call::new("VERSION", &socket, None);
    call.config = r#"{"cniVersion":"1.1.0"}"#.to_owned();
    let answer: Value = serde_json::from_slice(&call.run().stdout).expect("JSON");
    let expected =
        json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
    assert_eq!(answer, expected);
}

#[test]
fn every_conflist_version_is_served_and_others_are_refused() {
    let (_directory, socket) = place();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut call = Call::new("ADD", &socket, Some(json!({})));
        call.config = call.config.replace("1.0.0", version);
        let output = call.run();
        assert_eq!(text(&output.stdout), PREV_RESULT.replace("1.0.0", version));
    }
    let mut call = Call::new("ADD", &socket, Some(json!({})));
    call.config = call.config.replacen("1.0.0", "0.2.0", 1);
    let error = error_of(&call.run());
    assert_eq!((&error["code"], &error["cniVersion"]), (&json!(1), &json!("1.1.0")));
}

#[test]
fn wrong_calls_get_the_specifications_codes() {
    let (_directory, socket) = place();
    let add = || Call::new("ADD", &socket, Some(asks()));
    let mut cases = [
        (Call::new("NOPE", &socket, None), 4, "CNI_COMMAND is \"NOPE\""),
        (add(), 4, "CNI_CONTAINERID is not set"),
        (add(), 4, "CNI_NETNS is not set"),
        (add(), 6, "not a JSON object"),
        (add(), 7, "no prevResult"),
        (add(), 7, "timeoutSeconds is 500"),
    ];
    cases[1].0.environment.remove(0);
    cases[2].0.environment.remove(1);
    cases[3].0.config = "[]".to_owned();
    cases[4].0.config = cases[4].0.config.replace("prevResult", "other");
    cases[5].0.config = cases[5].0.config.replace("\"timeoutSeconds\":5", "\"timeoutSeconds\":500");
    for (call, code, words) in cases {
        let error = error_of(&call.run());
        assert_eq!(error["code"], code, "{words}");
        let msg = error["msg"].as_str().expect("a message");
        assert!(msg.contains(words), "{msg}");
    }
}
