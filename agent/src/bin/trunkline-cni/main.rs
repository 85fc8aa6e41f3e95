//! `trunkline-cni`: the chained CNI plugin by which pods reach the agent.
//!
//! Owns the CNI contract on the node: environment and standard input in, one JSON answer out, exit code 0 or 1. A pod
//! that asks for no secondary network is answered without the agent, so that such pods never depend on it. Must stay
//! free of everything but std and `serde_json`: it runs for every pod of the node.

mod agent;
mod conf;
mod environment;
mod failure;
mod json;
mod verbs;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use environment::Command;
use failure::PluginFailure;

fn main() -> ExitCode {
    let started = SystemTime::now();
    let Some(command) = std::env::var_os("CNI_COMMAND") else {
        eprintln!("trunkline-cni {}: a CNI plugin, run by the container runtime", env!("CARGO_PKG_VERSION"));
        return ExitCode::from(64);
    };
    let mut input = Vec::with_capacity(8 * 1024);
    let answered = std::io::stdin()
        .lock()
        .read_to_end(&mut input)
        .map_err(|error| PluginFailure::io("the network configuration cannot be read", &error))
        .and_then(|_| Command::parse(&command))
        .and_then(|command| verbs::run(command, &input, started));
    let (output, code) = match answered {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(conf::version_of(&input)), ExitCode::FAILURE),
    };
    // A runtime that closed its end has no use for the answer, nor for a complaint about it.
    let _ = std::io::stdout().lock().write_all(&output);
    code
}
