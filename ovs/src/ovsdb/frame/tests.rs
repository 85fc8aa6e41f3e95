//! Round trip, truncation, split and merged reads, hostile sizes.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn documents() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        // Quotes, backslashes and brackets inside of strings are what a splitter trips over.
        r#"[ -~"\\{}\[\],é☃]{0,12}"#.prop_map(Json::from),
    ];
    let tree = leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::btree_map("[a-z\"\\\\}]{0,4}", inner, 0..6)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    });
    tree.prop_map(|tree| json!({ "result": tree, "id": 1 }))
}

/// Feeds bytes in pieces of the given sizes, over and over, and collects the messages.
fn feed(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Json>, FrameError> {
    let (mut framer, mut out, mut left) = (Framer::default(), Vec::new(), bytes);
    for size in pieces.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (piece, rest) = left.split_at((*size).min(left.len()));
        framer.buffer().extend_from_slice(piece);
        left = rest;
        while let Some(frame) = framer.next_frame()? {
            out.push(serde_json::from_slice(&frame).expect("a whole message"));
        }
    }
    Ok(out)
}

proptest! {
    #[test]
    fn messages_come_out_whole_however_they_are_cut(
        messages in proptest::collection::vec(documents(), 0..5),
        pieces in proptest::collection::vec(1..40_usize, 1..8),
        blank in "[ \r\n\t]{0,3}",
    ) {
        let text = messages.iter().flat_map(|message| [blank.clone(), message.to_string()]).collect::<String>();
        prop_assert_eq!(feed(text.as_bytes(), &pieces), Ok(messages));
    }

    #[test]
    fn a_truncated_message_never_comes_out(message in documents(), cut in 0.0..1.0_f64) {
        let text = message.to_string();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place to cut")]
        let cut = (text.len() as f64 * cut) as usize;
        prop_assert_eq!(feed(&text.as_bytes()[..cut], &[7]), Ok(Vec::new()));
    }

    #[test]
    fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1..40_usize) {
        let mut framer = Framer::with_limit(100);
        for piece in bytes.chunks(piece) {
            framer.buffer().extend_from_slice(piece);
            while let Ok(Some(_)) = framer.next_frame() {}
        }
    }
}

#[test]
fn a_message_that_never_ends_is_given_up_at_the_limit() {
    let mut framer = Framer::with_limit(1000);
    framer.buffer().extend_from_slice(b"{\"a\":\"");
    let mut most = 0;
    let error = loop {
        match framer.next_frame() {
            Ok(None) => framer.buffer().extend_from_slice(&[b'x'; 100]),
            Ok(Some(frame)) => panic!("a message of {} bytes", frame.len()),
            Err(error) => break error,
        }
        most = most.max(framer.buffered());
    };
    assert_eq!(error, FrameError::TooLong { limit: 1000 });
    assert!(most <= 1100, "{most} bytes were held");
}

#[test]
fn depth_and_number_of_values_are_limited() {
    let deep = format!("{{\"a\":{}", "[".repeat(MAX_DEPTH));
    assert_eq!(feed(deep.as_bytes(), &[50]), Err(FrameError::TooDeep { limit: MAX_DEPTH }));
    let many = format!("{{\"a\":[{}", "0,".repeat(MAX_VALUES));
    assert_eq!(feed(many.as_bytes(), &[60_000]), Err(FrameError::TooMany { limit: MAX_VALUES }));
}

#[test]
fn only_objects_are_messages() {
    for (text, byte) in [("[1]", b'['), ("}", b'}'), ("\"a\"", b'"'), ("HTTP/1.1 400", b'H'), ("{}]", b']')] {
        assert_eq!(feed(text.as_bytes(), &[100]).map(|_| ()), Err(FrameError::NotAnObject(byte)), "{text}");
    }
}
