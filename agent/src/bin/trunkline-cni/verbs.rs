//! What each CNI command does.
//!
//! Owns the decisions: when the agent is asked, for how long, and what its silence means. ADD fails closed: a pod
//! that asks never runs without its interfaces. DEL fails open: what it leaves is collected by the agent.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use trunkline_agent::protocol::{self, Operation, Request};

use crate::agent::{self, Attempt};
use crate::conf::{Annotations, Conf, VERSIONS, version_of};
use crate::environment::{Command, Sandbox, arguments};
use crate::failure::{PluginFailure, code};
use crate::json;

/// How long DEL looks for an agent before it leaves the rest to orphan collection.
const DEL_UNREACHABLE: Duration = Duration::from_secs(5);

/// How long DEL waits for an agent that has the request.
const DEL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long CHECK waits in all.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one command and returns what to print.
pub(crate) fn run(command: Command, input: &[u8], started: SystemTime) -> Result<Vec<u8>, PluginFailure> {
    match command {
        Command::Version => Ok(version(input)),
        // The plugin runs, so it works: an agent that is being upgraded must not turn the node NotReady.
        // Garbage collection of attachments is the agent's own, by what the API server and the node say.
        Command::Status | Command::Gc => Ok(Vec::new()),
        Command::Add => add(&Conf::parse(input)?, started),
        Command::Del => del(&Conf::parse(input)?, started),
        Command::Check => check(&Conf::parse(input)?, started),
    }
}

fn version(input: &[u8]) -> Vec<u8> {
    json!({ "cniVersion": version_of(input), "supportedVersions": VERSIONS }).to_string().into_bytes()
}

fn add(conf: &Conf<'_>, started: SystemTime) -> Result<Vec<u8>, PluginFailure> {
    let version = conf.version()?;
    let sandbox = Sandbox::from_environment(Command::Add)?;
    let prev_result = conf.prev_result().ok_or_else(|| {
        let msg = "there is no prevResult: trunkline-cni must come after the primary plugin in its conflist";
        PluginFailure::new(code::INVALID_CONFIG, msg)
    })?;
    let annotations = conf.annotations()?;
    if annotations != Annotations::AsksNothing && !may_start_unasked(conf, annotations)? {
        let timeout = conf.timeout()?;
        let until = Instant::now() + timeout;
        let request = request(Operation::Add, sandbox, conf, annotations, started)?;
        let socket = conf.socket()?;
        agent::ask(&socket, &request, Attempt { until, reach_until: until }).map_err(|unanswered| {
            unanswered.into_failure(&socket, timeout, "the pod asks for secondary networks and waits for it")
        })??;
    }
    result_in_version(prev_result, &version)
}

fn del(conf: &Conf<'_>, started: SystemTime) -> Result<Vec<u8>, PluginFailure> {
    let sandbox = Sandbox::from_environment(Command::Del)?;
    // What cannot be read must not keep a pod from being deleted; then the agent decides.
    let annotations = conf.annotations().unwrap_or(Annotations::Unknown);
    if annotations == Annotations::AsksNothing {
        return Ok(Vec::new());
    }
    let now = Instant::now();
    let attempt = Attempt { until: now + DEL_TIMEOUT, reach_until: now + DEL_UNREACHABLE };
    let outcome = request(Operation::Del, sandbox, conf, annotations, started)
        .and_then(|request| Ok((request, conf.socket()?)))
        .and_then(|(request, socket)| {
            agent::ask(&socket, &request, attempt)
                .map_err(|unanswered| unanswered.into_failure(&socket, DEL_UNREACHABLE, "it was not told"))?
        });
    if let Err(PluginFailure(failure)) = outcome {
        // Failing would keep the pod in Terminating for as long as the agent cannot do it.
        eprintln!(
            "trunkline-cni: DEL: {} {}; the agent's orphan collection takes over",
            failure.msg, failure.details
        );
    }
    Ok(Vec::new())
}

