//! Names of Kubernetes objects (RFC 1123).
//!
//! Owns the two rules; must never know a kind of object.

/// A namespace's name: 1–63 of a–z, 0–9 and '-', neither first nor last a '-'.
pub(crate) fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let inside = !text.is_empty() && text.len() <= 63 && text.bytes().all(allowed);
    inside && !text.starts_with('-') && !text.ends_with('-')
}

/// An object's name: labels joined by dots, at most 253 bytes. Each label may be as long as the whole.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |part: &str| {
        !part.is_empty() && part.bytes().all(allowed) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
