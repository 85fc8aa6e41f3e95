//! The harness as a program: prepares what suites need, shows the demo, clears up.
//!
//! Everything is in the library; this parses the command line and prints the outcome.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use trunkline_e2e::debs::Kernel;
use trunkline_e2e::{bench, cluster, debs, demo, forward, guard, guest, prereq, tools};

/// Trunkline's harness: real control planes, nodes and pods on one machine.
#[derive(Debug, Parser)]
#[command(name = "trunkline-e2e", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Finds, fetches or builds what a tier of tests runs
    Prepare {
        /// The tier
        tier: Tier,
    },
    /// Shows Trunkline on a real two-node cluster and writes target/demo.json; KEEP=1 leaves the cluster
    Demo,
    /// Removes what `KEEP=1` left
    DemoDown,
    /// Measures speed against what people use otherwise and writes target/bench.jsonl
    Bench(bench::Options),
    /// Prints a folder with etcd, kube-apiserver and kubectl, for tests that look for one of envtest
    Assets,
    /// Runs a command in a machine of its own with a stock kernel, under QEMU
    Guest {
        /// The kernel
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        /// The program, by its path, and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Runs what the kernel datapath must do, of the light tier, in such a machine
    KernelDatapath {
        /// The kernel
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        /// The light tier's test program
        program: PathBuf,
    },
    /// Clears up after runs that died
    Reap,
    /// Waits for the end of a run and clears up after it
    #[command(hide = true)]
    Guard {
        /// The run's state folder
        dir: PathBuf,
    },
    /// Makes and holds the mounts of a cluster node
    #[command(hide = true)]
    NodeMounts {
        /// The folder for what survives a boot of the node
        disk: PathBuf,
        /// The file to create once all mounts are made
        ready: PathBuf,
    },
    /// Forwards from 127.0.0.1 into a network namespace
    #[command(hide = true)]
    Forward {
        /// The namespace in which to connect
        netns: PathBuf,
        /// The address to connect to
        target: SocketAddr,
        /// Where to write the listening address
        port_file: PathBuf,
    },
}

/// What a tier of tests runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tier {
    /// Open vSwitch alone
    Ovs,
    /// A control plane and light nodes
    Light,
    /// A control plane and nodes with kubelet and containerd
    Cluster,
    /// A machine of its own under QEMU
    Guest,
    /// Collectors of flow exports
    Flows,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,kube_client=off".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Prepare { tier } => prepare(tier),
        Verb::Demo => {
            let keep = std::env::var_os("KEEP").is_some_and(|value| value == "1");
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(demo::run(keep))
        }
        Verb::DemoDown => demo::down(),
        Verb::Bench(options) => bench::run(&options),
        Verb::Assets => {
            println!("{}", tools::assets()?.display());
            Ok(())
        }
        Verb::Guest { kernel, command } => guest::run(kernel, &command),
        Verb::KernelDatapath { kernel, program } => guest::kernel_datapath(kernel, &program),
        Verb::Reap => guard::reap_dead_runs(),
        Verb::Guard { dir } => guard::watch(&dir),
        Verb::NodeMounts { disk, ready } => cluster::mounts::hold(&disk, &ready),
        Verb::Forward { netns, target, port_file } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(forward::serve(netns, target, &port_file))
        }
    }
}

fn prepare(tier: Tier) -> Result<()> {
    prereq::check()?;
    if matches!(tier, Tier::Flows) {
        debs::collectors()?;
        return tools::prepare(tools::FLOWS);
    }
    debs::ovs()?;
    if matches!(tier, Tier::Light | Tier::Cluster | Tier::Guest) {
        tools::prepare(tools::CONTROL_PLANE)?;
        tools::prepare(tools::LIGHT)?;
        debs::ethtool()?;
    }
    if matches!(tier, Tier::Light) {
        debs::prometheus()?;
    }
    if matches!(tier, Tier::Cluster) {
        tools::prepare(tools::CLUSTER)?;
        debs::containerd()?;
    }
    if matches!(tier, Tier::Guest) {
        guest::prepare()?;
    }
    Ok(())
}
