//! `trunkline-agent dump` and `flows`: asks the running agent over its socket and prints the answer.
//!
//! Owns one blocking request; must never start anything.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use thiserror::Error;

use crate::protocol::{Operation, Outcome, Response, VERSION};

/// The agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no dump.
#[derive(Debug, Error)]
pub enum DumpError {
    /// Nobody listens.
    #[error("the agent does not answer at {} (is it running on this node?)", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent at {} broke off", socket.display())]
    Talk {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The answer is not one.
    #[error("the agent's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
}

/// Prints the answer to one question to standard output.
pub fn print(socket: &Path, question: Operation) -> Result<(), DumpError> {
    let dump = ask(socket, question)?;
    let text = serde_json::to_string_pretty(&dump).map_err(DumpError::Answer)?;
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(DumpError::Talk { socket: socket.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn ask(socket: &Path, question: Operation) -> Result<serde_json::Value, DumpError> {
    let stream = UnixStream::connect(socket)
        .map_err(|source| DumpError::Connect { socket: socket.to_owned(), source })?;
    let line =
        talk(stream, question).map_err(|source| DumpError::Talk { socket: socket.to_owned(), source })?;
    let response: Response = serde_json::from_str(&line).map_err(DumpError::Answer)?;
    match response.outcome {
        Outcome::Ok(dump) => Ok(dump),
        Outcome::Error(failure) => Err(DumpError::Refused(failure.msg)),
    }
}

fn talk(mut stream: UnixStream, question: Operation) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", json!({ "version": VERSION, "op": question, "deadline_ms": 10_000 }))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_agent_is_said_with_its_socket() {
        let error = ask(Path::new("/nonexistent/agent.sock"), Operation::Dump).expect_err("nobody listens");
        assert!(error.to_string().contains("/nonexistent/agent.sock"));
    }

    #[test]
    fn the_dump_is_the_payload_of_one_request() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a request");
            writeln!(stream, r#"{{"version":1,"ok":{{"node":"a"}}}}"#).expect("an answer");
            line
        });
        assert_eq!(ask(&socket, Operation::Dump).expect("a dump")["node"], "a");
        let request: crate::protocol::Request =
            serde_json::from_str(&server.join().expect("the server ends")).expect("a request");
        assert_eq!(request.op, Operation::Dump);
    }
}
