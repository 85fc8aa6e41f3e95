//! Errors of the switch by name, and errors of calls.
//!
//! Owns the tables of `ofp_error_msg` (OpenFlow 1.3.5, section 7.4.4; EXT-230 for bundles); must never be needed to
//! decide anything but whether to try again.

use std::fmt;
use std::path::PathBuf;

use super::wire::{Cursor, WireError};

/// The experimenter id of the Open Networking Foundation.
pub(super) const ONF: u32 = 0x4f4e_4600;
/// `OFPET_EXPERIMENTER`.
const EXPERIMENTER: u16 = 0xffff;

/// What a switch said was wrong. `Display` is `OFPFMFC_EPERM (type 5, code 3)` or the numbers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchError {
    /// `OFPET_*`, or 0xffff for an experimenter's.
    pub kind: u16,
    /// Code within the type; the experimenter's own type for an experimenter's.
    pub code: u16,
    /// Experimenter, 0 for the standard's errors.
    pub experimenter: u32,
}

/// A call on flows failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// No connection now; nothing was sent. The owner re-sends everything at the next epoch.
    #[error("not connected to {}: {reason}", socket.display())]
    NotConnected {
        /// The bridge's `.mgmt` socket.
        socket: PathBuf,
        /// Why, as far as it is known.
        reason: String,
    },
    /// The connection went away before the switch confirmed.
    #[error("the connection to {} was lost before the switch confirmed: outcome unknown, look again", socket.display())]
    OutcomeUnknown {
        /// The bridge's `.mgmt` socket.
        socket: PathBuf,
    },
    /// The switch refused one of the caller's changes. In a bundle none was made, else the others were.
    #[error("the switch refused to {flow}: {error}")]
    Refused {
        /// The change.
        flow: String,
        /// What it said.
        error: SwitchError,
    },
    /// The switch refused a bundle as a whole; nothing was changed.
    #[error("the switch refused the bundle of {changes} changes: {error}")]
    Bundle {
        /// How many changes it held.
        changes: usize,
        /// What it said.
        error: SwitchError,
    },
    /// The switch refused to list flows.
    #[error("the switch refused to list its flows: {0}")]
    List(SwitchError),
    /// The client was stopped.
    #[error("the OpenFlow client has stopped")]
    Stopped,
}

impl FlowError {
    /// Whether the same call may succeed later without anybody changing a thing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotConnected { .. } | Self::OutcomeUnknown { .. })
    }
}

impl SwitchError {
    /// Reads the body of an error message; the offending message behind it is not looked at.
    pub(super) fn read(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new("an error message", body);
        let (kind, code) = (cursor.u16()?, cursor.u16()?);
        let experimenter = if kind == EXPERIMENTER { cursor.u32()? } else { 0 };
        Ok(Self { kind, code, experimenter })
    }

    /// The name in the specification.
    pub fn name(&self) -> Option<&'static str> {
        let names = match (self.kind, self.experimenter) {
            (EXPERIMENTER, ONF) => {
                return self.code.checked_sub(2300).and_then(|code| BUNDLE.get(usize::from(code))).copied();
            }
            (EXPERIMENTER, _) => return None,
            (kind, _) => *STANDARD.get(usize::from(kind))?,
        };
        names.get(usize::from(self.code)).copied()
    }
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            write!(f, "{name} ")?;
        }
        if self.experimenter == 0 {
            write!(f, "(type {}, code {})", self.kind, self.code)
        } else {
            write!(f, "(experimenter 0x{:08x}, code {})", self.experimenter, self.code)
        }
    }
}

