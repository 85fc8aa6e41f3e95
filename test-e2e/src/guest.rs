//! A machine of its own under QEMU: a stock Debian kernel with what this machine's kernel lacks, the openvswitch module
//! first of all.
//!
//! The guest sees the source tree, the binaries and the cache where the host has them, and writes to memory only. It
//! has no network but its own. One command is run in it, and its exit code is ours. Nothing is installed on the host:
//! QEMU, kernel and root are trees in the cache.

mod boot;
mod output;
mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::debs::{self, Kernel};
use crate::process::Process;
use crate::run::Run;
use crate::{paths, process, run, suite, wait};

/// How long a guest may take for its command.
const LIMIT: Duration = Duration::from_mins(40);
/// Memory of a guest in MiB: a control plane, three nodes and what they write. The host gives what is touched.
const MEMORY: u32 = 6144;
/// How many times slower than the host's an emulated processor is at worst.
const PATIENCE: u32 = 15;
/// What the kernel is told: no waiting, no names by bus, and no defences that cost an emulated processor dear.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off random.trust_cpu=on no_timer_check \
                                net.ifnames=0";

/// What the kernel datapath must do as the userspace one does, of the light tier.
pub const KERNEL_DATAPATH: &[&str] = &[
    "datapath::auto_takes_the_kernels_datapath_where_the_kernel_has_one",
    "datapath::conversations_outlive_vswitchd_on_the_kernels_datapath_only",
    "datapath::packets_take_the_datapath_that_was_asked_for_and_offloads_follow_it",
    "flows::a_transfer_is_counted_exactly_on_both_nodes_and_names_both_pods",
    "flows::what_a_switch_that_cannot_keep_up_loses_is_seen",
    "flows::an_agent_that_starts_amid_traffic_sees_no_loss_where_there_is_none",
    "flows::equal_addresses_on_two_vlans_are_two_flows_of_two_pods",
    "isolation::injected_tags_arrive_nowhere_else",
    "isolation::nothing_leaks_while_ports_come_and_flows_and_the_switch_go",
    "isolation::a_pod_reaches_no_address_of_its_node_through_a_secondary_interface",
    "mesh::equal_addresses_on_two_vlans_are_told_apart_even_within_one_pod",
    "mesh::pings_of_exactly_the_mtu_cross_nodes_and_one_byte_more_is_refused",
    "mesh::ten_megabytes_cross_nodes_both_ways_unharmed",
    "mesh::two_uplinks_with_disjoint_vlans_carry_each_its_own",
    "mesh::untagged_pods_reach_each_other_across_nodes",
    "outages::a_switch_that_restarts_without_an_agent_stays_black_until_the_agent_is_back",
    "outages::an_unplugged_uplink_leaves_the_nodes_own_pods_connected_and_new_ones_attached",
    "restart::an_agents_restart_costs_no_packet_and_no_port",
    "restart::after_a_reboot_pods_come_back_with_their_addresses_and_no_port_is_stale",
];

/// What taps by clsact must do on a kernel before TCX, of the light tier: `trunkline-e2e kernel-datapath --kernel 6.1`.
pub const BEFORE_TCX: &[&str] = &[
    "flows::a_transfer_is_counted_exactly_on_both_nodes_and_names_both_pods",
    "flows::taps_go_on_counting_while_the_agent_is_dead_and_none_is_attached_twice",
    "flows::a_tap_that_somebody_takes_off_is_back_within_seconds_and_it_is_said",
];

/// A folder of the host that the guest sees at the same path.
#[derive(Clone, Debug)]
struct Share {
    tag: String,
    path: PathBuf,
}

/// Fetches what guests are made of.
pub fn prepare() -> Result<()> {
    debs::qemu()?;
    debs::guest()?;
    debs::busybox()?;
    Kernel::value_variants().iter().try_for_each(|kernel| boot::modules(*kernel).map(drop))
}

