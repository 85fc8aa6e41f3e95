//! The task that owns the socket of one [`Ovsdb`](super::Ovsdb) handle.
//!
//! It connects, resynchronises, publishes, sends one transaction at a time, and starts over when anything goes wrong.
//! Every await is cancel-safe: reads and writes go through buffers that keep what was transferred (`read_buf`,
//! `write_buf`), `recv` loses nothing, and the rest are timers. Must never wait for a caller.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::client::{Counters, OvsdbOptions};
use super::commit::{Call, GroupCommit, Outcome};
use super::error::TransactError;
use super::frame::{FrameError, Framer};
use super::message::{self, MessageError};
use super::replica::Replica;
use super::session::{Event, Session, SessionError};
use crate::pace::{Backoff, Keepalive, Probe};

/// First delay after a lost connection.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// Callers taken in at most; further ones wait in the channel.
const MAX_WAITING: usize = 16_384;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// Every handle was dropped.
    #[error("no handle is left")]
    Stopped,
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The server went silent.
    #[error("the server did not answer a probe")]
    Silent,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Io(io::Error),
    /// The stream made no sense.
    #[error("the stream made no sense: {0}")]
    Frame(FrameError),
    /// A message made no sense.
    #[error("{0}")]
    Message(MessageError),
    /// The conversation failed.
    #[error("{0}")]
    Session(SessionError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Task {
    options: OvsdbOptions,
    calls: mpsc::Receiver<Call>,
    publish: watch::Sender<Arc<Replica>>,
    counters: Arc<Counters>,
    commit: GroupCommit,
    backoff: Backoff,
    epoch: u64,
}

/// One connection.
struct Link {
    stream: UnixStream,
    framer: Framer,
    out: BytesMut,
    session: Session,
    keepalive: Keepalive,
}

/// What the loop woke for.
enum Wake {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Call(Option<Call>),
    Timer,
}

impl Task {
    pub(super) fn new(
        options: OvsdbOptions,
        calls: mpsc::Receiver<Call>,
        publish: watch::Sender<Arc<Replica>>,
        counters: Arc<Counters>,
    ) -> Self {
        let commit = GroupCommit::new(options.max_operations);
        let backoff = Backoff::new(FIRST_BACKOFF, options.max_backoff);
        Self { options, calls, publish, counters, commit, backoff, epoch: 0 }
    }

    /// Runs until every handle is dropped.
    pub(super) async fn run(mut self) {
        let mut complained = false;
        loop {
            match UnixStream::connect(&self.options.socket).await {
                Ok(stream) => {
                    let before = self.epoch;
                    let end = self.serve(stream).await;
                    self.lost();
                    if matches!(end, End::Stopped) {
                        return;
                    }
                    if self.epoch > before || !complained {
                        tracing::warn!(reason = %end, "connection to ovsdb lost, reconnecting");
                        complained = self.epoch == before;
                    }
                }
                Err(error) if !complained => {
                    tracing::warn!(%error, "ovsdb cannot be reached, trying on");
                    complained = true;
                }
                Err(_) => {}
            }
            if self.pause().await.is_err() {
                return;
            }
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, stream: UnixStream) -> End {
        let mut out = BytesMut::new();
        let session = Session::start(&mut out);
        let keepalive = Keepalive::new(self.options.probe_interval, Instant::now());
        let mut link = Link { stream, framer: Framer::default(), out, session, keepalive };
        loop {
            self.submit(&mut link);
            let timer = match self.next_timer(&mut link) {
                Ok(timer) => timer,
                Err(end) => return end,
            };
            let step = match self.wake(&mut link, timer).await {
                Wake::Read(read) => self.read(&mut link, read),
                Wake::Written(Ok(0)) => Err(End::Closed),
                Wake::Written(written) => written.map(drop).map_err(End::Io),
                Wake::Call(None) => Err(End::Stopped),
                Wake::Call(Some(call)) => {
                    self.take_in(call).await;
                    Ok(())
                }
                Wake::Timer => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Waits for the first thing to do.
    async fn wake(&mut self, link: &mut Link, timer: Instant) -> Wake {
        let (mut reader, mut writer) = link.stream.split();
        let room = self.commit.waiting() < MAX_WAITING;
        tokio::select! {
            read = reader.read_buf(link.framer.buffer()) => Wake::Read(read),
            written = writer.write_buf(&mut link.out), if !link.out.is_empty() => Wake::Written(written),
            call = self.calls.recv(), if room => Wake::Call(call),
            () = tokio::time::sleep_until(timer.into()) => Wake::Timer,
        }
    }

    /// Takes a caller in, and those that come right behind it: a burst then shares one transaction.
    async fn take_in(&mut self, call: Call) {
        self.commit.push(call);
        for _ in 0..2 {
            tokio::task::yield_now().await;
            while self.commit.waiting() < MAX_WAITING
                && let Ok(call) = self.calls.try_recv()
            {
                self.commit.push(call);
            }
        }
    }

    /// Sends the next transaction if its turn has come.
    fn submit(&mut self, link: &mut Link) {
        if !link.session.is_ready() {
            return;
        }
        if let Some((id, params)) = self.commit.next() {
            Counters::add(&self.counters.transactions, 1);
            link.out.extend_from_slice(&message::request("transact", &params, &json!(id)));
        }
    }

    /// The next time to look at the clock; probes a silent server, and gives it up if that did not help.
    fn next_timer(&mut self, link: &mut Link) -> Result<Instant, End> {
        let now = Instant::now();
        let probe = match link.keepalive.poll(now) {
            Probe::Wait(until) => until,
            Probe::Send => {
                Session::probe(&mut link.out);
                now + self.options.probe_interval
            }
            Probe::Dead => return Err(End::Silent),
        };
        if link.session.is_ready() { Ok(probe) } else { Ok(probe.min(self.expire(now).unwrap_or(probe))) }
    }

    /// Handles what was read: all whole messages, then one publication, then the callers' answers.
    fn read(&mut self, link: &mut Link, read: io::Result<usize>) -> Result<(), End> {
        if read.map_err(End::Io)? == 0 {
            return Err(End::Closed);
        }
        link.keepalive.heard(Instant::now());
        let was_ready = link.session.is_ready();
        let mut changed = false;
        let mut answers = Vec::new();
        while let Some(frame) = link.framer.next_frame().map_err(End::Frame)? {
            let message = message::parse(&frame).map_err(End::Message)?;
            match link.session.receive(message, &mut link.out).map_err(End::Session)? {
                Event::Quiet => {}
                Event::Changed => changed = true,
                Event::Answer { id, result, error } => answers.push((id, result, error)),
            }
        }
        if !was_ready && link.session.is_ready() {
            self.synced();
        }
        if changed {
            let replica = link.session.snapshot().with(true, self.epoch);
            self.publish.send_replace(Arc::new(replica));
        }
        for (id, result, error) in answers {
            match self.commit.complete(id, &result, &error) {
                Outcome::Answered(count) => Counters::add(&self.counters.calls, count),
                Outcome::Split => Counters::add(&self.counters.splits, 1),
                Outcome::Unknown => tracing::debug!(id, "answer to a transaction that nobody waits for"),
            }
        }
        Ok(())
    }

    fn synced(&mut self) {
        self.epoch += 1;
        self.backoff.reset();
        Counters::add(&self.counters.connections, 1);
        tracing::info!(epoch = self.epoch, "connected to ovsdb");
    }

    /// The connection is gone: tells whoever waits, keeps the last rows.
    fn lost(&mut self) {
        self.commit.disconnected(&TransactError::OutcomeUnknown { socket: self.options.socket.clone() });
        let last = Replica::clone(&self.publish.borrow());
        if last.connected {
            let epoch = last.epoch;
            self.publish.send_replace(Arc::new(last.with(false, epoch)));
        }
    }

    /// Waits before the next attempt, still taking callers in.
    async fn pause(&mut self) -> Result<(), End> {
        let until = Instant::now() + self.backoff.next();
        loop {
            let now = Instant::now();
            let timer = self.expire(now).map_or(until, |expiry| expiry.min(until));
            let room = self.commit.waiting() < MAX_WAITING;
            tokio::select! {
                call = self.calls.recv(), if room => match call {
                    Some(call) => self.commit.push(call),
                    None => return Err(End::Stopped),
                },
                () = tokio::time::sleep_until(timer.into()) => {}
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Sends callers away that waited too long for a connection; the next time to look again.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        let limit = self.options.queue_wait;
        if self.commit.next_expiry(limit)? <= now {
            let socket = self.options.socket.clone();
            self.commit
                .expire(now, limit, |waited| TransactError::NotConnected { socket: socket.clone(), waited });
        }
        self.commit.next_expiry(limit)
    }
}
