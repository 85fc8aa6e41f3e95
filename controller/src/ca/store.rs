//! The CA in the API server: Secret `trunkline-ca`, and the ConfigMap of that name that publishes it.
//!
//! Owns both objects. Must never overwrite a Secret: the first replica's stands.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use trunkline_ipam::{CA_KEY, CA_NAME};

use super::{Authority, CaError, bundle};

/// Why the CA cannot be read or published.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server did not do it.
    #[error("cannot {doing} {kind} {CA_NAME}")]
    Api {
        /// What was being done.
        doing: &'static str,
        /// To what.
        kind: &'static str,
        /// The API server's answer.
        source: kube::Error,
    },
    /// What is there cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Where the CA is kept.
#[derive(Clone)]
pub(super) struct Store {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
}

impl Store {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), maps: Api::namespaced(client, namespace) }
    }

    /// The CA, made now if there is none; a lost race is the other replica's CA.
    pub(super) async fn authority(&self) -> Result<Authority, StoreError> {
        for _ in 0..3 {
            if let Some(secret) = self.secrets.get_opt(CA_NAME).await.map_err(api("read", "Secret"))? {
                let data = secret.data.unwrap_or_default();
                let field = |name: &str| data.get(name).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
                return Ok(Authority::parse(field("tls.crt"), field("tls.key"))?);
            }
            let authority = Authority::generate()?;
            match self.secrets.create(&PostParams::default(), &secret(&authority)).await {
                Ok(_) => {
                    tracing::info!("a new CA is in Secret {CA_NAME}");
                    return Ok(authority);
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(source) => return Err(StoreError::Api { doing: "create", kind: "Secret", source }),
            }
        }
        Err(CaError::Unusable { what: "certificate" }.into())
    }

    /// Publishes the CA; true if what was published before it is still there.
    pub(super) async fn publish(
        &self,
        authority: &Authority,
        keep_earlier: bool,
    ) -> Result<bool, StoreError> {
        let map = self.maps.get_opt(CA_NAME).await.map_err(api("read", "ConfigMap"))?;
        let published = map.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(CA_KEY));
        let wanted = bundle(published.map_or("", String::as_str), &authority.certificate, keep_earlier);
        let several = super::certificates(&wanted).len() > 1;
        if published == Some(&wanted) {
            return Ok(several);
        }
        let data = BTreeMap::from([(CA_KEY.to_owned(), wanted)]);
        if map.is_some() {
            let patch = serde_json::json!({ "data": data });
            let patched = self.maps.patch(CA_NAME, &PatchParams::default(), &Patch::Merge(&patch)).await;
            patched.map_err(api("change", "ConfigMap"))?;
            return Ok(several);
        }
        let map = ConfigMap { metadata: named(), data: Some(data), ..ConfigMap::default() };
        match self.maps.create(&PostParams::default(), &map).await {
            Ok(_) => Ok(several),
            // Another replica was first, with the same CA; the next round compares.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(several),
            Err(source) => Err(StoreError::Api { doing: "create", kind: "ConfigMap", source }),
        }
    }
}

fn secret(authority: &Authority) -> Secret {
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(authority.certificate.clone().into_bytes())),
        ("tls.key".to_owned(), ByteString(authority.key.clone().into_bytes())),
    ]);
    Secret {
        metadata: named(),
        data: Some(data),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

fn named() -> ObjectMeta {
    ObjectMeta { name: Some(CA_NAME.to_owned()), ..ObjectMeta::default() }
}

fn api(doing: &'static str, kind: &'static str) -> impl FnOnce(kube::Error) -> StoreError {
    move |source| StoreError::Api { doing, kind, source }
}
