//! The annotation `k8s.v1.cni.cncf.io/network-status`: written after an attach, for people and for other programs.
//!
//! Owns the one write that the agent makes to pods: our annotation's key and nothing else, through `pods/status`,
//! bound to the pod's UID. Must never be read back: anybody who may patch pods can change it.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Instant;
use trunkline_api::{NETWORK_STATUS_ANNOTATION, NetworkStatus};

/// First pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Why the annotation was not written.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The pod is gone, or another one has its name now.
    #[error("pod {pod} with UID {uid} does not exist any more")]
    Gone {
        /// "namespace/name".
        pod: String,
        /// UID that was asked for.
        uid: String,
    },
    /// The API server refused the write for good.
    #[error("the API server refuses the network-status of pod {pod}: {message}")]
    Refused {
        /// "namespace/name".
        pod: String,
        /// The API server's words.
        message: String,
    },
    /// The API server could not be reached in time.
    #[error("the network-status of pod {pod} could not be written in time: {message}")]
    Unreachable {
        /// "namespace/name".
        pod: String,
        /// What the last attempt met.
        message: String,
    },
}

/// Writes network-status annotations; cheap to clone.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
}

impl fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusWriter").finish_non_exhaustive()
    }
}

impl StatusWriter {
    /// A writer that uses this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sets the annotation of exactly this pod to `entries`, the cluster's default network first. Repeating it is
    /// harmless. `uid` is the API object's, which for a static pod is its mirror's.
    ///
    /// Cancel-safe: a dropped write has either happened or not.
    pub async fn write(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        entries: &[NetworkStatus],
        deadline: Instant,
    ) -> Result<(), StatusError> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch(uid, entries)));
        let pod = || format!("{namespace}/{name}");
        let mut pause = PAUSE;
        let mut message = "the deadline had passed".to_owned();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let write = api.patch_status(name, &params, &patch);
            match tokio::time::timeout(left.min(ATTEMPT), write).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(kube::Error::Api(status))) => match Verdict::of(&status) {
                    Verdict::Gone => return Err(StatusError::Gone { pod: pod(), uid: uid.to_owned() }),
                    Verdict::Refused => {
                        return Err(StatusError::Refused { pod: pod(), message: status.message });
                    }
                    Verdict::Again => message = status.message,
                },
                Ok(Err(error)) => message = error.to_string(),
                Err(_) => "the API server did not answer".clone_into(&mut message),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(StatusError::Unreachable { pod: pod(), message })
    }
}

/// What an API server's no means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The pod is gone, or its name is another's now.
    Gone,
    /// The write will never be taken.
    Refused,
    /// It may be taken the next time: the server is busy, or somebody else wrote the pod at the same moment.
    Again,
}

impl Verdict {
    fn of(status: &Status) -> Self {
        let names_another_pod = || {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            causes.into_iter().any(|cause| cause.field == "metadata.uid")
        };
        match status.code {
            404 => Self::Gone,
            422 if names_another_pod() => Self::Gone,
            409 | 429 => Self::Again,
            400..=499 => Self::Refused,
            _ => Self::Again,
        }
    }
}

/// A merge patch of our key alone; the UID makes the API server refuse another pod of the same name (422, since a
/// UID is immutable).
fn patch(uid: &str, entries: &[NetworkStatus]) -> Value {
    let text = serde_json::to_string_pretty(entries).expect("a network status has string keys only");
    json!({ "metadata": { "uid": uid, "annotations": { NETWORK_STATUS_ANNOTATION: text } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_pod_that_is_gone_and_from_a_busy_server() {
        let verdict = |code: u16, field: &str| {
            let causes =
                json!([{ "reason": "FieldValueInvalid", "message": "field is immutable", "field": field }]);
            let status =
                json!({ "status": "Failure", "code": code, "reason": "R", "details": { "causes": causes } });
            Verdict::of(&serde_json::from_value(status).expect("a status"))
        };
        for (code, field, expected) in [
            (404, "", Verdict::Gone),
            (422, "metadata.uid", Verdict::Gone),
            (422, "metadata.annotations", Verdict::Refused),
            (403, "", Verdict::Refused),
            (409, "", Verdict::Again),
            (429, "", Verdict::Again),
            (500, "", Verdict::Again),
            (503, "", Verdict::Again),
        ] {
            assert_eq!(verdict(code, field), expected, "{code} {field}");
        }
    }

    #[test]
    fn the_patch_names_the_uid_and_touches_one_key() {
        let entries = [NetworkStatus { name: "ns/net".into(), ..NetworkStatus::default() }];
        let patch = patch("u-1", &entries);
        assert_eq!(patch["metadata"]["uid"], "u-1");
        assert_eq!(patch.as_object().expect("an object").len(), 1);
        let annotations = patch["metadata"]["annotations"].as_object().expect("an object");
        assert_eq!(annotations.len(), 1);
        let text = annotations[NETWORK_STATUS_ANNOTATION].as_str().expect("a string");
        let read: Vec<NetworkStatus> = serde_json::from_str(text).expect("what was written");
        assert_eq!(read, entries);
    }
}
