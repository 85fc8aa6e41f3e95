//! The exporter's task against real sockets: what arrives, what a vanished collector costs, what a silent one costs.

use std::io::Read as _;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;
use crate::flows::export::{ExportConfig, ExporterCounts, Exporters, QUEUE_RECORDS};

const SOON: Duration = Duration::from_secs(20);

fn start(collector: std::net::SocketAddr, protocol: &str) -> Exporters {
    let config = serde_json::json!({"ipfix": [{"collector": collector.to_string(), "protocol": protocol}]});
    let config: ExportConfig = serde_json::from_value(config).unwrap();
    Exporters::start(&config, 7, "node-1").unwrap()
}

fn many(count: usize) -> Vec<Arc<Record>> {
    std::iter::repeat_n(Arc::new(tcp().into()), count).collect()
}

async fn counts_once(exporters: &Exporters, so: impl Fn(&ExporterCounts) -> bool) -> ExporterCounts {
    let look = async {
        loop {
            let counts = exporters.counts().remove(0);
            if so(&counts) {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, look).await.unwrap_or_else(|_| panic!("never so: {:?}", exporters.counts()))
}

#[tokio::test]
async fn records_arrive_over_udp() {
    let collector = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let exporters = start(collector.local_addr().unwrap(), "udp");
    exporters.offer(&many(50));
    let (mut decoder, mut datagram) = (Decoder::default(), [0; 2000]);
    while decoder.flows.len() < 50 {
        let length = timeout(SOON, collector.recv(&mut datagram)).await.unwrap().unwrap();
        decoder.read(&datagram[..length]);
    }
    let counts = counts_once(&exporters, |counts| counts.sent == 50).await;
    assert_eq!((counts.dropped, counts.errors, counts.waiting), (0, 0, 0));
    exporters.stop(SOON).await;
}

#[tokio::test]
async fn a_vanished_udp_collector_costs_records_and_gets_templates_when_it_is_back() {
    let collector = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let address = collector.local_addr().unwrap();
    drop(collector);
    let exporters = start(address, "udp");
    for _ in 0..4 {
        exporters.offer(&many(1));
        let done = |counts: &ExporterCounts| counts.waiting == 0;
        counts_once(&exporters, done).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counts = counts_once(&exporters, |counts| counts.sent + counts.dropped == 4).await;
    assert!(counts.errors > 0 && counts.dropped > 0, "{counts:?}");
    let collector = UdpSocket::bind(address).await.unwrap();
    let mut datagram = [0; 2000];
    let received = async {
        loop {
            exporters.offer(&many(1));
            let next = timeout(Duration::from_millis(200), collector.recv(&mut datagram)).await;
            if let Ok(Ok(length)) = next {
                return length;
            }
        }
    };
    let length = timeout(SOON, received).await.unwrap();
    assert_eq!(&datagram[16..18], 3u16.to_be_bytes(), "the first set defines, {length} bytes");
    exporters.stop(SOON).await;
}

#[tokio::test]
async fn records_arrive_over_tcp_and_again_after_the_collector_restarts() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let exporters = start(address, "tcp");
    for session in 0..2 {
        exporters.offer(&many(30));
        let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        counts_once(&exporters, |counts| counts.sent >= 30 * (session + 1)).await;
        let decoder = read_what_there_is(stream);
        assert_eq!((decoder.flows.len(), decoder.definitions), (30, 2), "session {session}");
    }
    exporters.stop(SOON).await;
}

/// Reads without waiting for more, and closes.
fn read_what_there_is(stream: tokio::net::TcpStream) -> Decoder {
    let mut stream = stream.into_std().unwrap();
    let mut decoder = Decoder::default();
    let mut read = move || -> Option<Vec<u8>> {
        let mut header = [0; 4];
        stream.set_nonblocking(true).unwrap();
        stream.read_exact(&mut header).ok()?;
        stream.set_nonblocking(false).unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
        message[..4].copy_from_slice(&header);
        stream.read_exact(&mut message[4..]).ok()?;
        Some(message)
    };
    while let Some(message) = read() {
        decoder.read(&message);
    }
    decoder
}

#[tokio::test]
async fn a_collector_that_never_reads_costs_records_and_never_blocks() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let exporters = start(listener.local_addr().unwrap(), "tcp");
    let (_silent, _) = timeout(SOON, async {
        exporters.offer(&many(1));
        listener.accept().await.unwrap()
    })
    .await
    .unwrap();
    let chunk = many(10_000);
    let begin = Instant::now();
    let mut offered = 1;
    while exporters.counts()[0].dropped == 0 {
        exporters.offer(&chunk);
        offered += 10_000;
        assert!(begin.elapsed() < SOON, "the queue never fills: {:?}", exporters.counts());
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    exporters.offer(&chunk);
    assert!(before.elapsed() < Duration::from_secs(1), "offering waits");
    let counts = exporters.counts().remove(0);
    assert!(counts.waiting <= QUEUE_RECORDS && counts.dropped < offered, "{counts:?}");
}
