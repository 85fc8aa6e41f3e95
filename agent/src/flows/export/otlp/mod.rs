//! OTLP: every flow record as one log record, by gRPC to OpenTelemetry collectors.
//!
//! [`message`] makes requests out of [`attributes`], both pure; [`collector`] does the I/O.
//!
//! Messages and client are OpenTelemetry's own (`opentelemetry-proto`). Its SDK's log pipeline is not used: it has a
//! queue of its own, keeps to itself how many records a collector rejected, and sends again what may have arrived.
//! Our counts say of each record whether a collector acknowledged it, and no record is in a collector's sums twice.

mod attributes;
mod collector;
mod message;

#[cfg(test)]
mod tests;

pub(super) use collector::Collector;
