//! The harness' own instruments, before anything is believed that they say: probes, wires, Open vSwitch, clean-up.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use trunkline_e2e::light::Ovs;
use trunkline_e2e::netns::Netns;
use trunkline_e2e::process::{Process, ProcessId, output};
use trunkline_e2e::run::{Run, STATE};
use trunkline_e2e::switch::Switch;
use trunkline_e2e::{guard, paths, probe, wait};

/// Two namespaces on one wire, `a` with 10.9.0.1 and `b` with 10.9.0.2 on `x0`.
fn pair(run: &Arc<Run>) -> Result<(Switch, Netns, Netns)> {
    let (switch, a, b) = (Switch::create(run)?, Netns::create(run, "a")?, Netns::create(run, "b")?);
    for (netns, address) in [(&a, "10.9.0.1/24"), (&b, "10.9.0.2/24")] {
        switch.plug_fabric(netns, "x0", 1)?;
        netns.ip(&format!("addr add {address} dev x0"))?;
    }
    Ok((switch, a, b))
}

fn ask(netns: &Netns, args: &[&str]) -> Result<Value> {
    let text = output(netns.command(paths::binary("trunkline-probe")?).args(args))?;
    serde_json::from_str(&text).with_context(|| text)
}

#[test]
fn probes_tell_who_answered_and_who_did_not() -> Result<()> {
    let run = Run::start("harness")?;
    let (_switch, a, b) = pair(&run)?;
    let mut command = b.command(paths::binary("trunkline-probe")?);
    command.arg("serve").env("POD_UID", "uid-of-b");
    let _server = Process::spawn(&run, "server", command)?;
    probe::wait_serving(&b)?;
    for transport in ["udp", "tcp"] {
        let said =
            ask(&a, &["probe", "--interface", "x0", "--target", "10.9.0.2", "--transport", transport])?;
        assert_eq!(said["reachable"], true, "{said}");
        assert_eq!(said["answered_by"]["pod_uid"], "uid-of-b");
        assert_eq!(said["answered_by"]["interface"], "x0");
    }
    let nobody = ask(
        &a,
        &["probe", "--interface", "x0", "--target", "10.9.0.9", "--tries", "1", "--timeout-ms", "300"],
    )?;
    assert_eq!(nobody["reachable"], false, "{nobody}");
    Ok(())
}

#[test]
fn pings_of_exactly_the_mtu_pass_and_one_byte_more_is_refused() -> Result<()> {
    let run = Run::start("harness")?;
    let (_switch, a, _b) = pair(&run)?;
    let fits = ask(&a, &["ping-df", "--interface", "x0", "--target", "10.9.0.2", "--size", "1500"])?;
    assert_eq!((&fits["answered"], &fits["too_big"]), (&Value::Bool(true), &Value::Bool(false)), "{fits}");
    let large = ask(&a, &["ping-df", "--interface", "x0", "--target", "10.9.0.2", "--size", "1501"])?;
    assert_eq!((&large["answered"], &large["too_big"]), (&Value::Bool(false), &Value::Bool(true)), "{large}");
    Ok(())
}

#[test]
fn a_transfer_arrives_with_its_hash_and_a_flood_counts_no_loss() -> Result<()> {
    let run = Run::start("harness")?;
    let (_switch, a, b) = pair(&run)?;
    let probe = paths::binary("trunkline-probe")?;
    let ready = run.dir().join("receiver");
    let mut command = b.command(&probe);
    command.args(["tcp-recv", "--interface", "x0", "--ready"]).arg(&ready).stdout(Stdio::piped());
    let listening = command.spawn()?;
    wait::until_blocking("the receiver listens", Duration::from_secs(30), || {
        Ok(ready.exists().then_some(()))
    })?;
    let sent = ask(&a, &["tcp-send", "--interface", "x0", "--target", "10.9.0.2"])?;
    let received: Value = serde_json::from_slice(&listening.wait_with_output()?.stdout)?;
    assert_eq!(sent["sha256"], received["sha256"]);
    assert_eq!(received["bytes"], 10_000_000);

    let mut command = a.command(&probe);
    let flooding = run.dir().join("flood");
    command.args(["flood", "--interface", "x0", "--target", "10.9.0.2", "--ready"]).arg(&flooding);
    let flood = command.stdout(Stdio::piped()).spawn()?;
    wait::until_blocking("the flood runs", Duration::from_secs(5), || Ok(flooding.exists().then_some(())))?;
    let id = ProcessId::of(i32::try_from(flood.id())?).context("the flood has ended")?;
    id.signal(nix::sys::signal::Signal::SIGTERM);
    let count: Value = serde_json::from_slice(&flood.wait_with_output()?.stdout)?;
    assert_eq!(count["lost"], 0, "{count}");
    Ok(())
}

