//! One OTLP collector's side of an exporter's task: connects, exports, waits for the acknowledgement, counts.
//!
//! One request is under way at a time. What surely did not arrive is sent again, after pauses, while records wait in
//! the queue; what may have arrived never is: without an acknowledgement it counts as dropped. Only the task waits.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::time::{sleep, timeout};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, ConnectError, Request, Status};
use tracing::{info, warn};

use super::message;
use crate::flows::export::OtlpConfig;
use crate::flows::export::queue::{Counts, Sink};
use crate::flows::record::Record;

/// Pauses before a batch is sent again double from the first to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// A failing collector is warned about at most this often.
const WARN: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("trunkline-agent/", env!("CARGO_PKG_VERSION"));

/// An OpenTelemetry collector.
#[derive(Debug)]
pub(in crate::flows::export) struct Collector {
    config: OtlpConfig,
    headers: MetadataMap,
    resource: Resource,
    /// `None` before the first connection and after one that failed.
    client: Option<LogsServiceClient<Channel>>,
    counts: Arc<Counts>,
    /// When something was last said about its failing.
    warned: Option<Instant>,
}

/// Why a batch has no acknowledgement.
#[derive(Debug, thiserror::Error)]
enum ExportFailure {
    #[error("cannot read {}", path.display())]
    Authorities { path: PathBuf, source: io::Error },
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("no connection within {} s", .0.as_secs())]
    NoConnection(Duration),
    #[error("the connection could not be made again")]
    Reconnect(#[source] Status),
    #[error("the collector has no room for more at the moment: {0:?}")]
    Busy(String),
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("the collector refuses: {code:?} {message:?}")]
    Refused { code: Code, message: String },
    #[error("the connection broke before the answer")]
    Broken(#[source] Status),
}

impl ExportFailure {
    fn of(status: Status) -> Self {
        // Only what did not come from the other side has a source.
        if status.source().is_some() {
            if never_connected(&status) { Self::Reconnect(status) } else { Self::Broken(status) }
        } else if status.code() == Code::Unavailable {
            Self::Busy(status.message().to_owned())
        } else {
            Self::Refused { code: status.code(), message: status.message().to_owned() }
        }
    }

    /// Whether the collector surely took none of it.
    fn may_be_sent_again(&self) -> bool {
        match self {
            Self::Authorities { .. }
            | Self::Connect(_)
            | Self::NoConnection(_)
            | Self::Reconnect(_)
            | Self::Busy(_) => true,
            Self::NoAnswer(_) | Self::Refused { .. } | Self::Broken(_) => false,
        }
    }

    /// Whether the connection can still be used.
    fn answered(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Refused { .. })
    }
}

/// Whether a request never left because there was no connection.
fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Collector {
    pub(in crate::flows::export) fn new(config: &OtlpConfig, node: &str, counts: Arc<Counts>) -> Self {
        Self {
            headers: headers(config),
            resource: message::resource(node, host().as_deref()),
            config: config.clone(),
            client: None,
            counts,
            warned: None,
        }
    }

    /// The client, of a connection that is made if there is none. The name is resolved and the authorities are read
    /// anew each time, since both may have changed.
    async fn client(&mut self) -> Result<&mut LogsServiceClient<Channel>, ExportFailure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        Ok(self.client.insert(client))
    }

    async fn connect(&self) -> Result<LogsServiceClient<Channel>, ExportFailure> {
        let limit = self.config.timeout();
        let mut endpoint = Endpoint::from_shared(self.config.endpoint().to_string())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(ExportFailure::Connect)?
            .connect_timeout(limit);
        if let Some(path) = self.config.ca_file() {
            let pem = tokio::fs::read(path).await;
            let pem = pem.map_err(|source| ExportFailure::Authorities { path: path.to_owned(), source })?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint = endpoint.tls_config(tls).map_err(ExportFailure::Connect)?;
        }
        // A handshake of TLS has no limit of its own.
        let connected = timeout(limit, endpoint.connect()).await;
        let channel = connected.map_err(|_| ExportFailure::NoConnection(limit))?;
        Ok(LogsServiceClient::new(channel.map_err(ExportFailure::Connect)?))
    }

    /// Sends once; returns what the collector has to say beside having taken it.
    async fn export(
        &mut self,
        request: ExportLogsServiceRequest,
    ) -> Result<ExportLogsPartialSuccess, ExportFailure> {
        let limit = self.config.timeout();
        let mut request = Request::new(request);
        *request.metadata_mut() = self.headers.clone();
        let client = self.client().await?;
        let answer = timeout(limit, client.export(request)).await;
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner().partial_success.unwrap_or_default()),
            Ok(Err(status)) => ExportFailure::of(status),
            Err(_) => ExportFailure::NoAnswer(limit),
        };
        if !failure.answered() {
            self.client = None;
        }
        Err(failure)
    }

    fn acknowledged(&mut self, records: usize, partial: &ExportLogsPartialSuccess) {
        let rejected = usize::try_from(partial.rejected_log_records).unwrap_or(0).min(records);
        self.counts.sent(records - rejected);
        if rejected > 0 {
            self.counts.error();
            self.counts.dropped(rejected);
        }
        if rejected > 0 || !partial.error_message.is_empty() {
            let message = &partial.error_message;
            self.say(|| warn!(rejected, message, "the collector has something to say about flow records"));
        } else if self.warned.take().is_some() {
            info!("the collector takes flow records again");
        }
    }

    fn failed(&mut self, failure: &ExportFailure) {
        self.counts.error();
        let error = crate::cli::chain(failure);
        self.say(
            || warn!(%error, "cannot send flow records; what finds no room meanwhile is dropped and counted"),
        );
    }

    /// Says it unless something was said a short while ago.
    fn say(&mut self, line: impl FnOnce()) {
        if self.warned.is_none_or(|last| last.elapsed() >= WARN) {
            self.warned = Some(Instant::now());
            line();
        }
    }
}

impl Sink for Collector {
    async fn write(&mut self, batch: &[Arc<Record>]) {
        let mut pause = BACKOFF[0];
        loop {
            let request = message::request(&self.resource, batch, SystemTime::now());
            match self.export(request).await {
                Ok(partial) => return self.acknowledged(batch.len(), &partial),
                Err(failure) => {
                    self.failed(&failure);
                    if !failure.may_be_sent_again() {
                        return self.counts.dropped(batch.len());
                    }
                }
            }
            sleep(pause).await;
            pause = BACKOFF[1].min(pause * 2);
        }
    }
}

/// Headers in the client's types; what the configuration takes, they take.
fn headers(config: &OtlpConfig) -> MetadataMap {
    let typed = |(name, value): (&str, &str)| {
        let name = AsciiMetadataKey::from_bytes(name.as_bytes()).ok()?;
        let mut value = AsciiMetadataValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    let mut headers = MetadataMap::new();
    for (name, value) in config.headers().iter().filter_map(typed) {
        headers.insert(name, value);
    }
    headers
}

/// The machine's name: the agent is in the host's namespace of names.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
