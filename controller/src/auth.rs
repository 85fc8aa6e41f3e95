//! Who calls: an agent, by a token that is bound to its node.
//!
//! Owns the judgement of a TokenReview and its cache. Must never keep a token, only its hash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};
use trunkline_ipam::TOKEN_AUDIENCE;

use crate::metrics::Metrics;

/// How long an answer is believed.
const TTL: Duration = Duration::from_secs(60);
/// How long a refusal is believed: short, so that a repaired cluster is not refused for long.
const REFUSAL_TTL: Duration = Duration::from_secs(5);
/// Answers kept; beyond it the expired ones go, and then all.
const CAPACITY: usize = 4096;
/// Where the API server says which node a token is bound to (Kubernetes 1.32 and later).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Whom the token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Node that the token is bound to.
    pub node: String,
}

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token.
    #[error("the call carries no `authorization: Bearer <token>`")]
    NoToken,
    /// Not valid, or for somebody else.
    #[error("the token is not valid for audience {TOKEN_AUDIENCE}{}", because(reason))]
    Invalid {
        /// The API server's words, may be empty.
        reason: String,
    },
    /// Another identity.
    #[error("the token is {user}'s; only {expected} may call")]
    WrongUser {
        /// Whose it is.
        user: String,
        /// Whose it must be.
        expected: String,
    },
    /// Bound to no node.
    #[error(
        "the token is bound to no node: it must be the projected token of an agent's pod (Kubernetes 1.32 or later)"
    )]
    NoNode,
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Why a caller could not be judged, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Refused.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The API server did not say.
    #[error("the API server cannot review the caller's token")]
    Review(#[source] kube::Error),
}

/// Judges a review: the one service account, the one audience, a node.
pub fn judge(status: &TokenReviewStatus, expected: &str) -> Result<Caller, Denied> {
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if status.authenticated != Some(true) || !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(Denied::Invalid { reason: status.error.clone().unwrap_or_default() });
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != expected {
        return Err(Denied::WrongUser { user: name, expected: expected.to_owned() });
    }
    let node = user.extra.as_ref().and_then(|extra| extra.get(NODE_NAME)).and_then(|values| values.first());
    match node.filter(|node| !node.is_empty()) {
        Some(node) => Ok(Caller { node: node.clone() }),
        None => Err(Denied::NoNode),
    }
}

/// Reviews tokens.
pub struct Authenticator {
    api: Api<TokenReview>,
    expected: String,
    cache: Mutex<ReviewCache>,
    metrics: Metrics,
}

impl Authenticator {
    /// For the agents of the installation in this namespace.
    pub fn new(client: kube::Client, namespace: &str, metrics: Metrics) -> Self {
        let expected = format!("system:serviceaccount:{namespace}:trunkline-agent");
        Self { api: Api::all(client), expected, cache: Mutex::default(), metrics }
    }

    /// Whom a token speaks for.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AuthError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&hash, Instant::now());
        self.metrics.token_review(known.is_some());
        if let Some(verdict) = known {
            return Ok(verdict?);
        }
        let spec = TokenReviewSpec {
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            token: Some(token.to_owned()),
        };
        let review = TokenReview { spec, ..TokenReview::default() };
        let asked = Instant::now();
        let review = self.api.create(&PostParams::default(), &review).await.map_err(AuthError::Review)?;
        let verdict = judge(&review.status.unwrap_or_default(), &self.expected);
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(hash, verdict.clone(), asked);
        Ok(verdict?)
    }
}

/// Verdicts by the hash of their token.
#[derive(Debug, Default)]
struct ReviewCache {
    verdicts: HashMap<[u8; 32], (Result<Caller, Denied>, Instant)>,
}

impl ReviewCache {
    fn get(&self, hash: &[u8; 32], now: Instant) -> Option<Result<Caller, Denied>> {
        self.verdicts.get(hash).filter(|(_, until)| now < *until).map(|(verdict, _)| verdict.clone())
    }

    fn put(&mut self, hash: [u8; 32], verdict: Result<Caller, Denied>, asked: Instant) {
        if self.verdicts.len() >= CAPACITY {
            self.verdicts.retain(|_, (_, until)| asked < *until);
        }
        if self.verdicts.len() >= CAPACITY {
            self.verdicts.clear();
        }
        let ttl = if verdict.is_ok() { TTL } else { REFUSAL_TTL };
        self.verdicts.insert(hash, (verdict, asked + ttl));
    }
}

#[cfg(test)]
mod tests;
