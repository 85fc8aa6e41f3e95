//! Split and merged reads, truncation, hostile lengths.

use proptest::prelude::*;

use super::*;

fn encoded(messages: &[(u8, u32, Vec<u8>)]) -> BytesMut {
    let mut out = BytesMut::new();
    for (kind, xid, body) in messages {
        message(&mut out, *kind, *xid, |out| out.extend_from_slice(body));
    }
    out
}

fn feed(bytes: &[u8], piece: usize) -> Result<Vec<(u8, u32, Vec<u8>)>, WireError> {
    let (mut buffer, mut all) = (MessageBuffer::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.buffer().extend_from_slice(piece);
        while let Some((header, body)) = buffer.next_message()? {
            all.push((header.kind, header.xid, body.to_vec()));
        }
        assert!(
            buffer.buffered() <= usize::from(u16::MAX) + piece.len(),
            "memory is bounded by the length field"
        );
    }
    Ok(all)
}

proptest! {
    #[test]
    fn messages_come_out_whole_however_they_are_cut(
        messages in proptest::collection::vec((any::<u8>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        piece in 1..50_usize,
    ) {
        prop_assert_eq!(feed(&encoded(&messages), piece), Ok(messages));
    }

    #[test]
    fn a_truncated_message_never_comes_out(body in proptest::collection::vec(any::<u8>(), 0..60), cut in 1..8_usize) {
        let bytes = encoded(&[(1, 2, body)]);
        prop_assert_eq!(feed(&bytes[..bytes.len() - cut], 9), Ok(Vec::new()));
    }

    #[test]
    fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1..50_usize) {
        drop(feed(&bytes, piece));
    }
}

#[test]
fn a_length_below_the_header_is_refused() {
    for length in 0..8 {
        assert_eq!(
            feed(&[4, 0, 0, length, 0, 0, 0, 0], 8),
            Err(WireError::Length { what: "a message", length: length.into() })
        );
    }
}
