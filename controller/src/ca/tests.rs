//! The CA: made once, kept, rotated.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};

use super::*;

fn trusts(bundle: &str, serving: &Serving, name: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(bundle) {
        roots.add(certificate).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    verifier.verify_server_cert(&serving.chain[0], &[], &name, &[], UnixTime::now()).is_ok()
}

#[test]
fn agents_that_trust_the_ca_trust_the_serving_certificate_by_its_fixed_name() {
    let made = Authority::generate().expect("a CA");
    let read = Authority::parse(made.certificate.as_bytes(), made.key.as_bytes()).expect("the same CA");
    let serving = read.issue("10.0.0.7".parse().ok()).expect("a certificate");
    assert!(trusts(&made.certificate, &serving, SERVER_NAME));
    assert!(trusts(&made.certificate, &serving, "10.0.0.7"));
    assert!(!trusts(&made.certificate, &serving, "other.example"));
    let other = Authority::generate().expect("a CA");
    assert!(!trusts(&other.certificate, &serving, SERVER_NAME));
}

#[test]
fn while_the_ca_changes_agents_trust_both() {
    let (old, new) = (Authority::generate().expect("a CA"), Authority::generate().expect("a CA"));
    let first = bundle("", &old.certificate, true);
    assert_eq!(bundle(&first, &old.certificate, true), first, "publishing again changes nothing");
    let both = bundle(&first, &new.certificate, true);
    for authority in [&old, &new] {
        assert!(trusts(&both, &authority.issue(None).expect("a certificate"), SERVER_NAME));
    }
    let after = bundle(&both, &new.certificate, false);
    assert!(!trusts(&after, &old.issue(None).expect("a certificate"), SERVER_NAME));
    assert_eq!(certificates(&after).len(), 1);
}

#[test]
fn what_is_no_ca_is_refused_with_the_way_out() {
    let made = Authority::generate().expect("a CA");
    for (certificate, key, what) in [
        ("", made.key.as_str(), "certificate"),
        (made.certificate.as_str(), "", "key"),
        ("junk", "junk", "certificate"),
    ] {
        let error =
            Authority::parse(certificate.as_bytes(), key.as_bytes()).expect_err("refused").to_string();
        assert!(error.contains(what) && error.contains("delete it"), "{error}");
    }
}
