//! IPFIX (RFC 7011): a pure encoder, and the task's side that owns a socket.
//!
//! [`message`] fills messages by [`template`]s, which are lists of [`fields`], which are [`element`]s; [`collector`]
//! and [`transport`] do the I/O.

mod collector;
mod element;
mod fields;
mod message;
mod template;
mod transport;

#[cfg(test)]
mod tests;

pub(super) use collector::Collector;
