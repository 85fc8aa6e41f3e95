//! The socket's side of the conversation.

use tokio::net::UnixListener;

use super::*;

/// Answers one request with this line.
async fn answer(line: &'static str) -> anyhow::Result<NodeDump> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let serve = async {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).await.expect("a request");
        stream.write_all(line.as_bytes()).await.expect("an answer");
        let request: trunkline_agent::protocol::Request =
            serde_json::from_str(&request).expect("the protocol");
        assert_eq!(request.op, trunkline_agent::protocol::Operation::Dump);
    };
    tokio::join!(serve, ask(&path)).1
}

#[tokio::test]
async fn a_dump_is_read_from_the_socket() {
    let dump = answer("{\"version\":1,\"ok\":{\"node\":\"n1\",\"newer\":true}}\n").await.expect("a dump");
    assert_eq!(dump.node, "n1");
}

#[tokio::test]
async fn a_refusal_is_said_in_the_agents_words() {
    let answer = "{\"version\":1,\"error\":{\"code\":11,\"msg\":\"not yet\"}}\n";
    assert_eq!(self::answer(answer).await.expect_err("refused").to_string(), "not yet");
}

#[tokio::test]
async fn a_stopped_agent_is_said_with_its_socket() {
    let error = ask::<NodeDump>(Path::new("/nonexistent/agent.sock")).await.expect_err("nobody listens");
    let words = "the agent does not answer at /nonexistent/agent.sock (is it running on this node?)";
    assert_eq!(error.to_string(), words);
}

#[test]
fn silence_is_a_failure_that_counts_nodes() {
    let mut nodes: Nodes = Nodes { dumps: Vec::new(), silent: Vec::new() };
    assert!(nodes.complete().is_ok());
    nodes.dumps.push(NodeDump::default());
    nodes.silent.push(("n2".to_owned(), "no answer within 20 s".to_owned()));
    assert_eq!(nodes.complete().expect_err("silent").to_string(), "incomplete: 1 of 2 nodes did not answer");
}
