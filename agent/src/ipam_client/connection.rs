//! The one channel to the leading controller, with the CA and the token that go with it.
//!
//! Owns when the channel is rebuilt (address or CA changed) and when the token is read again (each minute, or after it
//! was refused). Must never retry: that is the caller's.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::IpamError;

/// Name in the controller's certificate (design decision 8).
const TLS_NAME: &str = "trunkline-controller.trunkline-system.svc";
/// The kubelet renews the token in place; a stale one is noticed within this.
const TOKEN_AGE: Duration = Duration::from_mins(1);
/// To connect and to shake hands.
const CONNECT: Duration = Duration::from_secs(2);

/// Whom to talk to, and whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: String,
    ca: String,
}

#[derive(Debug)]
pub(super) struct Connection {
    token_file: PathBuf,
    address: watch::Receiver<Option<String>>,
    ca: watch::Receiver<Option<String>>,
    channel: Mutex<Option<(Target, Channel)>>,
    token: Mutex<Option<(Instant, MetadataValue<Ascii>)>>,
}

impl Connection {
    pub(super) fn new(
        token_file: PathBuf,
        address: watch::Receiver<Option<String>>,
        ca: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { token_file, address, ca, channel: Mutex::new(None), token: Mutex::new(None) }
    }

    /// The target, waited for until `deadline`.
    pub(super) async fn target(&self, deadline: Instant) -> Result<Target, IpamError> {
        let known = async |mut slot: watch::Receiver<Option<String>>, missing: IpamError| {
            let wait = tokio::time::timeout_at(deadline, slot.wait_for(Option::is_some));
            match wait.await {
                Ok(Ok(value)) => value.clone().ok_or(missing),
                Ok(Err(_)) | Err(_) => Err(missing),
            }
        };
        let address = known(self.address.clone(), IpamError::NoController).await?;
        let ca = known(self.ca.clone(), IpamError::NoCa).await?;
        Ok(Target { address, ca })
    }

    /// The channel to `target`, and the token for one request.
    pub(super) async fn open(&self, target: &Target) -> Result<(Channel, MetadataValue<Ascii>), IpamError> {
        let token = self.token().await?;
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some((of, channel)) if of == target => Ok((channel.clone(), token)),
            _ => {
                let channel = connect(target)?;
                *held = Some((target.clone(), channel.clone()));
                Ok((channel, token))
            }
        }
    }

    /// Returns when `target` is no longer the one to talk to.
    pub(super) async fn replaced(&self, target: &Target) {
        let mut address = self.address.clone();
        let changed = address.wait_for(|now| now.as_ref().is_some_and(|now| *now != target.address));
        if changed.await.is_err() {
            std::future::pending::<()>().await; // the watch is gone: the process is stopping
        }
    }

    /// Waits for `pause`, or less when the target is replaced.
    pub(super) async fn pause(&self, target: &Target, pause: Duration) {
        tokio::select! { biased;
            () = self.replaced(target) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// The token was refused: read it again before the next attempt.
    pub(super) fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, IpamError> {
        let held = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read, token)) = held
            && read.elapsed() < TOKEN_AGE
        {
            return Ok(token);
        }
        let failed = |message: String| IpamError::Token { path: self.token_file.clone(), message };
        let text = tokio::fs::read_to_string(&self.token_file).await.map_err(|e| failed(e.to_string()))?;
        let mut token: MetadataValue<Ascii> = format!("Bearer {}", text.trim())
            .parse()
            .map_err(|_| failed("its content is no token".to_owned()))?;
        token.set_sensitive(true);
        let fresh = Some((Instant::now(), token.clone()));
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(token)
    }
}

fn connect(target: &Target) -> Result<Channel, IpamError> {
    let unusable = |error: tonic::transport::Error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        IpamError::Unusable {
            address: target.address.clone(),
            message: format!("{error}{}", source.unwrap_or_default()),
        }
    };
    let tls = ClientTlsConfig::new().domain_name(TLS_NAME).ca_certificate(Certificate::from_pem(&target.ca));
    let endpoint = Endpoint::from_shared(format!("https://{}", target.address))
        .and_then(|endpoint| endpoint.tls_config(tls.timeout(CONNECT)))
        .map_err(unusable)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5));
    Ok(endpoint.connect_lazy())
}
