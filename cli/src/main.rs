//! `trunkctl`: looks at Trunkline, and takes it off again.
//!
//! Owns the process: command line, runtime, exit codes (0 done, 1 failed or incomplete, 64 bad usage). Must never
//! change anything outside the documented verbs, of which only `uninstall` does.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod describe;
mod flows;
mod get;
mod output;
mod source;
mod table;
mod uninstall;

/// Bad usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            // A closed pipe is no reason to say more.
            let _ = refused.print();
            return if refused.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("trunkctl: {}", output::words(error));
    let usage = error.downcast_ref::<cli::UsageError>().is_some();
    if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}
