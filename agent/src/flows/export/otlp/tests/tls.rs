//! TLS: only a collector whose certificate the configured authorities vouch for gets records.

use serde_json::json;
use tonic::transport::Identity;

use super::sockets::{Taker, anywhere, counts_once, many, start};

#[tokio::test]
async fn records_go_by_tls_to_a_collector_that_is_trusted_and_to_no_other() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, other.cert.pem()).unwrap();
    let server = Taker::default();
    let identity = Identity::from_pem(certified.cert.pem(), certified.signing_key.serialize_pem());
    let (address, _task) = server.listen(anywhere(), Some(identity));
    let endpoint = format!("https://localhost:{}", address.port());
    let exporters = start(&json!({"endpoint": endpoint, "caFile": authorities, "timeoutSeconds": 5}));
    exporters.offer(&many(100));
    let counts = counts_once(&exporters, |counts| counts.errors > 0).await;
    assert_eq!((counts.sent, counts.dropped, server.requests()), (0, 0, 0), "another authority's");
    std::fs::remove_file(&authorities).unwrap();
    let counts = counts_once(&exporters, |now| now.errors > counts.errors).await;
    assert_eq!((counts.sent, counts.dropped, server.requests()), (0, 0, 0), "no authorities");
    std::fs::write(&authorities, certified.cert.pem()).unwrap();
    let counts = counts_once(&exporters, |counts| counts.sent == 100).await;
    assert_eq!((counts.dropped, server.taken()), (0, 100));
}
