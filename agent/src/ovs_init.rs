//! The first step of the `trunkline-ovs` pod: may Open vSwitch of ours run on this node (design decision 19).
//!
//! Owns the refusal: a second ovsdb-server would take over the first one's socket without a word, and a second
//! vswitchd removes ports that it does not know. Must never start, stop or change anything.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    cli::{Ends, Options, chain},
    kube::{
        ClientError, client,
        events::{REPORTER, reason},
    },
};

/// How long a database server may take to answer an echo before it counts as dead.
const ANSWER: Duration = Duration::from_secs(2);
/// How long writing the Event may take; the pod's log and exit code say the same.
const EVENT: Duration = Duration::from_secs(10);
/// An echo request of RFC 7047, section 4.1.11.
const ECHO: &[u8] = br#"{"id":"trunkline","method":"echo","params":[]}"#;
/// The link by which the kernel's datapath of Open vSwitch is known.
const KERNEL_DATAPATH: &str = "/sys/class/net/ovs-system";
/// Says that a kernel datapath of this boot is ours; its folder is empty after a reboot.
const MARK: &str = "/run/trunkline/openvswitch/passed-init";

/// What `ovs-init` is told.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// Where the node's /run is mounted
    #[arg(long, default_value = "/host/run")]
    host_run: PathBuf,
    /// Name of this pod, for the Event
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// UID of this pod, for the Event
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
}

/// Why Open vSwitch of ours must not run here.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Another one's database answers.
    #[error(
        "Open vSwitch already runs on this node: {} answers. Trunkline never runs a second one beside it; \
         install the overlay host-ovs, whose agent uses the node's own, or stop that Open vSwitch",
        socket.display()
    )]
    Running {
        /// Its socket on the node.
        socket: PathBuf,
    },
    /// The kernel forwards for another one.
    #[error(
        "this node's kernel has a datapath of an Open vSwitch that is not Trunkline's (link ovs-system); \
         install the overlay host-ovs, or remove that datapath with `ovs-dpctl del-dp system@ovs-system`"
    )]
    KernelDatapath,
    /// The node's folders cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Look {
        /// What was looked at.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why the Event is not written.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("no client for the API server")]
    Client(#[from] ClientError),
    #[error("the API server refused the event")]
    Write(#[from] kube::Error),
}

impl Ends for InitError {
    fn is_usage(&self) -> bool {
        !matches!(self, Self::Look { .. })
    }
}

/// Looks at the node; a refusal is also an Event on this pod.
pub async fn run(args: InitArgs, options: Options) -> Result<(), InitError> {
    let refused = match check(&args.host_run, Path::new(KERNEL_DATAPATH), Path::new(MARK)).await {
        Ok(()) => {
            info!("no other Open vSwitch on this node");
            return Ok(());
        }
        Err(refused) => refused,
    };
    match timeout(EVENT, tell(&args, &options, &refused)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = chain(&error), "the refusal could not be written as an event"),
        Err(_) => warn!("the API server did not take the refusal's event in time"),
    }
    Err(refused)
}

async fn check(host_run: &Path, kernel_datapath: &Path, mark: &Path) -> Result<(), InitError> {
    for socket in sockets(host_run)? {
        if answers(&socket).await {
            let inner = socket.strip_prefix(host_run).unwrap_or(&socket);
            return Err(InitError::Running { socket: Path::new("/run").join(inner) });
        }
    }
    if kernel_datapath.exists() && !mark.exists() {
        return Err(InitError::KernelDatapath);
    }
    std::fs::write(mark, b"").map_err(|source| InitError::Look { path: mark.to_owned(), source })
}

/// `openvswitch/db.sock` and `*/openvswitch/db.sock`, but for our own.
fn sockets(host_run: &Path) -> Result<Vec<PathBuf>, InitError> {
    let failed = |source| InitError::Look { path: host_run.to_owned(), source };
    let mut found = vec![host_run.join("openvswitch/db.sock")];
    for entry in std::fs::read_dir(host_run).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != "trunkline" {
            found.push(entry.path().join("openvswitch/db.sock"));
        }
    }
    found.retain(|socket| socket.symlink_metadata().is_ok());
    Ok(found)
}

