//! The certificate authority of the IPAM service.
//!
//! Owns making it, issuing serving certificates from it, and which certificates agents should trust; pure but for
//! randomness. Must never write to the API server; `store` does.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use trunkline_ipam::{CA_NAME, SERVER_NAME};

mod keeper;
mod store;

pub use keeper::{CaKeeper, start};
pub use store::StoreError;

/// How long the CA lives.
const CA_LIFE: Duration = Duration::days(3650);
/// How long a serving certificate lives; each replica issues a new one daily.
const SERVING_LIFE: Duration = Duration::days(30);
/// Clocks may differ by so much.
const SKEW: Duration = Duration::hours(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Not a certificate and its key.
    #[error("Secret {CA_NAME} holds no usable {what}; delete it, and the controller makes a new one")]
    Unusable {
        /// "certificate" or "key".
        what: &'static str,
    },
    /// Making one failed.
    #[error("cannot make the {what}")]
    Make {
        /// "CA" or "serving certificate".
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
}

/// The CA, with its key.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS #8 PEM.
    pub key: String,
}

/// A serving certificate with its key.
#[derive(Debug)]
pub struct Serving {
    /// The certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes one.
    pub fn generate() -> Result<Self, CaError> {
        let make = |source| CaError::Make { what: "CA", source };
        let key = KeyPair::generate().map_err(make)?;
        let certificate = ca_params().self_signed(&key).map_err(make)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads one that some replica made.
    pub fn parse(certificate: &[u8], key: &[u8]) -> Result<Self, CaError> {
        let text =
            |bytes: &[u8], what| String::from_utf8(bytes.to_vec()).map_err(|_| CaError::Unusable { what });
        let (certificate, key) = (text(certificate, "certificate")?, text(key, "key")?);
        if certificates(&certificate).is_empty() {
            return Err(CaError::Unusable { what: "certificate" });
        }
        KeyPair::from_pem(&key).map_err(|_| CaError::Unusable { what: "key" })?;
        Ok(Self { certificate, key })
    }

    /// Issues a serving certificate for this replica.
    pub fn issue(&self, address: Option<IpAddr>) -> Result<Serving, CaError> {
        let make = |source| CaError::Make { what: "serving certificate", source };
        let ca_key = KeyPair::from_pem(&self.key).map_err(make)?;
        // Every CA of ours has these parameters, so that the issuer's name is known without parsing it.
        let issuer = Issuer::new(ca_params(), ca_key);
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(make)?;
        params.subject_alt_names.extend(address.map(SanType::IpAddress));
        params.distinguished_name = named(SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, SERVING_LIFE);
        let certificate = params.signed_by(&key, &issuer).map_err(make)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Serving { chain: vec![certificate.der().clone()], key })
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, CA_LIFE);
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn limit(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + life;
}

/// The certificates of a PEM text.
fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// What should be published: the CA in force first, and those published before it while they are still needed.
pub fn bundle(published: &str, current: &str, keep_earlier: bool) -> String {
    let in_force = certificates(current);
    let mut texts: Vec<String> = vec![current.trim().to_owned()];
    if keep_earlier {
        texts.extend(
            blocks(published).filter(|block| {
                certificates(block).first().is_some_and(|earlier| !in_force.contains(earlier))
            }),
        );
    }
    texts.join("\n") + "\n"
}

/// The PEM blocks of a text, one by one.
fn blocks(pem: &str) -> impl Iterator<Item = String> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END).filter(|block| block.contains(END)).map(|block| block.trim().to_owned())
}

#[cfg(test)]
mod tests;