fn check(conf: &Conf<'_>, started: SystemTime) -> Result<Vec<u8>, PluginFailure> {
    let version = conf.version()?;
    if version.starts_with("0.3.") {
        let msg = format!("cniVersion {version} has no CHECK; it came with 0.4.0");
        return Err(PluginFailure::new(code::INCOMPATIBLE_VERSION, msg));
    }
    let sandbox = Sandbox::from_environment(Command::Check)?;
    let annotations = conf.annotations()?;
    if annotations == Annotations::AsksNothing || may_start_unasked(conf, annotations)? {
        return Ok(Vec::new());
    }
    let until = Instant::now() + CHECK_TIMEOUT;
    let request = request(Operation::Check, sandbox, conf, annotations, started)?;
    let socket = conf.socket()?;
    agent::ask(&socket, &request, Attempt { until, reach_until: until }).map_err(|unanswered| {
        unanswered.into_failure(&socket, CHECK_TIMEOUT, "the pod's secondary networks cannot be checked")
    })??;
    Ok(Vec::new())
}

/// Where the runtime hands over no annotations, the pods that the agent itself needs start without it.
fn may_start_unasked(conf: &Conf<'_>, annotations: Annotations<'_>) -> Result<bool, PluginFailure> {
    if annotations != Annotations::Unknown {
        return Ok(false);
    }
    conf.allows_without_annotations(arguments().get("K8S_POD_NAMESPACE").map_or("", String::as_str))
}

fn request(
    op: Operation,
    sandbox: Sandbox,
    conf: &Conf<'_>,
    annotations: Annotations<'_>,
    started: SystemTime,
) -> Result<Request, PluginFailure> {
    let annotations = match annotations {
        Annotations::Asks(raw) => Some(serde_json::from_slice(raw).map_err(|error| {
            PluginFailure::new(code::DECODE, "the pod's annotations are not an object of strings")
                .with_details(error)
        })?),
        Annotations::AsksNothing | Annotations::Unknown => None,
    };
    let prev_result = conf.prev_result().map(serde_json::from_slice).transpose();
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Request {
        version: protocol::VERSION,
        op,
        container_id: sandbox.container_id,
        netns: sandbox.netns,
        ifname: sandbox.ifname,
        network: conf.name().into_owned(),
        args: arguments(),
        annotations,
        prev_result: prev_result.map_err(|error| {
            PluginFailure::new(code::DECODE, "prevResult is not a JSON object").with_details(error)
        })?,
        deadline_ms: 0,
        started_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
    })
}

/// The previous result, unchanged; one without a version gets the conflist's.
fn result_in_version(prev_result: &[u8], version: &str) -> Result<Vec<u8>, PluginFailure> {
    match json::member(prev_result, "cniVersion") {
        Ok(Some(_)) => Ok(prev_result.to_vec()),
        Ok(None) => {
            let separator =
                if json::members(prev_result).is_ok_and(|mut rest| rest.next().is_none()) { "" } else { "," };
            let rest = String::from_utf8_lossy(&prev_result[1..]);
            Ok(format!("{{\"cniVersion\":\"{version}\"{separator}{rest}").into_bytes())
        }
        Err(json::Malformed) => Err(PluginFailure::new(code::DECODE, "prevResult is not a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_previous_result_is_passed_on_byte_by_byte() {
        let result = br#"{ "cniVersion" : "0.4.0","ips":[ ] ,"x":"\u00e4" }"#;
        let printed = result_in_version(result, "0.4.0").expect("well-formed");
        assert_eq!(printed, result);
    }

    #[test]
    fn a_previous_result_without_version_gets_the_conflists() {
        for (result, expected) in
            [(r#"{"ips":[]}"#, r#"{"cniVersion":"1.0.0","ips":[]}"#), ("{ }", r#"{"cniVersion":"1.0.0" }"#)]
        {
            let printed = result_in_version(result.as_bytes(), "1.0.0").expect("well-formed");
            assert_eq!(String::from_utf8_lossy(&printed), expected);
        }
    }

    #[test]
    fn version_answers_in_the_version_that_was_asked_in() {
        let answer: serde_json::Value =
            serde_json::from_slice(&version(br#"{"cniVersion":"0.4.0"}"#)).expect("JSON");
        assert_eq!(answer["cniVersion"], "0.4.0");
        assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}
