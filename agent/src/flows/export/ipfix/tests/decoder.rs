//! A small IPFIX decoder, written from RFC 7011 and 5610 and not from the encoder.

use std::collections::{BTreeMap, HashMap};

/// An enterprise (0: IANA's) and an element.
pub(super) type ElementId = (u32, u16);

/// One data record: values by element.
pub(super) type Decoded = BTreeMap<ElementId, Vec<u8>>;

#[derive(Debug, Default)]
pub(super) struct Decoder {
    templates: HashMap<u16, Vec<(ElementId, u16)>>,
    expected_sequence: u32,
    /// Data records of flow templates.
    pub(super) flows: Vec<Decoded>,
    /// Records of the options template 256.
    pub(super) types: Vec<Decoded>,
    /// Template records seen.
    pub(super) definitions: usize,
    pub(super) domain: Option<u32>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }
}

impl Decoder {
    /// Panics on whatever RFC 7011 forbids, on templates that are not known, and on a wrong sequence number.
    pub(super) fn read(&mut self, message: &[u8]) {
        let mut rest = Bytes(message);
        assert_eq!(rest.u16(), 10, "version");
        assert_eq!(usize::from(rest.u16()), message.len(), "length of the message");
        rest.u32();
        assert_eq!(rest.u32(), self.expected_sequence, "sequence");
        self.domain = Some(rest.u32());
        while !rest.0.is_empty() {
            let (id, length) = (rest.u16(), usize::from(rest.u16()));
            let mut set = Bytes(rest.take(length - 4));
            assert!(!set.0.is_empty(), "an empty set");
            while !set.0.is_empty() {
                match id {
                    2 => self.define(&mut set, false),
                    3 => self.define(&mut set, true),
                    _ => self.record(id, &mut set),
                }
            }
        }
    }

    fn define(&mut self, set: &mut Bytes<'_>, options: bool) {
        let (id, count) = (set.u16(), set.u16());
        assert!(id >= 256, "number of a template");
        if options {
            assert!((1..=count).contains(&set.u16()), "number of scope fields");
        }
        let field = |_| {
            let (element, length) = (set.u16(), set.u16());
            let enterprise = if element & 0x8000 == 0 { 0 } else { set.u32() };
            ((enterprise, element & 0x7fff), length)
        };
        let fields: Vec<_> = (0..count).map(field).collect();
        let old = self.templates.insert(id, fields.clone());
        assert!(old.is_none_or(|old| old == fields), "a template changed without withdrawal");
        self.definitions += 1;
    }

    fn record(&mut self, id: u16, set: &mut Bytes<'_>) {
        let fields = self.templates.get(&id).expect("a template before its data");
        let mut record = Decoded::new();
        for (element, length) in fields {
            let length = match (*length, *length == 0xffff) {
                (fixed, false) => usize::from(fixed),
                (_, true) => match set.take(1)[0] {
                    0xff => usize::from(set.u16()),
                    short => usize::from(short),
                },
            };
            let old = record.insert(*element, set.take(length).to_vec());
            assert!(old.is_none(), "element {element:?} twice in a record");
        }
        self.expected_sequence += 1;
        if id == 256 { self.types.push(record) } else { self.flows.push(record) }
    }
}

/// A number of one to eight bytes.
pub(super) fn number(record: &Decoded, element: ElementId) -> Option<u64> {
    Some(record.get(&element)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A text.
pub(super) fn text(record: &Decoded, element: ElementId) -> Option<&str> {
    record.get(&element).map(|bytes| std::str::from_utf8(bytes).expect("whole characters"))
}
