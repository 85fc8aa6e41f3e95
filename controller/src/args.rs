//! The command line.
//!
//! Owns its flags. Must never read a file.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;

/// Gives out the addresses of IPPools to pods' interfaces.
#[derive(Clone, Debug, Parser)]
#[command(name = "trunkline-controller", version)]
pub struct Args {
    /// Configuration file; re-read when it changes.
    #[arg(long, default_value = "/etc/trunkline/trunkline-controller.conf")]
    pub config: PathBuf,
    /// Kubeconfig; without it, the pod's service account, then the usual files.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the installation.
    #[arg(long, default_value = "trunkline-system")]
    pub namespace: String,
    /// Address at which agents reach this replica.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,
    /// Name of this replica, for the Lease and Events.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Read the configuration, say what is wrong with it, and end.
    #[arg(long)]
    pub check_config: bool,
}
