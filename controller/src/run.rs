//! Starts everything, and ends it.
//!
//! Owns the exit codes and the order: configuration, Antrea's gates, CA, watches, Lease, service. Tasks live in one
//! set; one that ends early ends the process. Must never know a pool.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use kube::api::Api;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use trunkline_api::ControllerConfig;

use crate::args::Args;
use crate::auth::Authenticator;
use crate::claims::Claims;
use crate::config_file::{self, LoadError};
use crate::election::{Election, Timings};
use crate::gc::{Collector, Pace};
use crate::guard::Guard;
use crate::http::{self, Pages};
use crate::keeper::{Keeper, Notices};
use crate::lease::{Chain, LeaseKeeper};
use crate::ledger::{self, Ledger, LedgerHandle};
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::role::{self, Role, RoleReader};
use crate::service::{Parts, Service};
use crate::turns::Turns;
use crate::{antrea, ca, server, watches};

/// Bad usage or bad configuration.
const EXIT_USAGE: u8 = 64;
/// How long the tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Says what is wrong with the command line; `--help` and `--version` are no errors.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// Runs the controller.
pub fn main(args: Args) -> ExitCode {
    let config = match config_file::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("trunkline-controller: {}", Chain(&error));
            return match error {
                LoadError::Refused { .. } => ExitCode::from(EXIT_USAGE),
                LoadError::Read { .. } if args.check_config => ExitCode::from(EXIT_USAGE),
                LoadError::Read { .. } => ExitCode::FAILURE,
            };
        }
    };
    if args.check_config {
        println!("{}: ok", args.config.display());
        return ExitCode::SUCCESS;
    }
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkline-controller: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    format.with_writer(std::io::stderr).init();
}

async fn run(args: Args, config: ControllerConfig) -> anyhow::Result<()> {
    // Both the API client and the service use it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = client(&args).await?;
    if let Some(collision) =
        antrea::check(client.clone()).await.context("cannot tell whether Antrea runs here")?
    {
        anyhow::bail!(collision);
    }
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let outcome = tokio::select! { biased;
        signal = stopped() => signal,
        outcome = start(&args, config, client, &mut tasks, stop.clone()) => match outcome {
            Ok(()) => tokio::select! { biased;
                signal = stopped() => signal,
                ended = tasks.join_next() => Err(early_end(ended)),
            },
            Err(error) => Err(error),
        },
    };
    stop.cancel();
    let _ = tokio::time::timeout(SHUTDOWN, async {
        while let Some(ended) = tasks.join_next().await {
            // The Lease's task is the one that has something to finish.
            if matches!(ended, Ok(("lease", _))) {
                break;
            }
        }
    })
    .await;
    tasks.abort_all();
    outcome
}

type Ended = (&'static str, anyhow::Result<()>);

fn early_end(ended: Option<Result<Ended, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Err(error)))) => error.context(format!("task {name} ended")),
        Some(Ok((name, Ok(())))) => anyhow::anyhow!("task {name} ended"),
        Some(Err(error)) => anyhow::anyhow!("a task failed: {error}"),
        None => anyhow::anyhow!("no task runs"),
    }
}

async fn client(args: &Args) -> anyhow::Result<Client> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await?
        }
        None => kube::Config::infer().await.context("no kubeconfig and no service account")?,
    };
    Ok(Client::try_from(config)?)
}

/// SIGTERM or SIGINT.
async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    Ok(())
}

/// Starts a task of the set, under a span of its name.
fn spawn<E: Into<anyhow::Error>>(
    tasks: &mut JoinSet<Ended>,
    name: &'static str,
    task: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let task = async move { (name, task.await.map_err(Into::into)) };
    tasks.spawn(task.instrument(tracing::info_span!("task", name)));
}

