//! The agent's process: the command line decides, the library does. Must never hold logic.

use std::process::ExitCode;

fn main() -> ExitCode {
    trunkline_agent::cli::main()
}