/// Does a database server behind the socket answer; a socket that a dead one left behind does not.
async fn answers(socket: &Path) -> bool {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(ECHO).await?;
        stream.read_u8().await
    };
    matches!(timeout(ANSWER, ask).await, Ok(Ok(b'{')))
}

async fn tell(args: &InitArgs, options: &Options, refused: &InitError) -> Result<(), TellError> {
    let (Some(pod), Some(node)) = (&args.pod_name, &options.node_name) else { return Ok(()) };
    let client = client(options.kubeconfig.as_deref()).await?;
    let reason = reason::OVS_ALREADY_RUNNING;
    let event = Event {
        // Every restart of the pod says the same; one Event is enough.
        metadata: ObjectMeta {
            name: Some(format!("{pod}.already-running")),
            namespace: Some(options.namespace.clone()),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.clone()),
            namespace: Some(options.namespace.clone()),
            uid: args.pod_uid.clone(),
            ..ObjectReference::default()
        }),
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".into()),
        reason: Some(reason.name.into()),
        action: Some(reason.action.into()),
        note: Some(refused.to_string()),
        reporting_controller: Some(REPORTER.into()),
        reporting_instance: Some(node.clone()),
        ..Event::default()
    };
    match Api::<Event>::namespaced(client, &options.namespace).create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    async fn checked(run: &Path, datapath: &Path) -> Result<(), InitError> {
        check(run, datapath, &run.join("mark")).await
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_no_other_open_vswitch() {
        let run = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(run.path().join("openvswitch")).expect("a folder");
        drop(UnixListener::bind(run.path().join("openvswitch/db.sock")).expect("a socket"));
        checked(run.path(), &run.path().join("none")).await.expect("nothing answers");
    }

    #[tokio::test]
    async fn a_database_that_answers_is_refused_by_its_path_on_the_node() {
        for folder in ["openvswitch", "antrea/openvswitch"] {
            let run = tempfile::tempdir().expect("a folder");
            std::fs::create_dir_all(run.path().join(folder)).expect("a folder");
            let listener = UnixListener::bind(run.path().join(folder).join("db.sock")).expect("a socket");
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut bytes = [0; 256];
                let _ = stream.read(&mut bytes).expect("a request");
                stream.write_all(br#"{"id":"trunkline","result":[],"error":null}"#).expect("an answer");
            });
            let refused = checked(run.path(), &run.path().join("none")).await.expect_err("something answers");
            server.join().expect("the server ends");
            assert!(refused.is_usage());
            let text = refused.to_string();
            assert!(text.contains(&format!("/run/{folder}/db.sock answers")), "{text}");
            assert!(text.contains("host-ovs"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_kernel_datapath_is_refused_unless_it_came_after_this_step_had_passed() {
        let run = tempfile::tempdir().expect("a folder");
        let datapath = run.path().join("ovs-system");
        std::fs::write(&datapath, b"").expect("a file");
        let refused = checked(run.path(), &datapath).await.expect_err("not ours");
        assert!(matches!(refused, InitError::KernelDatapath));
        std::fs::remove_file(&datapath).expect("a file");
        checked(run.path(), &datapath).await.expect("no datapath");
        std::fs::write(&datapath, b"").expect("a file");
        checked(run.path(), &datapath).await.expect("ours by now");
    }

    #[tokio::test]
    async fn our_own_database_does_not_count() {
        let run = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(run.path().join("trunkline/openvswitch")).expect("a folder");
        std::fs::write(run.path().join("trunkline/openvswitch/db.sock"), b"").expect("a file");
        assert!(sockets(run.path()).expect("a list").is_empty());
    }
}
