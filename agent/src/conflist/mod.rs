//! The node's chained CNI configuration: `00-trunkline.conflist`, a copy of the primary CNI's with our entry added.
//!
//! Owns our file and our binary on the node, and no other file: every primary CNI rewrites its own. What to write is
//! decided in `plan` (pure); `files` carries it out, kill-safe; `writer` repeats it while the agent runs.

mod files;
mod plan;
mod writer;

pub use files::{ConflistError, Removed, remove_conflist, uninstall};
pub use plan::{Action, ConfFile, History, OUR_FILE, OurEntry, PLUGIN, Plan, Skipped, State, plan};
pub use writer::{ConflistOptions, ConflistWriter, Look};
