//! The task that owns the socket of one [`OpenFlow`](super::OpenFlow) handle.
//!
//! It connects, shakes hands, publishes the epoch, sends requests in batches, and starts over when anything goes wrong.
//! Every await is cancel-safe: reads and writes go through buffers that keep what was transferred (`read_buf`,
//! `write_buf`), `recv` loses nothing, and the rest are timers. Must never wait for a caller.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::client::{Connection, OpenFlowOptions};
use super::error::FlowError;
use super::session::{Event, Request, Session, SessionError};
use super::wire::{MessageBuffer, WireError};
use crate::pace::{Backoff, Keepalive, Probe};

/// First delay after a lost connection.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Requests without confirmation at which no more are taken from the channel.
const MAX_IN_FLIGHT: usize = 64;
/// Callers whose changes share one barrier at most.
const MAX_BATCH: usize = 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("no handle is left")]
    Stopped,
    #[error("the switch closed the connection")]
    Closed,
    #[error("the switch did not answer a probe")]
    Silent,
    #[error("the socket failed: {0}")]
    Io(io::Error),
    #[error("the stream made no sense: {0}")]
    Wire(WireError),
    #[error("{0}")]
    Session(SessionError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Task {
    options: OpenFlowOptions,
    requests: mpsc::Receiver<Request>,
    publish: watch::Sender<Connection>,
    backoff: Backoff,
}

/// One connection.
struct Link {
    stream: UnixStream,
    messages: MessageBuffer,
    out: BytesMut,
    session: Session,
    keepalive: Keepalive,
}

/// What the loop woke for.
enum Wake {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Request(Option<Request>),
    Timer,
}

impl Task {
    pub(super) fn new(
        options: OpenFlowOptions,
        requests: mpsc::Receiver<Request>,
        publish: watch::Sender<Connection>,
    ) -> Self {
        let backoff = Backoff::new(FIRST_BACKOFF, options.max_backoff);
        Self { options, requests, publish, backoff }
    }

    /// Runs until every handle is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let end = match UnixStream::connect(&self.options.socket).await {
                Ok(stream) => self.serve(stream).await,
                Err(error) => End::Io(error),
            };
            if matches!(end, End::Stopped) {
                return;
            }
            self.lost(&end);
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
        let mut link = Link { stream, messages: MessageBuffer::default(), out, session, keepalive };
        let end = loop {
            if let Err(end) = self.step(&mut link).await {
                break end;
            }
        };
        link.session.abandon(&self.options.socket);
        end
    }

    async fn step(&mut self, link: &mut Link) -> Result<(), End> {
        let now = Instant::now();
        let timer = match link.keepalive.poll(now) {
            Probe::Wait(until) => until,
            Probe::Send => {
                link.session.probe(&mut link.out);
                now + self.options.probe_interval
            }
            Probe::Dead => return Err(End::Silent),
        };
        match self.wake(link, timer).await {
            Wake::Read(read) => self.read(link, read),
            Wake::Written(Ok(0)) => Err(End::Closed),
            Wake::Written(written) => written.map(drop).map_err(End::Io),
            Wake::Request(None) => Err(End::Stopped),
            Wake::Request(Some(request)) if link.session.is_ready() => {
                let batch = self.batch(request).await;
                link.session.submit(batch, &mut link.out);
                Ok(())
            }
            Wake::Request(Some(request)) => {
                self.refuse(request);
                Ok(())
            }
            Wake::Timer => Ok(()),
        }
    }

    /// Waits for the first thing to do.
    async fn wake(&mut self, link: &mut Link, timer: Instant) -> Wake {
        let (mut reader, mut writer) = link.stream.split();
        let room = link.session.in_flight() < MAX_IN_FLIGHT;
        tokio::select! {
            read = reader.read_buf(link.messages.buffer()) => Wake::Read(read),
            written = writer.write_buf(&mut link.out), if !link.out.is_empty() => Wake::Written(written),
            request = self.requests.recv(), if room => Wake::Request(request),
            () = tokio::time::sleep_until(timer.into()) => Wake::Timer,
        }
    }

    /// A request and those that come right behind it.
    async fn batch(&mut self, first: Request) -> Vec<Request> {
        let mut batch = vec![first];
        tokio::task::yield_now().await;
        while batch.len() < MAX_BATCH
            && let Ok(request) = self.requests.try_recv()
        {
            batch.push(request);
        }
        batch
    }

    fn read(&mut self, link: &mut Link, read: io::Result<usize>) -> Result<(), End> {
        if read.map_err(End::Io)? == 0 {
            return Err(End::Closed);
        }
        link.keepalive.heard(Instant::now());
        while let Some((header, body)) = link.messages.next_message().map_err(End::Wire)? {
            if let Event::Ready { datapath_id } =
                link.session.receive(header, &body, &mut link.out).map_err(End::Session)?
            {
                self.ready(datapath_id);
            }
        }
        Ok(())
    }

    fn ready(&mut self, datapath_id: u64) {
        self.backoff.reset();
        let epoch = self.publish.borrow().epoch + 1;
        // Not louder: every question about counters is a connection of its own.
        tracing::debug!(epoch, datapath_id = format!("{datapath_id:016x}"), "connected to the bridge");
        self.publish.send_replace(Connection { epoch, connected: true, datapath_id, reason: None });
    }

    /// The connection is gone or was not to be had.
    fn lost(&mut self, end: &End) {
        let reason: Arc<str> = end.to_string().into();
        self.publish.send_if_modified(|connection| {
            let changed = connection.connected || connection.reason.as_ref() != Some(&reason);
            if connection.connected {
                tracing::warn!(%reason, "connection to the bridge lost, reconnecting");
            } else if changed {
                tracing::debug!(%reason, "the bridge cannot be reached, trying on");
            }
            connection.connected = false;
            connection.reason = Some(reason);
            changed
        });
    }

    /// Answers a caller that came while there is no connection.
    fn refuse(&self, request: Request) {
        let reason = self
            .publish
            .borrow()
            .reason
            .as_ref()
            .map_or_else(|| "still connecting".to_owned(), ToString::to_string);
        request.fail(FlowError::NotConnected { socket: self.options.socket.clone(), reason });
    }

    /// Waits before the next attempt, sending callers away.
    async fn pause(&mut self) -> Result<(), End> {
        let until = tokio::time::Instant::now() + self.backoff.next();
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.refuse(request),
                    None => return Err(End::Stopped),
                },
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }
}
