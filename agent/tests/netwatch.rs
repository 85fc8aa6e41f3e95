//! Namespaces and links as they come, move and go, against the real kernel. Needs root.
//!
//! Every namespace has a name of this process; the watch follows those alone, and opens no other. No tap is made.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trunkline_agent::link::{LinkNews, LinkStream};
use trunkline_agent::netns::{NetnsFd, NetnsThread, run_aside};
use trunkline_agent::netwatch::{NetWatch, Sighting, Sightings};
use trunkline_api::{AllConfig, NameFilter, Pattern};

/// How long the machine may take; what it took is printed.
const SOON: Duration = Duration::from_secs(10);

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("iproute2");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace of this test; removed on drop.
struct Space(String);

impl Space {
    fn new(label: &str) -> Self {
        let name = format!("{}{label}", prefix());
        ip(&format!("netns add {name}"));
        Self(name)
    }

    fn ip(&self, line: &str) {
        ip(&format!("-n {} {line}", self.0));
    }

    fn has(&self, link: &str) -> bool {
        let shown = Command::new("ip").args(["-n", &self.0, "link", "show", link]).output();
        shown.expect("iproute2").status.success()
    }

    fn delete(&self) {
        ip(&format!("netns delete {}", self.0));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

fn prefix() -> String {
    format!("tlnw-{}-", std::process::id())
}

/// A watch of the namespaces whose names match; ends on drop.
struct Watching {
    seen: watch::Receiver<Arc<Sightings>>,
    stop: CancellationToken,
}

impl Watching {
    async fn start(namespaces: &str) -> Self {
        let include = vec![Pattern::new(namespaces).expect("a pattern")];
        let config = AllConfig {
            enabled: true,
            namespaces: NameFilter { include, exclude: vec![] },
            ..AllConfig::default()
        };
        let thread = NetnsThread::start().expect("a thread");
        let (watch, seen) = NetWatch::new(config, thread).expect("a watch");
        let stop = CancellationToken::new();
        tokio::spawn(watch.run(stop.clone()));
        let mut watching = Self { seen, stop };
        watching.wait("the first look", |sightings| sightings.complete.then_some(())).await;
        watching
    }

    /// Waits until it is so, and prints how long that took.
    async fn wait<T>(&mut self, what: &str, is_so: impl Fn(&Sightings) -> Option<T>) -> T {
        let begin = Instant::now();
        let all = async {
            loop {
                if let Some(found) = is_so(&self.seen.borrow_and_update()) {
                    return found;
                }
                self.seen.changed().await.expect("the watch lives");
            }
        };
        let found = tokio::time::timeout(SOON, all).await;
        let found = found.unwrap_or_else(|_| panic!("{what}: not so: {:?}", self.seen.borrow()));
        eprintln!("{what}: after {} ms", begin.elapsed().as_millis());
        found
    }

    async fn wait_for(&mut self, space: &Space, link: &str) -> Sighting {
        let what = format!("{link} is seen in {}", space.0);
        let is = |one: &&Sighting| one.wanted.namespace == space.0 && one.wanted.link.name == link;
        self.wait(&what, |sightings| sightings.interfaces.iter().find(is).cloned()).await
    }

    async fn wait_none(&mut self, space: &Space, link: &str) {
        let what = format!("{link} is no more in {}", space.0);
        let is = |one: &Sighting| one.wanted.namespace == space.0 && one.wanted.link.name == link;
        self.wait(&what, |sightings| (!sightings.interfaces.iter().any(is)).then_some(())).await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Inodes of the namespaces that descriptors of this process hold.
fn held() -> BTreeSet<u64> {
    let nsfs = std::fs::metadata("/proc/self/ns/net").expect("procfs").dev();
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let open = entries.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    open.filter(|meta| meta.dev() == nsfs).map(|meta| meta.ino()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_come_move_are_renamed_and_go() {
    let (one, two) = (Space::new("move-1"), Space::new("move-2"));
    let mut watching = Watching::start(&format!("^{}move-", prefix())).await;
    one.ip("link add v0 type veth peer name v1");
    let before = watching.wait_for(&one, "v0").await;
    assert_eq!(before.wanted.link.kind, "veth");
    assert_eq!(before.namespace.as_ref().map(|fd| fd.id().inode), Some(before.wanted.inode));

    one.ip(&format!("link set v0 netns {}", two.0));
    let moved = watching.wait_for(&two, "v0").await;
    watching.wait_none(&one, "v0").await;
    assert!(moved.wanted.instance > before.wanted.instance, "it is another interface now");
    assert!(moved.wanted.link.elsewhere.is_some(), "its peer is in the other namespace");

    two.ip("link set v0 name net9");
    let renamed = watching.wait_for(&two, "net9").await;
    assert_eq!(renamed.wanted.instance, moved.wanted.instance, "a rename makes no other");

    two.ip("link add br0 type bridge");
    two.ip("link set net9 master br0");
    two.ip("link set net9 nomaster");
    two.ip("link add last type bridge");
    watching.wait_for(&two, "last").await;
    let still = watching.wait_for(&two, "net9").await;
    assert_eq!(still.wanted.instance, renamed.wanted.instance, "leaving a bridge is no leaving");

    one.ip("link delete v1");
    watching.wait_none(&two, "net9").await;
    two.ip(&format!("link add again index {} type bridge", moved.wanted.link.ifindex));
    let again = watching.wait_for(&two, "again").await;
    assert_eq!(again.wanted.link.ifindex, moved.wanted.link.ifindex);
    assert!(again.wanted.instance > moved.wanted.instance, "the index is another's now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_let_go_and_its_peers_outside_vanish() {
    let outside = Space::new("end-outside");
    let mut watching = Watching::start(&format!("^{}end-inside", prefix())).await;
    for round in 0..5 {
        let inside = Space::new(&format!("end-inside-{round}"));
        outside.ip(&format!("link add out type veth peer name in netns {}", inside.0));
        let sighting = watching.wait_for(&inside, "in").await;
        assert!(sighting.wanted.link.elsewhere.is_some(), "it is not told before its peer is known");
        let inode = sighting.wanted.inode;
        drop(sighting);
        assert!(held().contains(&inode), "it is held while it is followed");
        inside.delete();
        watching.wait_none(&inside, "in").await;
        let begin = Instant::now();
        while outside.has("out") || held().contains(&inode) {
            assert!(begin.elapsed() < SOON, "something holds a namespace that is gone: {:?}", held());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eprintln!("the kernel took it down after {} ms", begin.elapsed().as_millis());
    }
    watching.wait("nothing is followed", |sightings| (sightings.namespaces == 0).then_some(())).await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The inode of a process' network namespace, once it is one of its own.
fn own_inode(process: &Child) -> u64 {
    let of =
        |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/net")).expect("procfs");
    let begin = Instant::now();
    loop {
        let link = of(&process.id().to_string());
        if link != of("self") {
            let text = link.display().to_string();
            return text.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("an inode");
        }
        assert!(begin.elapsed() < SOON, "it has entered no namespace of its own");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_a_name_is_seen_by_its_process_and_goes_with_it() {
    let outside = Space::new("bare-outside");
    let child = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().expect("util-linux");
    let process = Killed(child);
    let inode = own_inode(&process.0);
    let mut watching = Watching::start(&format!(r"^net:\[{inode}\]$")).await;
    outside.ip(&format!("link add out type veth peer name in netns {}", process.0.id()));
    let is = |one: &&Sighting| one.wanted.inode == inode && one.wanted.link.name == "in";
    let found = watching.wait("the interface is seen", |all| all.interfaces.iter().find(is).cloned()).await;
    assert_eq!(found.wanted.namespace, format!("net:[{inode}]"));
    drop(found);
    drop(process);
    watching.wait("it is let go", |all| (all.namespaces == 0).then_some(())).await;
    let begin = Instant::now();
    while outside.has("out") {
        assert!(begin.elapsed() < SOON, "something holds it: {:?}", held());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_namespaces_come_and_go_and_leave_nothing() {
    let mut watching = Watching::start(&format!("^{}churn-", prefix())).await;
    let spaces: Vec<Space> = (0..50).map(|number| Space::new(&format!("churn-{number}"))).collect();
    for space in &spaces {
        space.ip("link add v0 type veth peer name v1");
    }
    let inodes = |all: &Sightings| all.interfaces.iter().map(|one| one.wanted.inode).collect::<BTreeSet<_>>();
    let all = watching.wait("all are seen", |all| (all.interfaces.len() == 100).then(|| inodes(all))).await;
    assert!(all.len() == 50 && all.is_subset(&held()));
    drop(spaces);
    watching
        .wait("all are let go", |all| (all.namespaces == 0 && all.interfaces.is_empty()).then_some(()))
        .await;
    let begin = Instant::now();
    while !all.is_disjoint(&held()) {
        assert!(begin.elapsed() < SOON, "still held: {:?}", held());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_make_a_new_list() {
    let space = Space::new("lost");
    space.ip("link add stays type bridge");
    space.ip("link add goes type bridge");
    let fd = NetnsFd::open(&Path::new("/run/netns").join(&space.0)).expect("a namespace");
    let subscribed = run_aside(&fd, LinkStream::subscribe).expect("entered").expect("a socket");
    let mut stream = LinkStream::start(subscribed).expect("a stream");
    let all = |news: LinkNews| match news {
        LinkNews::All(links) => Some(links.into_iter().map(|link| link.name).collect::<BTreeSet<_>>()),
        _ => None,
    };
    let first = all(stream.next().await.expect("it lives")).expect("a list comes first");
    assert_eq!(first, BTreeSet::from(["lo", "stays", "goes"].map(str::to_owned)));
    // More than the socket's buffer holds while nobody reads, and what matters is at the end of it.
    let mut lines: String = (0..1000)
        .flat_map(|number| ["link set stays mtu ".to_owned(), format!("{}\n", 1000 + number)])
        .collect();
    lines.push_str("link delete goes\nlink add comes type bridge\n");
    let file = std::env::temp_dir().join(format!("{}batch", prefix()));
    std::fs::write(&file, lines).expect("a file");
    ip(&format!("-n {} -batch {}", space.0, file.display()));
    std::fs::remove_file(&file).expect("it is there");
    let again = tokio::time::timeout(SOON, async {
        loop {
            if let Some(list) = all(stream.next().await.expect("it lives")) {
                return list;
            }
        }
    });
    let again = again.await.expect("a new list, since messages were lost");
    assert_eq!(again, BTreeSet::from(["lo", "stays", "comes"].map(str::to_owned)));
}
