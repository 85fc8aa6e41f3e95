//! VLAN identifiers and sets of them.
//!
//! Owns the bounds of IEEE 802.1Q; must never represent 0 (priority tag) or 4095 (reserved) as a VLAN.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest usable VLAN id (IEEE 802.1Q-2018, table 9-2).
const MAX: u16 = 4094;

/// An 802.1Q VLAN id, 1–4094. "Untagged" is `Option::<VlanId>::None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// The id, 1–4094.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Reads a user's `vlan` key, in which 0 means untagged.
    pub fn from_tag(tag: u16) -> Result<Option<Self>, InvalidVlan> {
        if tag == 0 { Ok(None) } else { Self::try_from(tag).map(Some) }
    }
}

impl TryFrom<u16> for VlanId {
    type Error = InvalidVlan;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        if (1..=MAX).contains(&id) { Ok(Self(id)) } else { Err(InvalidVlan(id.to_string())) }
    }
}

impl FromStr for VlanId {
    type Err = InvalidVlan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = parse_decimal(text).ok_or_else(|| InvalidVlan(text.to_owned()))?;
        Self::try_from(id)
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is no VLAN id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a VLAN id; use 1 to 4094")]
pub struct InvalidVlan(String);

/// The VLANs that an uplink carries, "untagged" among them as 0; by default all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanSet {
    /// Sorted, disjoint, non-adjacent inclusive ranges in 0–4094; empty means everything.
    ranges: Vec<(u16, u16)>,
}

impl VlanSet {
    /// Everything, tagged or not.
    pub const ALL: Self = Self { ranges: Vec::new() };

    /// Reads `["0", "100", "200-300"]`; an empty list means everything.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidVlanRange> {
        let mut ranges = items.into_iter().map(parse_range).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1 + 1 => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// Does it carry everything, without a list.
    pub fn is_all(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Does it carry this VLAN; `None` asks for untagged traffic.
    pub fn contains(&self, vlan: Option<VlanId>) -> bool {
        let id = vlan.map_or(0, VlanId::get);
        self.is_all() || self.ranges.iter().any(|&(first, last)| (first..=last).contains(&id))
    }

    /// The lowest VLAN that both carry, 0 for untagged.
    pub fn common(&self, other: &Self) -> Option<u16> {
        let whole = [(0, MAX)];
        let of = |set: &'_ Self| if set.is_all() { whole.to_vec() } else { set.ranges.clone() };
        let theirs = of(other);
        of(self)
            .into_iter()
            .flat_map(|(a, b)| theirs.iter().map(move |&(c, d)| (a.max(c), b.min(d))))
            .filter(|(first, last)| first <= last)
            .map(|(first, _)| first)
            .min()
    }

    /// OVS `Port:trunks`: every id spelled out, 0 for untagged; empty means everything.
    pub fn trunks(&self) -> Vec<u16> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last).collect()
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all VLANs");
        }
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// An element of `allowedVLANs` that is neither an id nor a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a VLAN or a range of them; use \"0\" (untagged), \"1\" to \"4094\", or \"200-300\"")]
pub struct InvalidVlanRange(String);

fn parse_range(item: &str) -> Result<(u16, u16), InvalidVlanRange> {
    let invalid = || InvalidVlanRange(item.to_owned());
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let (first, last) = (parse_decimal(first).ok_or_else(invalid)?, parse_decimal(last).ok_or_else(invalid)?);
    // Untagged is no neighbour of VLAN 1: it is named alone.
    if first == 0 && last != 0 {
        return Err(invalid());
    }
    if first <= last && last <= MAX { Ok((first, last)) } else { Err(invalid()) }
}

/// Decimal digits only: `u16::from_str` would also take "+5" and "007".
fn parse_decimal(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
