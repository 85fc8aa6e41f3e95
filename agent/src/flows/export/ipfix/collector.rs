//! One collector's side of an exporter's task: opens sessions, paces messages, counts.
//!
//! A collector that refuses, vanishes or stops reading costs records and counts, and is warned about now and
//! then. The task waits for a session, never the queue's other end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use super::message::{Encoder, Identity, Message};
use super::transport::Session;
use crate::flows::export::queue::{Counts, Sink};
use crate::flows::export::{EXAMPLE_ENTERPRISE, HostPort, IpfixConfig, Protocol};
use crate::flows::record::Record;

/// Pauses between attempts to open a session double from the first to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// Datagrams sent back to back. Linux gives a socket that asks for nothing room for some 90 of 1400 bytes: a collector
/// behind such a socket must not lose records because an active timeout closed thousands of flows at once.
const BURST: usize = 16;
/// Pause after a burst: at most 16,000 messages, some 60,000 records, a second.
const PAUSE: Duration = Duration::from_millis(1);

/// How long templates go ahead of data over UDP: collectors with several threads read a datagram before the one that
/// came first (goflow2 was seen to), and throw away what they have no template for.
const LEAD: Duration = Duration::from_millis(100);
/// Failing datagrams make the name be resolved anew at most this often.
const RESOLVE: Duration = Duration::from_secs(30);
/// A failing collector is warned about at most this often.
const WARN: Duration = Duration::from_secs(60);

/// An IPFIX collector.
#[derive(Debug)]
pub(in crate::flows::export) struct Collector {
    address: HostPort,
    protocol: Protocol,
    encoder: Encoder,
    session: Option<Session>,
    opened: Option<Instant>,
    counts: Arc<Counts>,
    /// When something was last said about its failing.
    warned: Option<Instant>,
}

impl Collector {
    pub(in crate::flows::export) fn new(
        config: &IpfixConfig,
        domain: u32,
        node: &str,
        counts: Arc<Counts>,
    ) -> Self {
        let IpfixConfig {
            collector,
            protocol,
            template_refresh,
            enterprise_number,
            max_message_bytes,
            only: _,
        } = config;
        if *enterprise_number == EXAMPLE_ENTERPRISE {
            warn!(
                collector = %collector, enterprise = EXAMPLE_ENTERPRISE,
                "flow records carry names under the enterprise number that RFC 5612 keeps for examples; \
                 set enterpriseNumber to your own"
            );
        }
        let identity = Identity { domain, enterprise: *enterprise_number, node: node.to_owned() };
        let refresh = (*protocol == Protocol::Udp).then(|| template_refresh.get());
        Self {
            address: collector.clone(),
            protocol: *protocol,
            encoder: Encoder::new(identity, max_message_bytes.get(), refresh),
            session: None,
            opened: None,
            counts,
            warned: None,
        }
    }

    /// Opens a session, as often as it takes.
    async fn connect(&mut self) {
        let mut pause = BACKOFF[0];
        while self.session.is_none() {
            match Session::open(&self.address, self.protocol).await {
                Ok(session) => {
                    if self.warned.take().is_some() && self.protocol == Protocol::Tcp {
                        info!("connected to the collector again");
                    }
                    self.session = Some(session);
                    self.opened = Some(Instant::now());
                    self.encoder.restart();
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(pause).await;
                    pause = BACKOFF[1].min(pause * 2);
                }
            }
        }
    }

    async fn send(&mut self, messages: &[Message]) {
        for (index, message) in messages.iter().enumerate() {
            if self.protocol == Protocol::Udp {
                self.pace(index, messages).await;
            }
            let Some(session) = self.session.as_mut() else {
                // Encoded for a session that is no more: its templates and sequence numbers mean nothing to the next.
                self.counts.dropped(message.records);
                continue;
            };
            match session.send(&message.bytes).await {
                Ok(()) => self.counts.sent(message.records),
                Err(error) => {
                    self.failed(&error);
                    self.counts.dropped(message.records);
                    self.recover();
                }
            }
        }
    }

    /// Waits where the message at `index` must not follow the one before at once.
    async fn pace(&self, index: usize, messages: &[Message]) {
        let after_templates = index > 0 && messages[index - 1].defines && !messages[index].defines;
        if after_templates {
            sleep(LEAD).await;
        } else if index % BURST == BURST - 1 {
            sleep(PAUSE).await;
        }
    }

    /// What follows a failed send. A datagram's error belongs to one sent before and says that nobody listens: the
    /// socket stays good, and whoever listens next needs templates. It may also be that the name means another address
    /// by now.
    fn recover(&mut self) {
        let old = self.opened.is_none_or(|opened| opened.elapsed() >= RESOLVE);
        if self.protocol == Protocol::Tcp || old {
            self.session = None;
        }
        self.encoder.announce_again();
    }

    fn failed(&mut self, error: &io::Error) {
        self.counts.error();
        if self.warned.is_none_or(|last| last.elapsed() >= WARN) {
            self.warned = Some(Instant::now());
            warn!(%error, "cannot send flow records; what fails or finds no room is dropped and counted");
        }
    }
}

impl Sink for Collector {
    async fn write(&mut self, batch: &[Arc<Record>]) {
        if let Some(error) = self.session.as_ref().and_then(Session::ended) {
            self.failed(&error);
            self.session = None;
        }
        self.connect().await;
        let records = batch.iter().map(Arc::as_ref);
        let messages = self.encoder.encode(Instant::now(), SystemTime::now(), records);
        self.send(&messages).await;
    }
}
