//! The one error of configuration files.
//!
//! Owns its sentence: `file:line: key: problem`. Must never hold the file.

use std::fmt;

/// The first thing in a configuration file that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file, without its directory.
    pub file: String,
    /// Line, from 1; none when the file as a whole is at fault.
    pub line: Option<usize>,
    /// Path of the key, such as `secondaryNetwork.ovsBridges[0].bridgeName`; empty for the file as a whole.
    pub key: String,
    /// The value, and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}
