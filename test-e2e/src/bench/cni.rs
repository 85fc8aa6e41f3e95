//! `cni-add` and `cni-burst`: our plugin's ADD alone and by many, against `ovs-vsctl`, `loopback` and the reference
//! `bridge`.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::node::{BRIDGE, Node, WORKERS, renew};
use super::pairs::Pairs;
use super::plugin::Call;
use super::report::{Case, Line};
use super::stats::{Goal, all_ms, median, quantile, rate};
use super::{Done, Options};
use crate::runtime::Sandbox;

const NONE: Case = Case { bench: "cni-add/none", unit: "ms", goal: Goal::AtMost(0.7) };
const V4: Case = Case { bench: "cni-add/v4", unit: "ms", goal: Goal::AtMost(1.0) };
const AT_300: Case = Case { bench: "cni-add/300", unit: "ms", goal: Goal::AtMost(1.0) };
const BURST: Case = Case { bench: "cni-burst/100", unit: "pods/s", goal: Goal::AtLeast(1.0) };
/// All lines of these groups, in the order in which they are measured: ports only become more.
pub(super) const CASES: [Case; 4] = [NONE, V4, BURST, AT_300];

/// Single ADDs of one pair.
const BATCH: usize = 15;
/// The same for a pod that asks for nothing, which takes no undoing.
const BATCH_NONE: usize = 50;
/// Pods of a burst.
const PODS: usize = 100;
/// The link that `ovs-vsctl` adds.
const LINK: &str = "bench-vsctl";

/// Measures the chosen lines of these groups.
pub(super) fn run(options: &Options, done: &mut Done<'_>) -> Result<()> {
    let mut node = Node::start()?;
    node.light().netns().ip(&format!("link add {LINK} up type veth peer name {LINK}-p"))?;
    node.light().netns().ip(&format!("link set {LINK}-p up"))?;
    node.stand(10)?;
    if options.wants(&NONE) {
        done(none(&mut node, options.reps)?)?;
    }
    if options.wants(&V4) {
        done(single(&mut node, V4, options.reps)?)?;
    }
    if options.wants(&BURST) {
        done(burst(&mut node, options.reps)?)?;
    }
    if options.wants(&AT_300) {
        node.stand(300)?;
        done(single(&mut node, AT_300, options.reps)?)?;
    }
    Ok(())
}

/// ADDs of pods that ask for nothing, in turn with the same number of `loopback`'s.
fn none(node: &mut Node, reps: usize) -> Result<Line> {
    let pod = node.pods(1)?.pop().context("a pod")?;
    let mut sandbox = node.sandbox(&pod)?;
    sandbox.pod.annotations.clear();
    let (ours, loopback) = (node.ours("ADD", &sandbox)?, node.loopback(&sandbox)?);
    node.one(&loopback)?;
    let mut pairs = Pairs::begin(NONE, reps);
    let (mut all_ours, mut all_theirs) = (Vec::new(), Vec::new());
    while pairs.go_on() {
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..BATCH_NONE {
            mine.push(node.one(&ours)?);
            theirs.push(node.one(&loopback)?);
        }
        pairs.push(median(&all_ms(&mine)), median(&all_ms(&theirs)));
        all_ours.extend(mine);
        all_theirs.extend(theirs);
    }
    Ok(pairs.line(&format!(
        "our plugin alone, no annotation, against the reference loopback plugin's ADD, both with {} bytes of input; \
         medians of {BATCH_NONE} in turn; ours {}, baseline {}",
        ours.input.len(),
        tails(&all_ours),
        tails(&all_theirs),
    )))
}

/// Whole ADDs, each undone before the next, in turn with `ovs-vsctl add-port` of a link that is there already.
fn single(node: &mut Node, case: Case, reps: usize) -> Result<Line> {
    let pods = node.pods(reps * BATCH)?;
    let mut pods = pods.iter();
    let mut sandbox = node.sandbox(pods.as_slice().first().context("no pairs are asked for")?)?;
    let add = node.vsctl(&["add-port", BRIDGE, LINK, "tag=100"]);
    let del = node.vsctl(&["del-port", BRIDGE, LINK]);
    let mut pairs = Pairs::begin(case, reps);
    let (mut all_ours, mut all_theirs) = (Vec::new(), Vec::new());
    while pairs.go_on() {
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for pod in pods.by_ref().take(BATCH) {
            renew(&mut sandbox, pod);
            mine.push(node.one(&node.ours("ADD", &sandbox)?)?);
            node.one(&node.ours("DEL", &sandbox)?)?;
            theirs.push(node.one(&add)?);
            node.one(&del)?;
        }
        node.wait_released()?;
        pairs.push(median(&all_ms(&mine)), median(&all_ms(&theirs)));
        all_ours.extend(mine);
        all_theirs.extend(theirs);
    }
    Ok(pairs.line(&format!(
        "our plugin's whole ADD against ovs-vsctl add-port alone on the same bridge with {} ports; p50 of {BATCH} in \
         turn, each undone before the next; ours {}, baseline {}",
        if case.bench == AT_300.bench { 300 } else { 10 },
        tails(&all_ours),
        tails(&all_theirs),
    )))
}

/// 100 pods by 16 workers, through our plugin and through the reference `bridge`.
fn burst(node: &mut Node, reps: usize) -> Result<Line> {
    let all_pods = node.pods(reps * PODS)?;
    let mut sandboxes: Vec<Sandbox> =
        all_pods.iter().take(PODS).map(|pod| node.sandbox(pod)).collect::<Result<_>>()?;
    // The Linux bridge is made by the first pod; that is not what is compared.
    reference(node, &sandboxes[..1])?;
    let mut pairs = Pairs::begin(BURST, reps);
    let mut each = Vec::new();
    for pods in all_pods.chunks(PODS) {
        if !pairs.go_on() {
            break;
        }
        for (sandbox, pod) in sandboxes.iter_mut().zip(pods) {
            renew(sandbox, pod);
        }
        let (ours, theirs) = if pairs.ours_first() {
            (ours(node, &sandboxes, &mut each)?, reference(node, &sandboxes)?)
        } else {
            let theirs = reference(node, &sandboxes)?;
            (ours(node, &sandboxes, &mut each)?, theirs)
        };
        pairs.push(rate(PODS, ours), rate(PODS, theirs));
    }
    Ok(pairs.line(&format!(
        "{PODS} pods, {WORKERS} workers, one node with 10 standing ports, v4; ADDs alone, against the reference bridge + \
         host-local 1.9; each ADD of ours {}",
        tails(&each),
    )))
}

fn ours(node: &Node, sandboxes: &[Sandbox], each: &mut Vec<Duration>) -> Result<Duration> {
    let took = node.many("ADD", sandboxes)?;
    node.many("DEL", sandboxes)?;
    node.wait_released()?;
    each.extend(took.each);
    Ok(took.wall)
}

fn reference(node: &Node, sandboxes: &[Sandbox]) -> Result<Duration> {
    let calls = |verb: &str| -> Result<Vec<Call>> {
        sandboxes.iter().map(|sandbox| node.reference(verb, sandbox)).collect()
    };
    let took = node.all(&calls("ADD")?)?;
    node.all(&calls("DEL")?)?;
    Ok(took.wall)
}

/// p50 and p99 in words.
fn tails(times: &[Duration]) -> String {
    let all = all_ms(times);
    format!("p50 {:.2} p99 {:.2} ms", quantile(&all, 0.5), quantile(&all, 0.99))
}
