//! The command line of `trunkline-agent`: flags, subcommands, logging, exit codes.
//!
//! Owns what a process is told from outside. Exit codes: 0 done, 1 failed while running, 64 bad configuration or usage.
//! Must never do more than start something that another module owns.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{config, dump_client, ovs_init, protocol::Operation, run, uninstall};

/// Bad configuration or usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Trunkline's node agent.
#[derive(Debug, Parser)]
#[command(name = "trunkline-agent", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the agent is told, beside its configuration file.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The configuration file
    #[arg(long, global = true, default_value = "/etc/trunkline/trunkline-agent.conf")]
    pub config: PathBuf,
    /// Name of this node's Node object
    #[arg(long, global = true, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// How to reach the API server; without it, the pod's service account
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace that Trunkline is installed in
    #[arg(long, global = true, env = "POD_NAMESPACE", default_value = "trunkline-system")]
    pub namespace: String,
    /// Socket for the CNI plugin, for `dump` and for `flows`
    #[arg(long, global = true, default_value = "/run/trunkline/agent.sock")]
    pub socket: PathBuf,
    /// Service-account token with audience trunkline-ipam, bound to this node
    #[arg(long, global = true, default_value = "/var/run/secrets/trunkline.io/token")]
    pub ipam_token_file: PathBuf,
    /// CA of the IPAM service as a file; without it, that of the cluster is watched
    #[arg(long, global = true)]
    pub ipam_ca_file: Option<PathBuf>,
    /// The plugin's binary to install on the node; without it, trunkline-cni beside this program
    #[arg(long, global = true)]
    pub plugin: Option<PathBuf>,
    /// What must be undone exactly is written down here first
    #[arg(long, global = true, default_value = crate::journal::DEFAULT_PATH)]
    pub journal: PathBuf,
    /// Where the kernel says which boot this is
    #[arg(long, global = true, default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// Where taps are pinned: a BPF file system, mounted here when there is none
    #[arg(long, global = true, default_value = crate::flows::DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Port of /metrics, /healthz and /readyz, instead of the configuration's metricsPort
    #[arg(long)]
    pub metrics_port: Option<u16>,
    /// Check the configuration file and exit: 0 good, 64 bad
    #[arg(long)]
    pub check_config: bool,
    /// Log lines as text or as JSON
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (the default)
    Run,
    /// Print this node as the running agent sees it
    Dump {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Json)]
        output: Output,
    },
    /// Print the flows of this node's secondary interfaces
    Flows {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Json)]
        output: Output,
    },
    /// Refuse, with exit code 64, where another Open vSwitch runs on this node
    OvsInit(ovs_init::InitArgs),
    /// Take everything of Trunkline off this node; works with the agent stopped
    UninstallNode {
        /// Only the files of Trunkline's own Open vSwitch, once that is stopped
        #[arg(long)]
        files: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Json,
}

/// The whole process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            let code = if refused.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            // A closed pipe is no reason to say more.
            let _ = refused.print();
            return code;
        }
    };
    if cli.options.check_config {
        return check_config(&cli.options);
    }
    log_to_stderr(cli.options.log_format);
    // Fails only when a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => with_runtime(run::run(cli.options)),
        Command::Dump { output: Output::Json } => ask(&cli.options, Operation::Dump),
        Command::Flows { output: Output::Json } => ask(&cli.options, Operation::Flows),
        Command::OvsInit(args) => with_runtime(ovs_init::run(args, cli.options)),
        Command::UninstallNode { files: false } => with_runtime(uninstall::run(cli.options)),
        Command::UninstallNode { files: true } => with_runtime(async { uninstall::files::run() }),
    }
}

fn ask(options: &Options, question: Operation) -> ExitCode {
    done(dump_client::print(&options.socket, question).map_err(|error| (1, chain(&error))))
}

fn check_config(options: &Options) -> ExitCode {
    match config::load(&options.config) {
        Ok(_) => {
            println!("{}: good", options.config.display());
            ExitCode::SUCCESS
        }
        Err(error) => done(Err((USAGE, error.to_string()))),
    }
}

/// An error that ends the process says with which code.
pub trait Ends: std::error::Error {
    /// Is it the configuration's or the command line's fault, so that trying again cannot help.
    fn is_usage(&self) -> bool;
}

fn with_runtime<E: Ends>(work: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return done(Err((1, format!("cannot start the runtime: {error}")))),
    };
    let result = runtime.block_on(work);
    // Blocking reads of files must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    done(result.map_err(|error| (if error.is_usage() { USAGE } else { 1 }, chain(&error))))
}

fn done(result: Result<(), (u8, String)>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("trunkline-agent: {message}");
            ExitCode::from(code)
        }
    }
}

/// An error with everything that caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn log_to_stderr(format: LogFormat) {
    const DEFAULT: &str = "info,kube_client=off,kube_runtime=off,hyper=warn,tower=warn,h2=warn,rustls=warn";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_run_is_the_default() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["trunkline-agent", "--node-name", "a"]).expect("good flags");
        assert!(cli.command.is_none());
        assert_eq!(cli.options.socket, PathBuf::from("/run/trunkline/agent.sock"));
        let cli = Cli::try_parse_from(["trunkline-agent", "dump", "-o", "json", "--socket", "/s"]);
        assert_eq!(cli.expect("good flags").options.socket, PathBuf::from("/s"));
        assert!(Cli::try_parse_from(["trunkline-agent", "--nonsense"]).is_err());
    }

    #[test]
    fn a_chain_of_causes_is_one_line_without_repetition() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }
}
