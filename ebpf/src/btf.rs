//! How the compiler of the programs laid out what maps hold: structs by the names of their fields.
//!
//! Pure: a reader of the kernel's type format (`Documentation/bpf/btf.rst`), as far as structs of integers, arrays and
//! structs. The kernel keeps it with every map, so that a set of another version can be read by its own layout.

use std::collections::BTreeMap;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
/// Kinds that only give another type a name or a qualifier: typedef, volatile, const.
const NAMES: [u32; 3] = [8, 9, 10];
/// Types may nest; these never do so deeply.
const DEPTH: u32 = 16;

/// Where a field lies, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

/// A struct: fields of structs in it are named `outer.inner`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) size: usize,
    pub(crate) fields: BTreeMap<String, Field>,
}

impl Shape {
    /// A value that is no struct.
    pub(crate) fn plain(size: usize) -> Self {
        Self { size, fields: BTreeMap::from([(String::new(), Field { offset: 0, size })]) }
    }
}

/// How a value of one shape becomes one of another: fields of the same name keep what they held, as far as there is
/// room; fields that the other does not know are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    size: usize,
    copies: Vec<(usize, usize, usize)>,
}

impl Translation {
    pub(crate) fn new(from: &Shape, to: &Shape) -> Self {
        let copy = |(name, new): (&String, &Field)| {
            let old = from.fields.get(name)?;
            let len = old.size.min(new.size);
            // A number's low end is what counts.
            let skip = |field: &Field| if cfg!(target_endian = "big") { field.size - len } else { 0 };
            Some((old.offset + skip(old), new.offset + skip(new), len))
        };
        Self { size: to.size, copies: to.fields.iter().filter_map(copy).collect() }
    }

    /// `None`: the value is shorter than its shape says.
    pub(crate) fn of(&self, old: &[u8]) -> Option<Vec<u8>> {
        let mut new = vec![0; self.size];
        for (from, to, len) in &self.copies {
            new.get_mut(*to..to + len)?.copy_from_slice(old.get(*from..from + len)?);
        }
        Some(new)
    }
}

struct Member {
    name: String,
    offset: usize,
    of: u32,
}

enum Type {
    Sized { size: usize, members: Vec<Member> },
    Array { of: u32, count: usize },
    Name { of: u32 },
    Other,
}

/// The types that an object or the kernel describes.
pub(crate) struct Btf {
    /// By number, less one.
    types: Vec<(String, Type)>,
}