async fn never_fails(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// What several tasks share.
struct Shared {
    client: Client,
    ledger: LedgerHandle,
    pods: Pods,
    turns: Turns,
    claims: Claims,
    guard: Guard,
    notices: Notices,
    metrics: Metrics,
    role: RoleReader,
    config: watch::Receiver<Arc<ControllerConfig>>,
}

async fn start(
    args: &Args,
    config: ControllerConfig,
    client: Client,
    tasks: &mut JoinSet<Ended>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let pod_name = args.pod_name.clone().unwrap_or_else(|| "trunkline-controller".to_owned());
    if !config.gates.antrea_ipam {
        tracing::warn!("feature gate AntreaIPAM is off: no addresses are given");
    }
    let pages = TcpListener::bind((config.metrics_bind_address, config.metrics_port)).await;
    let pages = pages.with_context(|| format!("cannot listen on metricsPort {}", config.metrics_port))?;
    let port = TcpListener::bind((config.ipam_bind_address, config.ipam_port)).await;
    let port = port.with_context(|| format!("cannot listen on ipamPort {}", config.ipam_port))?;
    let (ca_keeper, certificate) = ca::start(client.clone(), &args.namespace, args.pod_ip).await?;
    let tls = server::tls(certificate)?;

    let (ledger, ledger_task) = ledger::spawn(Ledger::default());
    spawn(tasks, "ledger", never_fails(ledger_task));
    spawn(tasks, "ca", never_fails(ca_keeper.run()));
    let (role, role_reader) = watch::channel(Role { gate: config.gates.antrea_ipam, ..Role::default() });
    let election = Election::new(identity(&pod_name), Timings::new(config.lease_duration));
    let address = advertised(args, &port)?;
    let (configured, config_reader) = watch::channel(Arc::new(config));
    let (notices, notices_task) = Notices::new(client.clone(), &pod_name);
    spawn(tasks, "events", never_fails(notices_task.run()));
    let turns = Turns::default();
    let shared = Shared {
        guard: Guard::new(client.clone(), ledger.clone(), turns.clone()),
        ledger,
        pods: Pods::new(client.clone()),
        turns,
        claims: Claims::new(client.clone()),
        notices,
        metrics: metrics.clone(),
        role: RoleReader::new(role_reader),
        config: config_reader,
        client,
    };
    start_watches(tasks, &shared);
    start_duties(tasks, &shared, role.clone());
    let leases = Api::namespaced(shared.client.clone(), &args.namespace);
    let lease = LeaseKeeper::new(leases, election, address.to_string(), role);
    spawn(tasks, "lease", never_fails(lease.run(stop.clone())));
    spawn(tasks, "config", never_fails(config_file::follow(args.config.clone(), configured, metrics)));
    start_pages(tasks, &shared, pages);
    let service = service(&shared, &args.namespace);
    spawn(tasks, "ipam", server::serve(port, tls, service, stop));
    tracing::info!(%address, "serving");
    Ok(())
}

/// Nobody else's, not even a former life's of the same pod.
fn identity(pod_name: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{pod_name}_{:016x}", RandomState::new().hash_one(pod_name))
}

/// Where agents reach this replica: the pod's address, with the port that is really open.
fn advertised(args: &Args, listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    let local = listener.local_addr()?;
    let ip = args.pod_ip.unwrap_or(local.ip());
    anyhow::ensure!(
        !ip.is_unspecified(),
        "--pod-ip (POD_IP) is missing: agents must be told at which address this replica is reached"
    );
    Ok(SocketAddr::new(ip, local.port()))
}

fn start_watches(tasks: &mut JoinSet<Ended>, shared: &Shared) {
    let Shared { client, ledger, pods, .. } = shared;
    spawn(tasks, "watch-pools", watches::pools(client.clone(), ledger.clone()));
    spawn(tasks, "watch-claims", watches::claims(client.clone(), ledger.clone()));
    spawn(tasks, "watch-nads", watches::nads(client.clone(), ledger.clone()));
    spawn(tasks, "watch-pods", never_fails(watches::pods(client.clone(), pods.clone())));
    spawn(tasks, "watch-nodes", never_fails(watches::nodes(client.clone(), pods.clone())));
}

fn start_duties(tasks: &mut JoinSet<Ended>, shared: &Shared, role: watch::Sender<Role>) {
    let Shared { client, ledger, pods, turns, claims, guard, notices, metrics, role: reader, config } =
        shared;
    let keeper = Keeper::new(
        client.clone(),
        ledger.clone(),
        reader.clone(),
        guard.clone(),
        notices.clone(),
        metrics.clone(),
    );
    spawn(tasks, "status", never_fails(keeper.run()));
    let pace = config.clone();
    let collector = Collector {
        ledger: ledger.clone(),
        claims: claims.clone(),
        pods: pods.clone(),
        turns: turns.clone(),
        role: reader.clone(),
        metrics: metrics.clone(),
        pace: Arc::new(move || {
            let config = pace.borrow();
            Pace { interval: config.gc_interval, grace: config.gc_grace_period }
        }),
    };
    spawn(tasks, "gc", never_fails(collector.run()));
    spawn(tasks, "promotion", role::promote(ledger.clone(), claims.clone(), role.clone()));
    spawn(tasks, "gate", never_fails(follow_gate(config.clone(), role)));
}

async fn follow_gate(mut config: watch::Receiver<Arc<ControllerConfig>>, role: watch::Sender<Role>) {
    while config.changed().await.is_ok() {
        let gate = config.borrow_and_update().gates.antrea_ipam;
        role.send_modify(|role| role.gate = gate);
    }
}

fn service(shared: &Shared, namespace: &str) -> Service {
    let rest = shared.config.clone();
    Service::new(Parts {
        ledger: shared.ledger.clone(),
        claims: shared.claims.clone(),
        guard: shared.guard.clone(),
        pods: shared.pods.clone(),
        turns: shared.turns.clone(),
        auth: Authenticator::new(shared.client.clone(), namespace, shared.metrics.clone()),
        role: shared.role.clone(),
        metrics: shared.metrics.clone(),
        notices: shared.notices.clone(),
        rest: Box::new(move || rest.borrow().address_rest),
    })
}

fn start_pages(tasks: &mut JoinSet<Ended>, shared: &Shared, listener: TcpListener) {
    let (ready, readiness) = watch::channel(false);
    let (ledger, pods) = (shared.ledger.clone(), shared.pods.clone());
    let follow = async move {
        while !(pods.is_synced() && ledger.call(|ledger, _| ledger.is_synced()).await?) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ready.send_replace(true);
        // Nothing makes it unready again; the task lives on with the process.
        std::future::pending().await
    };
    spawn::<ledger::LedgerGone>(tasks, "readiness", follow);
    let unready =
        Arc::new(move || (!*readiness.borrow()).then_some("the watches have not listed everything yet"));
    let router = http::router(Pages { metrics: shared.metrics.clone(), unready });
    spawn(tasks, "pages", async move { axum::serve(listener, router).await });
}
