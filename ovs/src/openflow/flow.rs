//! Flows: what is sent, what is counted, and the allow-list in typed form.
//!
//! Owns the encoding of flow-mods and the decoding of flow statistics (OpenFlow 1.3.5, sections 7.3.4.1 and 7.3.5.2).
//! Must never decide which flows a bridge should have.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};

use super::matching::{Match, VlanMatch};
use super::wire::{Cursor, WireError};

/// `OFPP_NORMAL`.
const PORT_NORMAL: u32 = 0xffff_fffa;
/// `OFPP_ANY` and `OFPG_ANY`: no restriction.
const ANY: u32 = 0xffff_ffff;
/// `OFP_NO_BUFFER`.
const NO_BUFFER: u32 = 0xffff_ffff;
/// `OFPIT_APPLY_ACTIONS`.
const APPLY_ACTIONS: u16 = 4;
/// `OFPAT_OUTPUT`.
const ACTION_OUTPUT: u16 = 0;
/// `OFPTT_ALL`.
const ALL_TABLES: u8 = 0xff;

/// What a flow-mod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowCommand {
    /// Adds the flow, or replaces the one of the same match and priority.
    Add,
    /// Removes every flow that the match covers (the cookie and its mask too).
    Delete,
    /// Removes the flow of exactly this match and priority.
    DeleteStrict,
}

/// What a flow does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forwards it as an ordinary VLAN switch does.
    Normal,
    /// Sends it out of an OpenFlow port.
    Output(u32),
    /// Something else: type and body as they came.
    Other {
        /// Type.
        kind: u16,
        /// What follows type and length.
        body: Vec<u8>,
    },
}

/// A change of the flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowMod {
    /// What to do.
    pub command: FlowCommand,
    /// Mark of the flow; in a `Delete`, what `cookie_mask` selects.
    pub cookie: u64,
    /// Bits of `cookie` that a `Delete` compares; 0 is none. Not used by `Add`.
    pub cookie_mask: u64,
    /// Table, 0–253; in a `Delete` 255 is all.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// What it matches.
    pub matching: Match,
    /// What it does; empty drops.
    pub actions: Vec<Action>,
}

/// A flow and its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowStats {
    /// Table.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// Mark.
    pub cookie: u64,
    /// What it matches.
    pub matching: Match,
    /// What it does.
    pub actions: Vec<Action>,
    /// Whether `actions` says everything: false where there are other instructions or timeouts.
    pub plain: bool,
    /// Packets that it handled.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// How long it has been there.
    pub age: Duration,
}

/// Which flows to list. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Compared under `cookie_mask`.
    pub cookie: u64,
    /// Bits of `cookie` that count; 0 is none.
    pub cookie_mask: u64,
    /// Flows that this match covers.
    pub matching: Match,
}

/// The flows that let a guarded bridge forward: nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AllowFlow {
    /// Whatever comes in by this port, tagged or not.
    Everything {
        /// OpenFlow port number.
        in_port: u32,
    },
    /// Only what comes in by this port without any VLAN tag, of 802.1Q or 802.1ad, VID 0 among them.
    Untagged {
        /// OpenFlow port number.
        in_port: u32,
    },
}

impl AllowFlow {
    /// Priority of every allowing flow.
    pub const PRIORITY: u16 = 100;

    /// The port it lets in.
    pub fn in_port(self) -> u32 {
        match self {
            Self::Everything { in_port } | Self::Untagged { in_port } => in_port,
        }
    }

    /// The match.
    pub fn matching(self) -> Match {
        let vlan = match self {
            Self::Everything { .. } => VlanMatch::Any,
            Self::Untagged { .. } => VlanMatch::Untagged,
        };
        Match { in_port: Some(self.in_port()), vlan, ..Match::default() }
    }

    /// The change that puts it in.
    #[expect(
        clippy::should_implement_trait,
        reason = "adds a flow to a table, as the protocol's command is called"
    )]
    pub fn add(self, cookie: u64) -> FlowMod {
        FlowMod {
            command: FlowCommand::Add,
            cookie,
            cookie_mask: 0,
            table: 0,
            priority: Self::PRIORITY,
            matching: self.matching(),
            actions: vec![Action::Normal],
        }
    }

    /// The change that takes exactly it out, whatever its cookie.
    pub fn delete(self) -> FlowMod {
        FlowMod { command: FlowCommand::DeleteStrict, actions: Vec::new(), ..self.add(0) }
    }

    /// The change that takes it out if its cookie is still this one: not where the port number has a new owner.
    pub fn delete_owned(self, cookie: u64) -> FlowMod {
        FlowMod { cookie, cookie_mask: u64::MAX, ..self.delete() }
    }
}

impl FlowStats {
    /// The allowing flow that this is, if it is one.
    pub fn allow(&self) -> Option<AllowFlow> {
        let in_port = self.matching.in_port?;
        let ours = self.plain && self.table == 0 && self.priority == AllowFlow::PRIORITY;
        let candidates = [AllowFlow::Everything { in_port }, AllowFlow::Untagged { in_port }];
        let normal = self.actions == [Action::Normal];
        candidates.into_iter().find(|flow| ours && normal && flow.matching() == self.matching)
    }
}

