//! The handshake, and which caller hears of which refusal; the switch is a few bytes.

use tokio::sync::oneshot::Receiver;

use super::super::flow::AllowFlow;
use super::super::wire::MessageBuffer;
use super::*;

type Answer = Receiver<Result<(), FlowError>>;

struct Talk {
    session: Session,
    out: BytesMut,
}

impl Talk {
    fn begun() -> Self {
        let mut out = BytesMut::new();
        let session = Session::start(&mut out);
        let mut talk = Self { session, out };
        talk.sent();
        talk.hears(kind::HELLO, 9, &[]).expect("a hello");
        assert_eq!(
            talk.sent().iter().map(|(header, _)| header.kind).collect::<Vec<_>>(),
            [kind::FEATURES_REQUEST]
        );
        let event = talk.hears(kind::FEATURES_REPLY, 9, &[0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(event.expect("features"), Event::Ready { datapath_id: 7 });
        talk
    }

    fn sent(&mut self) -> Vec<(Header, Bytes)> {
        let mut buffer = MessageBuffer::default();
        buffer.buffer().extend_from_slice(&self.out.split());
        std::iter::from_fn(|| buffer.next_message().expect("our own messages")).collect()
    }

    fn hears(&mut self, kind: u8, xid: u32, body: &[u8]) -> Result<Event, SessionError> {
        let header = Header { version: VERSION, kind, length: 0, xid };
        self.session.receive(header, &Bytes::copy_from_slice(body), &mut self.out)
    }

    fn apply(changes: Vec<FlowMod>) -> (Request, Answer) {
        let (reply, answer) = oneshot::channel();
        (Request::Apply { changes, reply }, answer)
    }

    fn bundle(&mut self, ports: std::ops::Range<u32>) -> (Vec<(Header, Bytes)>, Answer) {
        let (reply, answer) = oneshot::channel();
        self.session
            .submit(vec![Request::Bundle { changes: ports.map(flow).collect(), reply }], &mut self.out);
        (self.sent(), answer)
    }
}

fn flow(in_port: u32) -> FlowMod {
    AllowFlow::Untagged { in_port }.add(1)
}

/// `OFPFMFC_TABLE_FULL`.
const FULL: [u8; 4] = [0, 5, 0, 1];

#[test]
fn callers_share_a_barrier_and_a_refusal_reaches_its_own() {
    let mut talk = Talk::begun();
    let (first, mut first_answer) = Talk::apply(vec![flow(1), flow(2)]);
    let (second, mut second_answer) = Talk::apply(vec![flow(3)]);
    let (nothing, mut nothing_answer) = Talk::apply(Vec::new());
    talk.session.submit(vec![first, second, nothing], &mut talk.out);
    let sent = talk.sent();
    let kinds: Vec<_> = sent.iter().map(|(header, _)| header.kind).collect();
    assert_eq!(kinds, [kind::FLOW_MOD, kind::FLOW_MOD, kind::FLOW_MOD, kind::BARRIER_REQUEST]);
    talk.hears(kind::ERROR, sent[1].0.xid, &FULL).expect("a refusal");
    assert!(first_answer.try_recv().is_err(), "not before the barrier");
    talk.hears(kind::BARRIER_REPLY, sent[3].0.xid, &[]).expect("the barrier");
    let error = first_answer.try_recv().expect("an answer").expect_err("refused");
    assert!(error.to_string().contains("in_port=2") && error.to_string().contains("TABLE_FULL"), "{error}");
    assert_eq!(second_answer.try_recv(), Ok(Ok(())));
    assert_eq!(nothing_answer.try_recv(), Ok(Ok(())));
    assert_eq!(talk.session.in_flight(), 0);
    assert!(talk.session.belongs.is_empty(), "nothing is kept");
}

#[test]
fn a_bundle_is_committed_only_after_its_barrier() {
    let mut talk = Talk::begun();
    let (sent, mut answer) = talk.bundle(1..4);
    assert_eq!(sent.len(), 5, "open, three changes, barrier");
    for (header, body) in &sent[1..4] {
        assert_eq!(body[20..24], header.xid.to_be_bytes(), "the change inside has the xid outside");
    }
    talk.hears(kind::BARRIER_REPLY, sent[4].0.xid, &[]).expect("the barrier");
    let commit = talk.sent().remove(0);
    assert_eq!(commit.1[12..14], BUNDLE_COMMIT.to_be_bytes());
    assert!(answer.try_recv().is_err(), "not before the commit's answer");
    talk.hears(kind::EXPERIMENTER, commit.0.xid, &commit.1).expect("the commit");
    assert_eq!(answer.try_recv(), Ok(Ok(())));
    assert!(talk.session.belongs.is_empty(), "nothing is kept");
}

#[test]
fn a_bundle_that_was_refused_in_part_is_thrown_away() {
    let mut talk = Talk::begun();
    let (sent, mut answer) = talk.bundle(1..4);
    talk.hears(kind::ERROR, sent[2].0.xid, &FULL).expect("a refusal");
    talk.hears(kind::BARRIER_REPLY, sent[4].0.xid, &[]).expect("the barrier");
    let discard = talk.sent().remove(0);
    assert_eq!(discard.1[12..14], BUNDLE_DISCARD.to_be_bytes());
    let error = answer.try_recv().expect("an answer").expect_err("refused");
    assert!(matches!(&error, FlowError::Refused { flow, .. } if flow.contains("in_port=2")), "{error}");
    talk.hears(kind::EXPERIMENTER, discard.0.xid, &discard.1).expect("the discard");
    assert_eq!(talk.session.in_flight(), 0);
}

#[test]
fn a_commit_that_fails_names_the_change_if_the_switch_did() {
    for (names_change, words) in [(true, "in_port=3"), (false, "bundle of 3 changes")] {
        let mut talk = Talk::begun();
        let (sent, mut answer) = talk.bundle(1..4);
        talk.hears(kind::BARRIER_REPLY, sent[4].0.xid, &[]).expect("the barrier");
        let commit = talk.sent().remove(0);
        if names_change {
            talk.hears(kind::ERROR, sent[3].0.xid, &FULL).expect("a refusal");
        }
        talk.hears(kind::ERROR, commit.0.xid, &[255, 255, 9, 9, 0x4f, 0x4e, 0x46, 0]).expect("a refusal");
        let error = answer.try_recv().expect("an answer").expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn an_echo_is_answered_and_other_versions_are_told_by_name() {
    let mut talk = Talk::begun();
    talk.hears(kind::ECHO_REQUEST, 77, b"hi").expect("an echo");
    let (header, body) = talk.sent().remove(0);
    assert_eq!((header.kind, header.xid, &body[..]), (kind::ECHO_REPLY, 77, &b"hi"[..]));

    let cases: [(u8, &[u8], &str); 4] = [
        (5, &[0, 1, 0, 8, 0, 0, 0, 0b10_0000], "speaks OpenFlow 1.4"),
        (1, &[], "speaks OpenFlow 1.0"),
        (4, &[0, 1, 0, 2], "length of 2 bytes"),
        (4, &[0, 1, 0, 200, 0], "cut short"),
    ];
    for (version, body, words) in cases {
        let mut out = BytesMut::new();
        let mut session = Session::start(&mut out);
        let header = Header { version, kind: kind::HELLO, length: 0, xid: 1 };
        let error =
            session.receive(header, &Bytes::copy_from_slice(body), &mut out).expect_err("no way to talk");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_lost_connection_leaves_every_outcome_open() {
    let mut talk = Talk::begun();
    let (request, mut single) = Talk::apply(vec![flow(1)]);
    talk.session.submit(vec![request], &mut talk.out);
    let (_, mut bundle) = talk.bundle(1..3);
    talk.session.abandon(Path::new("br0.mgmt"));
    for answer in [&mut single, &mut bundle] {
        assert!(matches!(answer.try_recv(), Ok(Err(FlowError::OutcomeUnknown { .. }))));
    }
}

#[test]
fn a_listing_comes_in_parts_and_damaged_parts_end_the_connection() {
    let mut talk = Talk::begun();
    let (reply, mut answer) = oneshot::channel();
    talk.session.submit(vec![Request::Flows { filter: FlowFilter::default(), reply }], &mut talk.out);
    let xid = talk.sent()[0].0.xid;
    talk.hears(kind::MULTIPART_REPLY, xid, &[0, 1, 0, 1, 0, 0, 0, 0]).expect("a part");
    assert!(answer.try_recv().is_err(), "more is to come");
    talk.hears(kind::MULTIPART_REPLY, xid, &[0, 1, 0, 0, 0, 0, 0, 0]).expect("the last part");
    assert_eq!(answer.try_recv(), Ok(Ok(Vec::new())));

    let (reply, _answer) = oneshot::channel();
    talk.session.submit(vec![Request::Flows { filter: FlowFilter::default(), reply }], &mut talk.out);
    let xid = talk.sent()[0].0.xid;
    assert!(talk.hears(kind::MULTIPART_REPLY, xid, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 56, 0]).is_err());
}
