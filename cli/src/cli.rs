//! The command line.
//!
//! Owns verbs, flags and which flags go together. Must never do what a verb does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::source::Source;
use crate::{describe, flows, get, uninstall};

/// Looks at Trunkline's networks, pools and attachments, and takes Trunkline off a node or a cluster.
#[derive(Parser)]
#[command(name = "trunkctl", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Verb,
}

/// Where to look.
#[derive(Args)]
pub(crate) struct Options {
    /// How to reach the API server; without it KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Namespace that Trunkline is installed in
    #[arg(long, global = true, default_value = "trunkline-system")]
    pub(crate) system_namespace: String,
    /// On a node: ask its agent here instead of the API server (/run/trunkline/agent.sock)
    #[arg(long, global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Only this node
    #[arg(long, global = true)]
    pub(crate) node: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// List objects or node state
    Get {
        /// What to list
        #[arg(value_enum)]
        kind: Kind,
        /// Form of the list
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Show the flows of secondary interfaces, the busiest first
    Flows {
        #[command(flatten)]
        options: flows::FlowsArgs,
    },
    /// Show all that is known of one object
    Describe {
        #[command(subcommand)]
        object: Describe,
    },
    /// Take Trunkline off again; NADs, pools and the CRDs that others own stay
    Uninstall {
        #[command(subcommand)]
        what: Uninstall,
    },
}

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Bridges of the agents' configuration, with their uplinks
    #[value(alias = "bridge")]
    Bridges,
    /// Ports of those bridges
    #[value(alias = "port")]
    Ports,
    /// Interfaces of pods
    #[value(alias = "attachment")]
    Attachments,
    /// Taps: what counts the flows of each port and uplink
    #[value(alias = "tap")]
    Taps,
    /// Pools of addresses
    #[value(alias = "pool")]
    Pools,
    /// Network definitions, as Trunkline reads them
    #[value(alias = "nad")]
    Nads,
    /// Claimed addresses
    #[value(alias = "allocation")]
    Allocations,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON list
    Json,
    /// One YAML list
    Yaml,
}

#[derive(Subcommand)]
enum Describe {
    /// A pod's networks: asked for, attached, reported, and what went wrong
    Pod {
        /// [<namespace>/]<name>
        pod: String,
    },
}

#[derive(Subcommand)]
enum Uninstall {
    /// Take Trunkline off one node and keep it off
    Node {
        /// Name of the node
        name: String,
        #[command(flatten)]
        options: uninstall::UninstallOptions,
    },
    /// Take Trunkline off every node, then out of the cluster
    Cluster {
        #[command(flatten)]
        options: uninstall::UninstallOptions,
    },
}

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Carries out the verb.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<()> {
    let source = Source::open(&cli.options).await?;
    match cli.verb {
        Verb::Get { kind, output } => get::run(&source, kind, output).await,
        Verb::Flows { options } => flows::run(&source, &options).await,
        Verb::Describe { object: Describe::Pod { pod } } => describe::pod(&source, &pod).await,
        Verb::Uninstall { what: Uninstall::Node { name, options } } => {
            uninstall::node(source.cluster("uninstall node")?, &name, &options).await
        }
        Verb::Uninstall { what: Uninstall::Cluster { options } } => {
            uninstall::cluster(source.cluster("uninstall cluster")?, &options).await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for good in [
            "trunkctl get bridges",
            "trunkctl get attachments -o json --node a",
            "trunkctl get taps",
            "trunkctl flows --network default/v100 --vlan 100 --protocol tcp --port 80 --top 10 -o csv",
            "trunkctl flows --pod default/a --interface eth1 --address 10.0.0.0/24 --follow",
            "trunkctl describe pod default/x --socket /run/trunkline/agent.sock",
            "trunkctl uninstall node a --force --timeout 60",
            "trunkctl uninstall cluster --image x:1",
        ] {
            assert!(Cli::try_parse_from(good.split_whitespace()).is_ok(), "{good}");
        }
        for bad in [
            "trunkctl",
            "trunkctl get",
            "trunkctl get tap-dance",
            "trunkctl flows --address 10.0.0",
            "trunkctl flows -o yaml",
            "trunkctl get pools -o csv",
            "trunkctl uninstall",
        ] {
            assert!(Cli::try_parse_from(bad.split_whitespace()).is_err(), "{bad}");
        }
    }
}
