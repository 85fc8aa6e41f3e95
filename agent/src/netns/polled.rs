//! A descriptor that the async runtime waits for.
//!
//! Owns the registration, which tokio calls unsafe because the descriptor must stay the same while registered; here
//! nobody can reach it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A non-blocking socket read and written datagram by datagram.
#[derive(Debug)]
pub struct PolledFd(AsyncFd<OwnedFd>);

impl PolledFd {
    /// Registers a non-blocking descriptor with the current runtime.
    pub fn register(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `OwnedFd` owns an open descriptor, and the field is private and never handed out mutably, so it is
        // neither closed nor replaced before the registration is dropped.
        let registered = unsafe { AsyncFd::register(fd) }?;
        Ok(Self(registered))
    }

    /// Reads one datagram. Cancel-safe: it is read or still there.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?)).await
    }

    /// Writes one datagram. Cancel-safe: it is sent whole or not at all.
    pub async fn write(&self, datagram: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, datagram)?)).await
    }
}
