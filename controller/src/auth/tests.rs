//! Whose tokens are taken, and for which node.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

const AGENT: &str = "system:serviceaccount:trunkline-system:trunkline-agent";

fn review(user: &str, audience: &str, node: Option<&str>) -> TokenReviewStatus {
    let extra = node.map(|node| BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]));
    TokenReviewStatus {
        audiences: Some(vec![audience.to_owned()]),
        authenticated: Some(true),
        error: None,
        user: Some(UserInfo { username: Some(user.to_owned()), extra, ..UserInfo::default() }),
    }
}

#[test]
fn only_the_agent_s_token_with_our_audience_and_a_node_is_accepted() {
    let good = review(AGENT, TOKEN_AUDIENCE, Some("n1"));
    let other = "system:serviceaccount:default:default";
    let cases = [
        (good.clone(), Ok(Caller { node: "n1".to_owned() })),
        (review(AGENT, TOKEN_AUDIENCE, None), Err(Denied::NoNode)),
        (review(AGENT, TOKEN_AUDIENCE, Some("")), Err(Denied::NoNode)),
        (
            review(AGENT, "https://kubernetes.default.svc", Some("n1")),
            Err(Denied::Invalid { reason: String::new() }),
        ),
        (
            review(other, TOKEN_AUDIENCE, Some("n1")),
            Err(Denied::WrongUser { user: other.to_owned(), expected: AGENT.to_owned() }),
        ),
        (
            TokenReviewStatus {
                authenticated: Some(false),
                error: Some("expired".to_owned()),
                ..good.clone()
            },
            Err(Denied::Invalid { reason: "expired".to_owned() }),
        ),
        (TokenReviewStatus { audiences: None, ..good }, Err(Denied::Invalid { reason: String::new() })),
    ];
    for (status, expected) in cases {
        assert_eq!(judge(&status, AGENT), expected, "{status:?}");
    }
}

#[test]
fn an_answer_is_believed_for_a_minute_and_a_refusal_for_five_seconds() {
    let now = Instant::now();
    let mut cache = ReviewCache::default();
    let caller = Ok(Caller { node: "n1".to_owned() });
    cache.put([1; 32], caller.clone(), now);
    cache.put([2; 32], Err(Denied::NoNode), now);
    assert_eq!(cache.get(&[1; 32], now + Duration::from_secs(59)), Some(caller));
    assert_eq!(cache.get(&[1; 32], now + TTL), None);
    assert_eq!(cache.get(&[2; 32], now + Duration::from_secs(4)), Some(Err(Denied::NoNode)));
    assert_eq!(cache.get(&[2; 32], now + REFUSAL_TTL), None);
    assert_eq!(cache.get(&[3; 32], now), None);
}

#[test]
fn the_cache_is_bounded() {
    let now = Instant::now();
    let mut cache = ReviewCache::default();
    for number in 0..2 * CAPACITY as u64 {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        cache.put(hash, Err(Denied::NoNode), now);
    }
    assert!(cache.verdicts.len() <= CAPACITY);
}