/// Runs `command` in a guest and shows what it prints as it comes. Fails with its exit code.
pub fn run(kernel: Kernel, command: &[String]) -> Result<()> {
    let begin = Instant::now();
    let run = Run::start("guest")?;
    let exchange = run.data("exchange")?;
    let shares = shares(command)?;
    fs::write(exchange.join("main"), script::main(&shares, command)).context("writing the guest's script")?;
    let initrd = run.dir().join("initrd");
    boot::initrd(kernel, &initrd, &shares)?;
    let qemu = Process::spawn(&run, "qemu", qemu(kernel, &initrd, &exchange, &shares)?)?;
    eprintln!("guest started, its console is {}", run.log("qemu").display());
    let mut output = output::Follower::of(exchange.join("output"));
    let code = exchange.join("code");
    let ended = wait::until_blocking("the guest's command has ended", LIMIT, || {
        output.show()?;
        let alive = qemu.check();
        // Looked at last: a guest that is done writes its code, then powers off.
        if code.exists() { Ok(Some(Ok(()))) } else { Ok(alive.err().map(Err)) }
    });
    output.show()?;
    eprintln!("guest ended after {:.0} s", begin.elapsed().as_secs_f32());
    let logs = run.out().join("guest");
    let kept = exchange.join("logs").exists() && fs::rename(exchange.join("logs"), &logs).is_ok();
    let code =
        ended.flatten().and_then(|()| fs::read_to_string(code).context("reading the command's exit code"));
    drop(qemu);
    run.teardown()?;
    match code?.trim() {
        "0" => Ok(()),
        other if kept => {
            bail!("the command in the guest ended with {other}; its logs are in {}", logs.display())
        }
        other => bail!("the command in the guest ended with {other}"),
    }
}

/// What the guest needs of the host: the source tree, the cache, and the program if it lies in neither. What lies in the
/// system's folders is the guest's own.
fn shares(command: &[String]) -> Result<Vec<Share>> {
    let program = Path::new(command.first().context("a guest needs a command to run")?);
    let mut folders = vec![paths::workspace(), paths::cache(), paths::bin_dir()?];
    if program.is_absolute() && !["/usr", "/bin", "/sbin"].iter().any(|system| program.starts_with(system)) {
        let file = program.canonicalize().with_context(|| format!("looking for {}", program.display()))?;
        folders.push(file.parent().context("a program that lies in no folder")?.to_owned());
    }
    let mut shares: Vec<Share> = Vec::new();
    for path in folders {
        if !shares.iter().any(|share| path.starts_with(&share.path)) {
            shares.push(Share { tag: format!("share{}", shares.len()), path });
        }
    }
    Ok(shares)
}

/// The machine. TCG only: a stock kernel does not boot on the KVM of nested machines, even where it opens.
fn qemu(kernel: Kernel, initrd: &Path, exchange: &Path, shares: &[Share]) -> Result<Command> {
    let tree = debs::qemu()?;
    let mut command = Command::new(tree.path("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(tree.library_path()).arg(tree.path("usr/bin/qemu-system-x86_64"));
    for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(tree.path(firmware));
    }
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2"]);
    command.args(["-m", &MEMORY.to_string(), "-device", "virtio-rng-pci"]);
    command.arg("-kernel").arg(boot::kernel_image(kernel)?).arg("-initrd").arg(initrd);
    command.args(["-append", KERNEL_ARGUMENTS]);
    let mut folder = |tag: &str, path: &Path, mode: &str| {
        let options = "security_model=none,multidevs=remap";
        command.arg("-fsdev").arg(format!("local,id={tag},path={},{options}{mode}", path.display()));
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    };
    folder("root", debs::guest()?.root(), ",readonly=on");
    folder("modules", &boot::modules(kernel)?, ",readonly=on");
    folder("exchange", exchange, "");
    for share in shares {
        folder(&share.tag, &share.path, ",readonly=on");
    }
    Ok(command)
}

/// The tests of [`KERNEL_DATAPATH`], or on an older kernel of [`BEFORE_TCX`], by the light tier's program. Skips loudly where no guest can run, which is a
/// failure under `CI=true`.
pub fn kernel_datapath(kernel: Kernel, program: &Path) -> Result<()> {
    if let Err(error) = able() {
        return suite::skip(&error);
    }
    let program = program.display().to_string();
    let tests = match kernel {
        Kernel::V6_12 => KERNEL_DATAPATH,
        Kernel::V6_1 => BEFORE_TCX,
    };
    let listed = process::output(Command::new(&program).arg("--list"))?;
    for test in tests {
        ensure!(listed.lines().any(|line| line == format!("{test}: test")), "{program} has no test {test}");
    }
    let options = ["--exact", "--test-threads=1", "--nocapture"];
    let words = [program.as_str()].into_iter().chain(options).chain(tests.iter().copied());
    run(kernel, &words.map(str::to_owned).collect::<Vec<_>>())
}

/// Whether this machine can run guests at all.
fn able() -> Result<()> {
    run::require_root("a guest")?;
    ensure!(cfg!(target_arch = "x86_64"), "a guest needs an x86_64 machine");
    Ok(())
}
