//! The IPAM service's port: TCP, TLS, gRPC.
//!
//! One task accepts; handshakes run beside each other, bounded in number and time, so that a caller that stalls
//! holds up nobody. All end when the returned future is dropped. Must never know a call.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use trunkline_ipam::proto::ipam_server::IpamServer;

use crate::service::Service;

/// Handshakes under way at once; beyond it, callers wait to be accepted.
const HANDSHAKES: usize = 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections whose handshake is done and that have not been taken up yet.
const QUEUE: usize = 64;
/// Between two pings of an idle connection, so that an agent that has vanished is noticed.
const PING: Duration = Duration::from_secs(30);

/// TLS as we serve it: 1.2 and 1.3, HTTP/2 only.
pub fn tls(certificate: Arc<dyn ResolvesServerCert>) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Serves until stopped.
pub async fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    service: Service,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (connections, accepted) = mpsc::channel(QUEUE);
    let incoming = stream::unfold(accepted, |mut accepted| async move {
        let connection: TlsStream<TcpStream> = accepted.recv().await?;
        Some((Ok::<_, std::io::Error>(connection), accepted))
    });
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .add_service(IpamServer::new(service))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let acceptor = accept(listener, TlsAcceptor::from(Arc::new(tls)), connections);
    tokio::select! { biased;
        outcome = server => outcome,
        () = acceptor => Ok(()),
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.len() >= HANDSHAKES {
            handshakes.join_next().await;
        }
        while handshakes.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, say: others have to end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        handshakes.spawn(async move {
            // Small answers should not wait for more.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(connection)) => {
                    // The server has stopped if nobody takes it.
                    let _ = connections.send(connection).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}
