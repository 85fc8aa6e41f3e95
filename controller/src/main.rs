//! `trunkline-controller`: reads its arguments and runs. Must hold no logic.

use std::process::ExitCode;

use clap::Parser;
use trunkline_controller::{args::Args, run};

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run::main(args),
        Err(error) => run::usage(&error),
    }
}
