//! What people are told: Events and failures of attachments.
//!
//! Owns the wording. Must never decide anything.

use std::error::Error;

use super::made::Made;
use crate::protocol::Failure;
use crate::server::code;

/// An error with its causes, "a: b: c".
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The answer to an ADD that was ended from outside.
pub(super) fn cancelled() -> Failure {
    Failure {
        code: code::TRY_AGAIN,
        msg: "the attachment was ended before it was complete, and undone: a newer call for the pod came in, or the \
              container runtime stopped waiting"
            .to_owned(),
        details: String::new(),
    }
}

/// A failure of a step, with its causes, as one sentence about the interface.
pub(super) fn step(made: &Made, error: &dyn Error) -> Failure {
    Failure {
        code: code::TRY_AGAIN,
        msg: format!("interface {} (network {}): {}", made.wish.interface, made.wish.nad, chain(error)),
        details: String::new(),
    }
}

/// The Normal Event of an attached pod: interfaces, networks, VLANs, addresses.
pub(super) fn attached(made: &[Made]) -> String {
    let one = |made: &Made| {
        let vlan = made.wish.vlan.map_or("untagged".to_owned(), |vlan| format!("VLAN {vlan}"));
        let addresses = if made.addresses.is_empty() {
            "no address".to_owned()
        } else {
            made.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} on {} ({vlan}, bridge {}): {addresses}",
            made.wish.interface, made.wish.nad, made.wish.bridge
        )
    };
    made.iter().map(one).collect::<Vec<_>>().join("; ")
}
