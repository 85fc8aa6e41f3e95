//! Why the IPAM service gave no addresses, in words for the pod's owner, and whether asking again may help.
//!
//! Owns the reading of gRPC codes; must never decide how often to ask.

use std::path::PathBuf;

use thiserror::Error;
use tonic::{Code, Status};

/// A call to the IPAM service that failed.
#[derive(Clone, Debug, Error)]
pub enum IpamError {
    /// No controller has announced itself on the Lease.
    #[error(
        "no IPAM controller is known: Lease trunkline-controller names no leader (is the controller's Deployment running?)"
    )]
    NoController,
    /// No CA is known to check the controller's certificate with.
    #[error("no CA of the IPAM controller is known: ConfigMap trunkline-ca has no ca.crt yet")]
    NoCa,
    /// The CA or the address cannot be used.
    #[error("cannot connect to the IPAM controller at {address}: {message}")]
    Unusable {
        /// Address from the Lease.
        address: String,
        /// What is wrong.
        message: String,
    },
    /// The token file cannot be used.
    #[error("cannot read the IPAM token {}: {message}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system says.
        message: String,
    },
    /// The controller is away, or not the leader.
    #[error("the IPAM controller at {address} is not available: {message}")]
    Unavailable {
        /// Address from the Lease.
        address: String,
        /// What happened.
        message: String,
    },
    /// The controller said no; its words are for the user.
    #[error("{message}")]
    Refused {
        /// gRPC code.
        code: Code,
        /// The controller's words.
        message: String,
    },
}

impl IpamError {
    /// Reads what the service, or the way to it, said.
    pub(super) fn from_status(address: &str, status: &Status) -> Self {
        let mut message = status.message().to_owned();
        if message.is_empty() {
            status.code().description().clone_into(&mut message);
        }
        match status.code() {
            // Unknown is what a broken connection looks like.
            Code::Unavailable
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unknown => Self::Unavailable { address: address.to_owned(), message },
            code => Self::Refused { code, message },
        }
    }

    /// May the same call succeed a moment later.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// Did the pools that were asked have no free address.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Refused { code: Code::ResourceExhausted, .. })
    }

    pub(super) fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Unauthenticated, .. })
    }

    /// The same, worth another attempt.
    pub(super) fn into_transient(self, address: &str) -> Self {
        Self::Unavailable { address: address.to_owned(), message: self.to_string() }
    }

    /// For the metric's `result`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoController => "no_controller",
            Self::NoCa => "no_ca",
            Self::Unusable { .. } => "unusable",
            Self::Token { .. } => "token",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { code, .. } => match code {
                Code::ResourceExhausted => "exhausted",
                Code::AlreadyExists => "already_exists",
                Code::InvalidArgument => "invalid_argument",
                Code::NotFound => "not_found",
                Code::PermissionDenied => "permission_denied",
                Code::Unauthenticated => "unauthenticated",
                _ => "refused",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_or_deposed_controller_is_transient_and_a_refusal_is_not() {
        for (code, transient) in [
            (Code::Unavailable, true),
            (Code::FailedPrecondition, true),
            (Code::Unknown, true),
            (Code::ResourceExhausted, false),
            (Code::InvalidArgument, false),
            (Code::NotFound, false),
            (Code::PermissionDenied, false),
        ] {
            let error = IpamError::from_status("10.0.0.1:10350", &Status::new(code, "words"));
            assert_eq!(error.is_transient(), transient, "{code:?}");
        }
    }

    #[test]
    fn a_refusal_is_shown_in_the_controllers_own_words() {
        let status = Status::resource_exhausted("IPPool p has no free address: 10 of 10 in use");
        let error = IpamError::from_status("10.0.0.1:10350", &status);
        assert_eq!(error.to_string(), "IPPool p has no free address: 10 of 10 in use");
        assert!(error.is_exhausted());
    }
}
