//! Asking the agent.
//!
//! Owns one connection at a time and the patience for an agent that is being restarted: until it has answered, the
//! request is sent again, which the agent's operations allow.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use trunkline_agent::protocol::{Outcome, Request, Response};

use crate::failure::{PluginFailure, code};

/// Pause between attempts; it doubles from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How much earlier than we the agent must give up, so that its message arrives.
const MARGIN: Duration = Duration::from_millis(500);

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;

/// How long to try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// When an answer must be there.
    pub(crate) until: Instant,
    /// When to give up finding an agent at all; not later than `until`.
    pub(crate) reach_until: Instant,
}

/// Nobody answered in time.
#[derive(Debug)]
pub(crate) struct Unanswered(io::Error);

impl Unanswered {
    /// In words for whoever reads the pod's Events.
    pub(crate) fn into_failure(self, socket: &str, waited: Duration, consequence: &str) -> PluginFailure {
        let msg = format!(
            "trunkline-agent did not answer at {socket} within {} s ({}); {consequence}. Look at the node's agent: \
             kubectl -n trunkline-system get pods -o wide",
            waited.as_secs(),
            self.0
        );
        PluginFailure::new(code::TRY_AGAIN, msg)
    }
}

/// Sends the request until it is answered. The outer error: nobody answered. The inner one: the agent's failure.
pub(crate) fn ask(
    socket: &str,
    request: &Request,
    attempt: Attempt,
) -> Result<Result<(), PluginFailure>, Unanswered> {
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = ask_once(socket, request, attempt.until);
        let outcome = match outcome.map(|response| response.outcome) {
            Ok(Outcome::Ok(_)) => return Ok(Ok(())),
            Ok(Outcome::Error(failure)) if failure.code == code::AGENT_NOT_READY => {
                Ok(Err(PluginFailure(failure)))
            }
            Ok(Outcome::Error(failure)) => return Ok(Err(PluginFailure(failure))),
            Err(error) => Err(Unanswered(error)),
        };
        if Instant::now() + pause >= attempt.reach_until {
            return outcome;
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn ask_once(socket: &str, request: &Request, until: Instant) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    let for_agent = left.saturating_sub(MARGIN).max(left / 2);
    let request = Request {
        deadline_ms: u64::try_from(for_agent.as_millis()).unwrap_or(u64::MAX).max(1),
        ..request.clone()
    };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection without an answer",
        ));
    }
    Ok(serde_json::from_slice(&answer)?)
}
