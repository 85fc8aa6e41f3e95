//! Network namespaces of a test's own: without a name, so that nothing is left of them however the test ends.
//!
//! Owns the descriptor that keeps one alive, and what `ip` and `/proc` say in it. Never touches the namespace that
//! the tests were started in.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// What a link counted, as rtnetlink reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkStats {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_dropped: u64,
}

/// A namespace; gone with its last link when this is dropped.
pub(crate) struct Namespace {
    handle: File,
}

impl Namespace {
    /// A new one, with `lo` down and without IPv6's own chatter.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: these tests run as root");
            for link in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1")
                    .expect("IPv6 off");
            }
            File::open("/proc/thread-self/ns/net").expect("this thread's namespace")
        };
        Self { handle: thread::spawn(make).join().expect("made") }
    }

    /// Runs `job` on a thread that is in this namespace.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("entering a namespace of ours");
                job()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What `ip` takes for a namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }

    /// Runs `ip` inside; the words are separated by blanks.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.run(|| {
            let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "ip {words}: {said}");
            String::from_utf8(output.stdout).expect("UTF-8")
        })
    }

    /// A pair of links, `a` here and `b` in `other`, both up, with no other traffic than the test's.
    pub(crate) fn pair(&self, a: &str, other: &Self, b: &str) {
        self.ip(&format!("link add name {a} type veth peer name {b} netns {}", other.path()));
        for (namespace, link) in [(self, a), (other, b)] {
            namespace.ip(&format!("link set dev {link} arp off up"));
        }
        self.await_up(a);
        other.await_up(b);
    }

    /// Waits until a link carries frames. It is up at once, but the kernel gives it its queue some time after its
    /// peer is up, too, and drops what is sent until then, behind the tap.
    pub(crate) fn await_up(&self, link: &str) {
        let since = Instant::now();
        while self.link(link)["operstate"] != "UP" {
            assert!(since.elapsed() < Duration::from_secs(20), "{link} does not come up");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What `ip` knows of a link.
    pub(crate) fn link(&self, link: &str) -> Value {
        let mut links: Value =
            serde_json::from_str(&self.ip(&format!("-s -j link show dev {link}"))).expect("JSON");
        links[0].take()
    }

    /// A link's number.
    pub(crate) fn index(&self, link: &str) -> u32 {
        let found = self.run(|| nix::net::if_::if_nametoindex(link));
        found.unwrap_or_else(|error| panic!("{link}: {error}"))
    }

    /// A link's counters.
    pub(crate) fn stats(&self, link: &str) -> LinkStats {
        let link = self.link(link);
        let stats = &link["stats64"];
        let number = |way: &str, what: &str| stats[way][what].as_u64().expect("a counter");
        LinkStats {
            rx_packets: number("rx", "packets"),
            rx_bytes: number("rx", "bytes"),
            tx_packets: number("tx", "packets"),
            tx_bytes: number("tx", "bytes"),
            tx_dropped: number("tx", "dropped"),
        }
    }
}
