//! A steady stream of echo requests, to see what a restart costs: how many were lost, and the longest silence.
//!
//! Two threads besides the waiting one: the sender and the receiver; both end within a second of the signal.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::Serialize;

use crate::icmp::Echo;
use crate::parse_target;

/// How long answers may lag behind the last request.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// Options of `flood`.
#[derive(Debug, Args)]
pub(crate) struct Flood {
    /// The interface to send from
    #[arg(long)]
    interface: String,
    /// The address to ask
    #[arg(long, value_parser = parse_target)]
    target: (IpAddr, Option<String>),
    /// Between two requests, milliseconds; requests are told apart by 16 bits
    #[arg(long, default_value_t = 5)]
    interval_ms: u64,
    /// A file to create once the first answer has come
    #[arg(long)]
    ready: Option<PathBuf>,
}

/// What `flood` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Count {
    sent: usize,
    received: usize,
    lost: usize,
    longest_silence_ms: u128,
}

impl Flood {
    pub(crate) fn run(self) -> Result<Count> {
        let signals = crate::block_end()?;
        let (address, zone) = (self.target.0, self.target.1.as_deref());
        let echo = Arc::new(Echo::open(&self.interface, address, zone, 64).context("opening a raw socket")?);
        let end = Arc::new(AtomicBool::new(false));
        let sender = {
            let (echo, end, pause) = (echo.clone(), end.clone(), Duration::from_millis(self.interval_ms));
            thread::spawn(move || send(&echo, &end, pause))
        };
        let receiver = {
            let (end, ready) = (end.clone(), self.ready);
            thread::spawn(move || receive(&echo, &end, ready.as_ref()))
        };
        signals.wait().context("waiting for a signal")?;
        end.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let (answers, silence) = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        let lost = sent.saturating_sub(answers);
        Ok(Count { sent, received: answers, lost, longest_silence_ms: silence.as_millis() })
    }
}

fn send(echo: &Echo, end: &AtomicBool, pause: Duration) -> usize {
    let mut sent: usize = 0;
    while !end.load(Ordering::Relaxed) {
        // A request that could not be sent is a lost one.
        let _ = echo.send(u16::try_from(sent & 0xffff).unwrap_or_default());
        sent += 1;
        thread::sleep(pause);
    }
    sent
}

/// How many different answers came, and the longest time without one.
fn receive(echo: &Echo, end: &AtomicBool, ready: Option<&PathBuf>) -> Result<(usize, Duration)> {
    let (mut seen, mut last, mut silence) = (HashSet::new(), None::<Instant>, Duration::ZERO);
    loop {
        let ending = end.load(Ordering::Relaxed);
        match echo.receive(Instant::now() + STRAGGLERS) {
            Ok(sequence) if seen.insert(sequence) => {
                if seen.len() == 1 {
                    crate::announce(ready)?;
                }
                silence = silence.max(last.map_or(Duration::ZERO, |at| at.elapsed()));
                last = Some(Instant::now());
            }
            Err(_) if ending => return Ok((seen.len(), silence)),
            Ok(_) | Err(_) => {}
        }
    }
}
