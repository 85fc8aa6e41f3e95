//! What runs inside pods: it keeps a pod alive, says who it is, and asks others.
//!
//! Static, without a runtime, for images that hold nothing else. Prints one JSON object per question; exit code 0
//! means that the question was answered, whatever the answer. Never changes a network.

mod dns;
mod flood;
mod frames;
mod icmp;
mod identity;
mod tcp;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

/// Questions to a network from inside a pod.
#[derive(Debug, Parser)]
#[command(name = "trunkline-probe", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Waits for SIGTERM, as a sandbox does
    Pause,
    /// Answers on UDP and TCP of every interface with its pod's UID (from the environment) and the interface's name
    Serve(identity::Serve),
    /// Asks an address who answers there
    Probe(identity::Probe),
    /// Receives bytes on TCP and prints their SHA-256
    TcpRecv(tcp::Receive),
    /// Sends bytes on TCP and prints their SHA-256
    TcpSend(tcp::Send),
    /// Sends one echo request of an exact size that must not be fragmented
    PingDf(icmp::PingDf),
    /// Sends echo requests in quick succession until SIGTERM and counts the answers
    Flood(flood::Flood),
    /// Answers questions to a name server, as their first label says: ok, nx, slow or mute
    DnsServe(dns::Serve),
    /// Asks a name server and prints what it answered
    DnsAsk(dns::Ask),
    /// Injects a frame with the given tags
    Inject(frames::Inject),
    /// Captures frames that carry a mark
    Capture(frames::Capture),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Pause => pause(),
        Verb::Serve(serve) => serve.run(),
        Verb::Probe(probe) => print(&probe.run()),
        Verb::TcpRecv(receive) => receive.run().and_then(|answer| print(&answer)),
        Verb::TcpSend(send) => send.run().and_then(|answer| print(&answer)),
        Verb::PingDf(ping) => ping.run().and_then(|answer| print(&answer)),
        Verb::Flood(flood) => flood.run().and_then(|answer| print(&answer)),
        Verb::DnsServe(serve) => serve.run(),
        Verb::DnsAsk(ask) => ask.run().and_then(|answer| print(&answer)),
        Verb::Inject(inject) => inject.run().and_then(|answer| print(&answer)),
        Verb::Capture(capture) => capture.run().and_then(|answer| print(&answer)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Signals that end a waiting program; blocked before any thread starts, so that every thread blocks them.
fn block_end() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("blocking signals")?;
    Ok(signals)
}

fn pause() -> Result<()> {
    block_end()?.wait().context("waiting for a signal")?;
    Ok(())
}

fn print(answer: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer).context("printing the answer")?;
    out.write_all(b"\n").context("printing the answer")
}

/// Creates a file that says that we have begun, if one is asked for.
fn announce(ready: Option<&PathBuf>) -> Result<()> {
    match ready {
        Some(path) => std::fs::write(path, b"").with_context(|| format!("creating {}", path.display())),
        None => Ok(()),
    }
}

/// Splits `fe80::1%eth1` into address and zone; the zone may be missing.
fn parse_target(text: &str) -> Result<(IpAddr, Option<String>), String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z.to_owned())));
    let address = address.parse().map_err(|_| format!("{text} is no IP address"))?;
    Ok((address, zone))
}