/// Codes by type, as `openflow.h` of version 1.3 lists them.
const STANDARD: [&[&str]; 14] = [
    &["OFPHFC_INCOMPATIBLE", "OFPHFC_EPERM"],
    &[
        "OFPBRC_BAD_VERSION",
        "OFPBRC_BAD_TYPE",
        "OFPBRC_BAD_MULTIPART",
        "OFPBRC_BAD_EXPERIMENTER",
        "OFPBRC_BAD_EXP_TYPE",
        "OFPBRC_EPERM",
        "OFPBRC_BAD_LEN",
        "OFPBRC_BUFFER_EMPTY",
        "OFPBRC_BUFFER_UNKNOWN",
        "OFPBRC_BAD_TABLE_ID",
        "OFPBRC_IS_SLAVE",
        "OFPBRC_BAD_PORT",
        "OFPBRC_BAD_PACKET",
        "OFPBRC_MULTIPART_BUFFER_OVERFLOW",
    ],
    &[
        "OFPBAC_BAD_TYPE",
        "OFPBAC_BAD_LEN",
        "OFPBAC_BAD_EXPERIMENTER",
        "OFPBAC_BAD_EXP_TYPE",
        "OFPBAC_BAD_OUT_PORT",
        "OFPBAC_BAD_ARGUMENT",
        "OFPBAC_EPERM",
        "OFPBAC_TOO_MANY",
        "OFPBAC_BAD_QUEUE",
        "OFPBAC_BAD_OUT_GROUP",
        "OFPBAC_MATCH_INCONSISTENT",
        "OFPBAC_UNSUPPORTED_ORDER",
        "OFPBAC_BAD_TAG",
        "OFPBAC_BAD_SET_TYPE",
        "OFPBAC_BAD_SET_LEN",
        "OFPBAC_BAD_SET_ARGUMENT",
    ],
    &[
        "OFPBIC_UNKNOWN_INST",
        "OFPBIC_UNSUP_INST",
        "OFPBIC_BAD_TABLE_ID",
        "OFPBIC_UNSUP_METADATA",
        "OFPBIC_UNSUP_METADATA_MASK",
        "OFPBIC_BAD_EXPERIMENTER",
        "OFPBIC_BAD_EXP_TYPE",
        "OFPBIC_BAD_LEN",
        "OFPBIC_EPERM",
    ],
    &[
        "OFPBMC_BAD_TYPE",
        "OFPBMC_BAD_LEN",
        "OFPBMC_BAD_TAG",
        "OFPBMC_BAD_DL_ADDR_MASK",
        "OFPBMC_BAD_NW_ADDR_MASK",
        "OFPBMC_BAD_WILDCARDS",
        "OFPBMC_BAD_FIELD",
        "OFPBMC_BAD_VALUE",
        "OFPBMC_BAD_MASK",
        "OFPBMC_BAD_PREREQ",
        "OFPBMC_DUP_FIELD",
        "OFPBMC_EPERM",
    ],
    &[
        "OFPFMFC_UNKNOWN",
        "OFPFMFC_TABLE_FULL",
        "OFPFMFC_BAD_TABLE_ID",
        "OFPFMFC_OVERLAP",
        "OFPFMFC_EPERM",
        "OFPFMFC_BAD_TIMEOUT",
        "OFPFMFC_BAD_COMMAND",
        "OFPFMFC_BAD_FLAGS",
    ],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
    &[],
];

/// Codes 2300 and on of the ONF experimenter (EXT-230, table of error codes).
const BUNDLE: [&str; 16] = [
    "ONFBFC_UNKNOWN",
    "ONFBFC_EPERM",
    "ONFBFC_BAD_ID",
    "ONFBFC_BUNDLE_EXIST",
    "ONFBFC_BUNDLE_CLOSED",
    "ONFBFC_OUT_OF_BUNDLES",
    "ONFBFC_BAD_TYPE",
    "ONFBFC_BAD_FLAGS",
    "ONFBFC_MSG_BAD_LEN",
    "ONFBFC_MSG_BAD_XID",
    "ONFBFC_MSG_UNSUP",
    "ONFBFC_MSG_CONFLICT",
    "ONFBFC_MSG_TOO_MANY",
    "ONFBFC_MSG_FAILED",
    "ONFBFC_TIMEOUT",
    "ONFBFC_BUNDLE_IN_PROGRESS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_by_their_names() {
        let cases = [
            (&[0, 5, 0, 4][..], "OFPFMFC_EPERM (type 5, code 4)"),
            (&[0, 4, 0, 9], "OFPBMC_BAD_PREREQ (type 4, code 9)"),
            (&[0, 0, 0, 0], "OFPHFC_INCOMPATIBLE (type 0, code 0)"),
            (&[0, 77, 0, 9], "(type 77, code 9)"),
            (
                &[0xff, 0xff, 0x09, 0x09, 0x4f, 0x4e, 0x46, 0],
                "ONFBFC_MSG_FAILED (experimenter 0x4f4e4600, code 2313)",
            ),
            (&[0xff, 0xff, 0, 1, 0, 0, 0x23, 0x20], "(experimenter 0x00002320, code 1)"),
        ];
        for (body, text) in cases {
            assert_eq!(SwitchError::read(body).expect("whole").to_string(), text);
        }
        assert!(SwitchError::read(&[0, 5, 0]).is_err());
        assert!(SwitchError::read(&[0xff, 0xff, 0, 1, 0]).is_err());
    }
}
