//! This replica's serving certificate, kept fresh, and the CA, followed.
//!
//! One task looks at the Secret every minute. A new CA (somebody deleted the Secret) is published beside the old one
//! first; serving certificates change when agents have had time to read it; the old one goes when every replica has
//! changed. Every step is found again by the next look, so the task can be dropped at any await.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use kube::Client;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::store::Store;
use super::{Authority, CaError, Serving, StoreError};
use crate::lease::Chain;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long agents may take to read a newly published CA, before a certificate of it is served.
const PUBLISH: Duration = Duration::from_secs(10);
/// How long replicas may take to change over, before the earlier CA is published no more.
const OVERLAP: Duration = Duration::from_secs(600);
/// Age at which a serving certificate is replaced.
const REISSUE: Duration = Duration::from_secs(24 * 3600);

/// The certificate that is served now.
#[derive(Debug, Default)]
pub struct Current {
    key: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The task's state.
pub struct CaKeeper {
    store: Store,
    address: Option<IpAddr>,
    current: Arc<Current>,
    authority: Authority,
    issued: Instant,
    /// Since when the CA in force has been seen.
    since: Instant,
}

/// Reads or makes the CA, publishes it, and issues a first serving certificate.
pub async fn start(
    client: Client,
    namespace: &str,
    address: Option<IpAddr>,
) -> Result<(CaKeeper, Arc<Current>), StoreError> {
    let store = Store::new(client, namespace);
    let authority = store.authority().await?;
    store.publish(&authority, true).await?;
    let current = Arc::new(Current::default());
    let now = Instant::now();
    let keeper = CaKeeper { store, address, current: current.clone(), authority, issued: now, since: now };
    keeper.issue()?;
    Ok((keeper, current))
}

impl CaKeeper {
    /// Looks for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.look().await {
                tracing::warn!(error = %Chain(&error), "the CA could not be looked after");
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let authority = self.store.authority().await?;
        let now = Instant::now();
        if authority.certificate != self.authority.certificate {
            tracing::info!("the CA has changed: the new one is published beside the old one");
            self.store.publish(&authority, true).await?;
            tokio::time::sleep(PUBLISH).await;
            self.authority = authority;
            self.since = now;
            self.issue()?;
            self.issued = now;
            return Ok(());
        }
        let keep_earlier = now.saturating_duration_since(self.since) < OVERLAP;
        self.store.publish(&self.authority, keep_earlier).await?;
        if now.saturating_duration_since(self.issued) >= REISSUE {
            self.issue()?;
            self.issued = now;
        }
        Ok(())
    }

    fn issue(&self) -> Result<(), CaError> {
        let Serving { chain, key } = self.authority.issue(self.address)?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| CaError::Unusable { what: "key" })?;
        let certified = Arc::new(CertifiedKey::new(chain, key));
        *self.current.key.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
        Ok(())
    }
}
