//! How the programs of a test hang on interfaces: the tap's and others', by TCX or by clsact.
//!
//! The way is the kernel's own, or what `TRUNKLINE_TAPS_WAY=clsact` says, so that every test runs by clsact on any
//! kernel. What is looked at is looked at by `tc` and not by our own messages.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::Command;

use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use serde_json::Value;
use trunkline_ebpf::{Capacity, TapSet, Way};

use crate::namespace::Namespace;
use crate::packet::detach_link;
use crate::rig::program;

/// The way of this run.
pub(crate) fn way() -> Way {
    match std::env::var("TRUNKLINE_TAPS_WAY").as_deref() {
        Ok("clsact") => Way::Clsact,
        Ok(other) => panic!("TRUNKLINE_TAPS_WAY={other}: there is tcx by itself, and clsact"),
        Err(_) => Way::of_kernel().expect("a kernel that takes taps"),
    }
}

/// Whether this run is by TCX; says so where a test is left out.
pub(crate) fn by_tcx(test: &str) -> bool {
    let tcx = way() == Way::Tcx;
    if !tcx {
        println!("SKIPPED {test}: it looks at TCX links, and this run is by clsact");
    }
    tcx
}

/// Opens a set by the way of this run.
pub(crate) fn open(root: &Path, capacity: Capacity) -> TapSet {
    TapSet::open_with(root, capacity, way()).expect("the programs load")
}

/// Where another's program comes.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    First,
    Last,
}

impl Order {
    fn of_link(self) -> LinkOrder {
        match self {
            Self::First => LinkOrder::first(),
            Self::Last => LinkOrder::last(),
        }
    }

    pub(crate) fn priority(self) -> u16 {
        match self {
            Self::First => 1,
            Self::Last => u16::MAX,
        }
    }
}

fn side(hook: TcAttachType) -> &'static str {
    match hook {
        TcAttachType::Ingress => "ingress",
        TcAttachType::Egress => "egress",
        TcAttachType::Custom(_) => unreachable!("no such hook here"),
    }
}

/// Runs `tc` inside; the words are separated by blanks.
pub(crate) fn tc(namespace: &Namespace, words: &str) -> String {
    namespace.run(|| {
        let output = Command::new("tc").args(words.split(' ')).output().expect("iproute2 is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tc {words}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    })
}

/// The filters of one side, in order, as `tc` shows them. Without those that stand for a priority alone.
pub(crate) fn filters(namespace: &Namespace, link: &str, hook: TcAttachType) -> Vec<Value> {
    let shown = tc(namespace, &format!("-j filter show dev {link} {}", side(hook)));
    let Value::Array(all) = serde_json::from_str(&shown).expect("JSON") else { panic!("{shown}") };
    all.into_iter().filter(|filter| !filter["options"].is_null()).collect()
}

/// The kind of what an interface has for its filters.
pub(crate) fn qdisc(namespace: &Namespace, link: &str) -> Option<String> {
    let shown = tc(namespace, &format!("-j qdisc show dev {link}"));
    let all: Value = serde_json::from_str(&shown).expect("JSON");
    let found = all.as_array().expect("a list").iter().find(|qdisc| qdisc["parent"] == "ffff:fff1");
    found.map(|qdisc| qdisc["kind"].as_str().expect("a kind").to_owned())
}

/// The numbers of the programs on a hook, in order.
pub(crate) fn programs(namespace: &Namespace, link: &str, hook: TcAttachType) -> Vec<u32> {
    match way() {
        Way::Tcx => {
            let (_, found) = namespace.run(|| SchedClassifier::query_tcx(link, hook)).expect("TCX");
            found.iter().map(ProgramInfo::id).collect()
        }
        Way::Clsact => {
            let number = |filter: &Value| filter["options"]["prog"]["id"].as_u64();
            let numbers = filters(namespace, link, hook).iter().filter_map(number).collect::<Vec<_>>();
            numbers.into_iter().map(|number| u32::try_from(number).expect("a number")).collect()
        }
    }
}

/// Has another's program hang there. Returns its number.
pub(crate) fn hang(
    namespace: &Namespace,
    ebpf: &mut Ebpf,
    name: &str,
    link: &str,
    hook: TcAttachType,
    order: Order,
) -> u32 {
    let program = program(ebpf, name);
    match way() {
        Way::Tcx => {
            let options = TcAttachOptions::TcxOrder(order.of_link());
            namespace.run(|| program.attach_with_options(link, hook, options)).expect("attached");
        }
        Way::Clsact => namespace.run(|| hang_filter(program, link, hook, order.priority())),
    }
    program.info().expect("loaded").id()
}

/// As most who use clsact do it: its own kind of filter, at a priority of its choice, handle 1. In the namespace of the
/// calling thread.
pub(crate) fn hang_filter(program: &mut SchedClassifier, link: &str, hook: TcAttachType, priority: u16) {
    qdisc_add_clsact(link).ok();
    let handle = aya::programs::tc::TcHandle::new(0, 1);
    let options = TcAttachOptions::Netlink(NlOptions { priority, handle, ..NlOptions::default() });
    let id = program.attach_with_options(link, hook, options).expect("attached");
    // Dropped, it would go for the interface of this number in whatever namespace that is.
    let _kept = ManuallyDrop::new(program.take_link(id).expect("ours"));
}

/// Takes another's programs off that were hung there.
pub(crate) fn unhang(namespace: &Namespace, ebpf: Ebpf, link: &str, hook: TcAttachType, order: Order) {
    if way() == Way::Clsact {
        tc(namespace, &format!("filter del dev {link} {} pref {}", side(hook), order.priority()));
    }
    drop(ebpf);
}

/// Takes a tap off as somebody does who cares for nobody: its pin or record stays.
pub(crate) fn foreign_detach(namespace: &Namespace, pin: &Path, link: &str) {
    let hook = pin.file_name().and_then(|name| name.to_str()).expect("a name");
    match way() {
        Way::Tcx => detach_link(pin),
        Way::Clsact => {
            let hook_type = if hook == "egress" { TcAttachType::Egress } else { TcAttachType::Ingress };
            for filter in filters(namespace, link, hook_type) {
                tc(namespace, &format!("filter del dev {link} {hook} pref {}", filter["pref"]));
            }
        }
    }
}
