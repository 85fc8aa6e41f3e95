//! Looking into JSON without building anything.
//!
//! Owns a scanner that finds the members of an object as slices of the input, so that the common pod costs no
//! allocation and a previous result is passed on byte by byte. It checks as much syntax as it needs for finding the
//! ends of values; whoever uses a value decodes it.

use std::borrow::Cow;

/// The input is not an object, or is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A key with its quotes, and its value.
type Member<'a> = (&'a [u8], &'a [u8]);

/// The members of one object, in order.
pub(crate) struct Members<'a> {
    input: &'a [u8],
    at: usize,
    first: bool,
    ended: bool,
}

/// Starts on an object.
pub(crate) fn members(object: &[u8]) -> Result<Members<'_>, Malformed> {
    let at = skip_blank(object, 0);
    if object.get(at) != Some(&b'{') {
        return Err(Malformed);
    }
    Ok(Members { input: object, at: at + 1, first: true, ended: false })
}

/// The value of one member, `None` when there is none or it is `null`.
pub(crate) fn member<'a>(object: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    for found in members(object)? {
        let (key, value) = found?;
        if key_is(key, name) {
            return Ok(Some(value).filter(|value| *value != b"null"));
        }
    }
    Ok(None)
}

/// Whether a key, quotes included, is this name.
pub(crate) fn key_is(key: &[u8], name: &str) -> bool {
    let inner = &key[1..key.len() - 1];
    if inner.contains(&b'\\') { text(key).is_some_and(|key| key == name) } else { inner == name.as_bytes() }
}

/// A string value; `None` for any other.
pub(crate) fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        return serde_json::from_slice::<String>(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let found = self.advance();
        self.ended = !matches!(found, Ok(Some(_)));
        found.transpose()
    }
}

impl<'a> Members<'a> {
    fn advance(&mut self) -> Result<Option<Member<'a>>, Malformed> {
        let input = self.input;
        let mut at = skip_blank(input, self.at);
        match input.get(at) {
            Some(b'}') => return Ok(None),
            Some(b',') if !self.first => at = skip_blank(input, at + 1),
            Some(_) if self.first => {}
            _ => return Err(Malformed),
        }
        self.first = false;
        let key_end = string_end(input, at)?;
        let key = &input[at..key_end];
        let colon = skip_blank(input, key_end);
        if input.get(colon) != Some(&b':') {
            return Err(Malformed);
        }
        let start = skip_blank(input, colon + 1);
        let end = value_end(input, start)?;
        self.at = end;
        Ok(Some((key, &input[start..end])))
    }
}

fn skip_blank(input: &[u8], mut at: usize) -> usize {
    while matches!(input.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

fn string_end(input: &[u8], start: usize) -> Result<usize, Malformed> {
    if input.get(start) != Some(&b'"') {
        return Err(Malformed);
    }
    let mut at = start + 1;
    loop {
        match input.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return Err(Malformed),
        }
    }
}

fn value_end(input: &[u8], start: usize) -> Result<usize, Malformed> {
    match input.get(start) {
        Some(b'"') => string_end(input, start),
        Some(b'{' | b'[') => nested_end(input, start),
        Some(b'a'..=b'z' | b'0'..=b'9' | b'-') => {
            let scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
            Ok(input[start..]
                .iter()
                .position(|byte| !scalar(byte))
                .map_or(input.len(), |length| start + length))
        }
        _ => Err(Malformed),
    }
}

fn nested_end(input: &[u8], start: usize) -> Result<usize, Malformed> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match input.get(at) {
            Some(b'"') => {
                at = string_end(input, at)?;
                continue;
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') => depth -= 1,
            Some(_) => {}
            None => return Err(Malformed),
        }
        at += 1;
        if depth == 0 {
            return Ok(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn members_are_slices_of_the_input() {
        let input = br#" { "a" : "x\"}" , "b":{"c":[1,{"d":"]"}]}, "e" : -1.5e+3, "f":null ,"g\/h":true } "#;
        let found: Vec<Member<'_>> =
            members(input).expect("an object").map(|m| m.expect("well-formed")).collect();
        let expected: [Member<'_>; 5] = [
            (br#""a""#, br#""x\"}""#),
            (br#""b""#, br#"{"c":[1,{"d":"]"}]}"#),
            (br#""e""#, b"-1.5e+3"),
            (br#""f""#, b"null"),
            (br#""g\/h""#, b"true"),
        ];
        assert_eq!(found, expected);
        assert_eq!(member(input, "g/h"), Ok(Some(&b"true"[..])));
        assert_eq!(member(input, "f"), Ok(None));
        assert_eq!(member(input, "c"), Ok(None));
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for input in [
            "",
            "[]",
            "1",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            r#"{"a":1"#,
            r#"{"a" 1}"#,
            r#"{,"a":1}"#,
            r#"{"a":1 "b":2}"#,
        ] {
            assert_eq!(member(input.as_bytes(), "b"), Err(Malformed), "{input}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_scanner_sees_what_a_parser_sees(value in any_json(), pretty in any::<bool>()) {
            let object = serde_json::json!({ "first": 1, "value": value, "last": [] });
            let input = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) };
            let input = input.expect("serialises");
            for found in members(&input).expect("an object") {
                let (key, raw) = found.expect("well-formed");
                let name = text(key).expect("a string");
                let parsed: Value = serde_json::from_slice(raw).expect("a value");
                prop_assert_eq!(&parsed, &object[&*name]);
            }
        }

        #[test]
        fn no_input_makes_it_panic(input in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = member(&input, "x");
        }
    }
}