#[test]
fn the_switch_passes_every_kind_of_tag_and_captures_see_it() -> Result<()> {
    let run = Run::start("harness")?;
    let (_switch, a, b) = pair(&run)?;
    let kinds = ["", "8100:200", "8100:0,8100:200", "88a8:200", "88a8:0,8100:200", "8100:100,8100:200"];
    for (number, tags) in kinds.iter().enumerate() {
        let (mark, ready) = (format!("mark-{number}-{}", run.prefix()), run.dir().join(format!("c{number}")));
        let mut command = b.command(paths::binary("trunkline-probe")?);
        command.args(["capture", "--interface", "x0", "--mark", &mark, "--duration-ms", "300", "--ready"]);
        let capture = command.arg(&ready).stdout(Stdio::piped()).spawn()?;
        wait::until_blocking("the capture listens", Duration::from_secs(30), || {
            Ok(ready.exists().then_some(()))
        })?;
        let mut args = vec!["inject", "--interface", "x0", "--mark", &mark];
        if !tags.is_empty() {
            args.extend(["--tags", tags]);
        }
        assert_eq!(ask(&a, &args)?["sent"], 1);
        let captured: Value = serde_json::from_slice(&capture.wait_with_output()?.stdout)?;
        assert_eq!(captured["count"], 1, "tags {tags}: {captured}");
    }
    Ok(())
}

#[test]
fn open_vswitch_runs_per_node_and_survives_its_restart() -> Result<()> {
    let run = Run::start("harness")?;
    let netns = Netns::create(&run, "n1")?;
    let data = run.data("n1")?;
    let ovs = Ovs::start(&run, "n1", &netns, &run.dir().join("ovs"), &data)?;
    ovs.vsctl(&["add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"])?;
    assert_eq!(ovs.ports("br0")?, Vec::<String>::new());
    assert_eq!(ovs.pod_ports()?, Vec::<String>::new());
    ovs.kill_switch();
    ovs.kill_server();
    ovs.start_daemons(&netns)?;
    assert!(ovs.ofctl("dump-flows", "br0", &[])?.contains("NORMAL"));
    Ok(())
}

#[test]
fn a_run_that_dies_is_cleared_up_by_its_guard() -> Result<()> {
    const DIES: &str = "TRUNKLINE_E2E_DIE";
    if std::env::var_os(DIES).is_some() {
        let run = Run::start("harness")?;
        let netns = Netns::create(&run, "a")?;
        let mut command = netns.command("sleep");
        command.arg("600");
        let _sleeper = Process::spawn(&run, "sleeper", command)?;
        println!("prefix={}", run.prefix());
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL)?;
    }
    let me = std::env::current_exe()?;
    let mut command = Command::new(me);
    command
        .args(["--exact", "harness::a_run_that_dies_is_cleared_up_by_its_guard", "--nocapture"])
        .env(DIES, "1");
    let died = command.output()?;
    let text = String::from_utf8_lossy(&died.stdout).into_owned();
    let prefix = text.lines().find_map(|l| l.split_once("prefix=")).context(text.clone())?.1.to_owned();
    let dir = std::path::Path::new(STATE).join(&prefix);
    wait::until_blocking("the guard has cleared up", Duration::from_secs(10), || {
        Ok((!dir.exists()).then_some(()))
    })?;
    assert!(!std::path::Path::new("/run/netns").join(format!("{prefix}-a")).exists());
    guard::reap_dead_runs()
}