impl Btf {
    /// `None`: these bytes are no BTF of this machine's byte order, or of a kind that is not known.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let four = bytes.get(at..at + 4)?;
            Some(u32::from_ne_bytes(four.try_into().ok()?))
        };
        let index = |at: usize| usize::try_from(word(at)?).ok();
        // Magic, version and flags; then the lengths of the header itself, and of types and strings behind it.
        if word(0)? & 0xffff != 0xeb9f {
            return None;
        }
        let header = index(4)?;
        let (types_at, types_len) = (header + index(8)?, index(12)?);
        let strings = header + index(16)?;
        let string = |offset: u32| {
            let from = strings.checked_add(usize::try_from(offset).ok()?)?;
            let text = bytes.get(from..)?.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let (mut at, mut types) = (types_at, Vec::new());
        while at < types_at + types_len {
            let (name, info, size) = (string(word(at)?)?, word(at + 4)?, word(at + 8)?);
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            let body = at + 12;
            let found = match kind {
                INT => Type::Sized { size: usize::try_from(size).ok()?, members: Vec::new() },
                ARRAY => Type::Array { of: word(body)?, count: index(body + 8)? },
                STRUCT => {
                    let member = |number: usize| {
                        let at = body + 12 * number;
                        // The kind flag puts a bit field's width into the top byte.
                        let bits = usize::try_from(word(at + 8)? & 0x00ff_ffff).ok()?;
                        Some(Member { name: string(word(at)?)?, offset: bits / 8, of: word(at + 4)? })
                    };
                    let members = (0..count).map(member).collect::<Option<_>>()?;
                    Type::Sized { size: usize::try_from(size).ok()?, members }
                }
                _ if NAMES.contains(&kind) => Type::Name { of: size },
                _ => Type::Other,
            };
            types.push((name, found));
            at = body
                + match kind {
                    INT | 14 | 17 => 4,
                    ARRAY => 12,
                    STRUCT | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self { types })
    }

    fn get(&self, id: u32) -> Option<&Type> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.types.get(index).map(|(_, found)| found)
    }

    /// The shape of a type by its number.
    pub(crate) fn shape(&self, id: u32) -> Option<Shape> {
        let mut fields = BTreeMap::new();
        let size = self.describe(id, "", 0, DEPTH, &mut fields)?;
        Some(Shape { size, fields })
    }

    /// Puts the fields of a type that lies at `offset` under `name`, and says how long it is.
    fn describe(
        &self,
        id: u32,
        name: &str,
        offset: usize,
        depth: u32,
        fields: &mut BTreeMap<String, Field>,
    ) -> Option<usize> {
        let deeper = depth.checked_sub(1)?;
        let size = match self.get(id)? {
            Type::Name { of } => return self.describe(*of, name, offset, deeper, fields),
            Type::Sized { size, members } if !members.is_empty() => {
                for member in members {
                    let inner =
                        if name.is_empty() { member.name.clone() } else { format!("{name}.{}", member.name) };
                    self.describe(member.of, &inner, offset + member.offset, deeper, fields)?;
                }
                return Some(*size);
            }
            Type::Sized { size, .. } => *size,
            Type::Array { of, count } => {
                self.describe(*of, "", 0, deeper, &mut BTreeMap::new())?.checked_mul(*count)?
            }
            Type::Other => return None,
        };
        fields.insert(name.to_owned(), Field { offset, size });
        Some(size)
    }

    /// The shapes of all structs by their names.
    #[cfg(test)]
    pub(crate) fn structs(&self) -> BTreeMap<String, Shape> {
        let named = self.types.iter().zip(1..).filter(|((name, _), _)| !name.is_empty());
        let shapes = named.filter_map(|((name, found), id)| match found {
            Type::Sized { members, .. } if !members.is_empty() => Some((name.clone(), self.shape(id)?)),
            _ => None,
        });
        shapes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(size: usize, fields: &[(&str, usize, usize)]) -> Shape {
        let field = |(name, offset, size): &(&str, usize, usize)| {
            ((*name).to_owned(), Field { offset: *offset, size: *size })
        };
        Shape { size, fields: fields.iter().map(field).collect() }
    }

    #[test]
    fn fields_go_where_the_other_layout_has_them() {
        let old = shape(12, &[("tap", 0, 2), ("gone", 2, 2), ("skbs", 4, 8)]);
        let new = shape(16, &[("skbs", 0, 8), ("tap", 8, 4), ("new", 12, 4)]);
        let mut bytes = vec![0x34, 0x12, 0xff, 0xff];
        bytes.extend(7_u64.to_le_bytes());
        let translated = Translation::new(&old, &new).of(&bytes).expect("long enough");
        let mut expected = 7_u64.to_le_bytes().to_vec();
        expected.extend([0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(translated, expected);
        assert_eq!(Translation::new(&old, &new).of(&bytes[..6]), None, "shorter than it should be");
    }

    #[test]
    fn what_is_no_btf_is_refused_and_never_read_beyond_its_end() {
        let whole = aya_obj::Object::parse(crate::object::OBJECT).expect("what the build made");
        let whole = whole.btf.expect("compiled with -g").to_bytes();
        assert!(Btf::parse(&whole).is_some_and(|btf| btf.structs().contains_key("flow_key")));
        assert!(Btf::parse(&[]).is_none() && Btf::parse(&[0; 64]).is_none());
        for length in (0..whole.len()).step_by(7) {
            // A part may still make sense; it must only not be read beyond.
            let _ = Btf::parse(&whole[..length]);
        }
    }

    #[test]
    fn structs_in_structs_are_flat() {
        let whole = aya_obj::Object::parse(crate::object::OBJECT).expect("what the build made");
        let structs = Btf::parse(&whole.btf.expect("compiled with -g").to_bytes()).expect("sound").structs();
        let (front, key) = (&structs["front"], &structs["flow_key"]);
        assert_eq!(front.fields["key.tap"], key.fields["tap"]);
        let value = key.size + structs["flow_value"].fields["skbs"].offset;
        assert_eq!(front.fields["value.skbs"], Field { offset: value, size: 8 });
    }
}