impl FlowMod {
    /// Removes every flow of all tables.
    pub fn delete_all() -> Self {
        Self::delete_by_cookie(0, 0)
    }

    /// Removes every flow whose cookie equals `cookie` under `mask`.
    pub fn delete_by_cookie(cookie: u64, mask: u64) -> Self {
        Self {
            command: FlowCommand::Delete,
            cookie,
            cookie_mask: mask,
            table: ALL_TABLES,
            priority: 0,
            matching: Match::default(),
            actions: Vec::new(),
        }
    }

    /// Appends what follows the header.
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.cookie);
        out.put_u64(self.cookie_mask);
        out.put_u8(self.table);
        out.put_u8(match self.command {
            FlowCommand::Add => 0,
            FlowCommand::Delete => 3,
            FlowCommand::DeleteStrict => 4,
        });
        out.put_u32(0); // idle and hard timeout: none
        out.put_u16(self.priority);
        out.put_u32(NO_BUFFER);
        out.put_u32(ANY);
        out.put_u32(ANY);
        out.put_u32(0); // flags: none; padding
        self.matching.write(out);
        if !self.actions.is_empty() {
            write_apply(&self.actions, out);
        }
    }
}

fn write_apply(actions: &[Action], out: &mut BytesMut) {
    let start = out.len();
    out.put_u16(APPLY_ACTIONS);
    out.put_u16(0);
    out.put_u32(0);
    for action in actions {
        match action {
            Action::Normal => write_output(PORT_NORMAL, out),
            Action::Output(port) => write_output(*port, out),
            Action::Other { kind, body } => {
                out.put_u16(*kind);
                out.put_u16(u16::try_from(body.len() + 4).expect("actions hold some dozen bytes"));
                out.put_slice(body);
            }
        }
    }
    let length = u16::try_from(out.len() - start).expect("our actions hold some dozen bytes");
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_output(port: u32, out: &mut BytesMut) {
    out.put_u16(ACTION_OUTPUT);
    out.put_u16(16);
    out.put_u32(port);
    out.put_u16(0); // max_len counts for packets to a controller only
    out.put_bytes(0, 6);
}

impl FlowFilter {
    /// Appends `ofp_flow_stats_request`.
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_u8(ALL_TABLES);
        out.put_bytes(0, 3);
        out.put_u32(ANY);
        out.put_u32(ANY);
        out.put_u32(0);
        out.put_u64(self.cookie);
        out.put_u64(self.cookie_mask);
        self.matching.write(out);
    }
}

/// Reads one `ofp_flow_stats`.
pub(super) fn read_stats(cursor: &mut Cursor<'_>) -> Result<FlowStats, WireError> {
    let length = usize::from(cursor.u16()?);
    let body = length.checked_sub(2).ok_or(WireError::Length { what: "flow statistics", length })?;
    let mut entry = cursor.part("flow statistics", body)?;
    let table = entry.u8()?;
    entry.u8()?;
    let (seconds, nanos) = (entry.u32()?, entry.u32()?);
    let priority = entry.u16()?;
    let timeouts = entry.u32()?;
    entry.take(6)?; // flags, padding
    let (cookie, packets, bytes) = (entry.u64()?, entry.u64()?, entry.u64()?);
    let matching = Match::read(&mut entry)?;
    let (actions, only_actions) = read_instructions(&mut entry)?;
    Ok(FlowStats {
        table,
        priority,
        cookie,
        matching,
        actions,
        plain: only_actions && timeouts == 0,
        packets,
        bytes,
        age: Duration::from_secs(seconds.into()) + Duration::from_nanos(nanos.into()),
    })
}

/// The actions of the apply-actions instructions, and whether there are no other instructions.
fn read_instructions(cursor: &mut Cursor<'_>) -> Result<(Vec<Action>, bool), WireError> {
    let (mut actions, mut only_actions) = (Vec::new(), true);
    while !cursor.is_empty() {
        let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?));
        let body = length.checked_sub(4).ok_or(WireError::Length { what: "an instruction", length })?;
        let mut body = cursor.part("an instruction", body)?;
        if kind != APPLY_ACTIONS {
            only_actions = false;
            continue;
        }
        body.take(4)?;
        while !body.is_empty() {
            actions.push(read_action(&mut body)?);
        }
    }
    Ok((actions, only_actions))
}

fn read_action(cursor: &mut Cursor<'_>) -> Result<Action, WireError> {
    let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?));
    let body = length.checked_sub(4).ok_or(WireError::Length { what: "an action", length })?;
    let mut body = cursor.part("an action", body)?;
    if kind != ACTION_OUTPUT {
        return Ok(Action::Other { kind, body: body.left().to_vec() });
    }
    Ok(match body.u32()? {
        PORT_NORMAL => Action::Normal,
        port => Action::Output(port),
    })
}

impl fmt::Display for FlowMod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.command {
            FlowCommand::Add => "add",
            FlowCommand::Delete => "delete",
            FlowCommand::DeleteStrict => "delete-strict",
        };
        write!(f, "{verb} priority={},{} cookie=0x{:x}", self.priority, self.matching, self.cookie)
    }
}

#[cfg(test)]
mod tests;
