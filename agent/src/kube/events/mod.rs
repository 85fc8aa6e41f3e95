//! Kubernetes Events about pods of this node and about the node itself.
//!
//! One task writes them, in order, from a bounded queue; recording never waits, so an ADD never does. Repeats count
//! up one object. Must never carry anything that the agent's state depends on: Events may be dropped.
//!
//! The task's only awaits are the queue (`recv` is cancel-safe) and writes that are bounded in time.

mod aggregate;
pub mod reason;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    aggregate::{Action, Aggregator},
    reason::Reason,
};
use crate::metrics::Metrics;

/// `reportingController` of every Event of the agent.
pub const REPORTER: &str = "trunkline.io/agent";
/// Events that wait to be written; more are dropped and counted.
const QUEUE: usize = 256;
/// `note` holds at most 1,024 bytes (events.k8s.io/v1).
const NOTE_BYTES: usize = 1024;
/// One attempt to write an Event.
const ATTEMPT: Duration = Duration::from_secs(5);
/// An Event that could not be written for this long is dropped.
const PATIENCE: Duration = Duration::from_mins(2);
/// Longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(5);
/// A Normal Event gives way to attachments under way for this long at most.
const GIVE_WAY: Duration = Duration::from_secs(2);
/// What is written after a stop was asked for has this long in all.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    subject: Subject,
    reason: Reason,
    note: String,
}

struct Happening {
    key: Key,
    at: Timestamp,
    recorded: Instant,
}

/// Records Events; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    node: Arc<str>,
    queue: mpsc::Sender<Happening>,
    attaching: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

/// The task's half of a [`Recorder`].
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Happening>,
    attaching: watch::Receiver<usize>,
    node: Arc<str>,
    metrics: Arc<Metrics>,
}

/// A pod is being attached until this is dropped; see [`Recorder::attaching`].
#[derive(Debug)]
pub struct Attaching(watch::Sender<usize>);

impl Drop for Attaching {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A recorder for `node`, and the writer that must be run for anything to appear.
pub fn recorder(node: &str, metrics: Arc<Metrics>) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let node: Arc<str> = node.into();
    let (attaching, attachments) = watch::channel(0);
    let recorder =
        Recorder { node: Arc::clone(&node), queue: sender, attaching, metrics: Arc::clone(&metrics) };
    (recorder, Writer { queue: receiver, attaching: attachments, node, metrics })
}

impl Recorder {
    /// Something happened to a pod. Never waits.
    pub fn pod(&self, pod: &Pod, reason: Reason, note: impl Into<String>) {
        let meta = pod.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        self.pod_named(namespace, name, meta.uid.as_deref().unwrap_or_default(), reason, note);
    }

    /// Something happened to a pod of which no more than this is known; `uid` is the API object's. Never waits.
    pub fn pod_named(&self, namespace: &str, name: &str, uid: &str, reason: Reason, note: impl Into<String>) {
        let subject = Subject {
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        self.record(subject, reason, note.into());
    }

    /// Says that a pod is being attached: the API server has addresses and status to write, and Normal Events give way
    /// to them, by two seconds at most.
    pub fn attaching(&self) -> Attaching {
        self.attaching.send_modify(|count| *count += 1);
        Attaching(self.attaching.clone())
    }

    /// Something happened to this node. Never waits.
    pub fn node(&self, reason: Reason, note: impl Into<String>) {
        let subject = Subject {
            kind: "Node",
            namespace: String::new(),
            name: self.node.as_ref().to_owned(),
            uid: String::new(),
        };
        self.record(subject, reason, note.into());
    }

    fn record(&self, subject: Subject, reason: Reason, note: String) {
        let key = Key { subject, reason, note: shortened(note) };
        if self.queue.try_send(Happening { key, at: Timestamp::now(), recorded: Instant::now() }).is_err() {
            self.metrics.add_event_dropped();
        }
    }
}

/// `note` cut to what an Event can hold, at a character's boundary.
fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let end = note.floor_char_boundary(NOTE_BYTES - '…'.len_utf8());
        note.truncate(end);
        note.push('…');
    }
    note
}

impl Writer {
    /// Writes Events until `stop`; `node_uid` is this node's UID once it is known.
    pub async fn run(
        mut self,
        client: Client,
        node_uid: watch::Receiver<Option<String>>,
        stop: CancellationToken,
    ) {
        let mut work = Work {
            client,
            node_uid,
            node: Arc::clone(&self.node),
            metrics: Arc::clone(&self.metrics),
            known: Aggregator::new(),
            stop: stop.clone(),
        };
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => break,
                happening = self.queue.recv() => match happening {
                    Some(happening) => {
                        self.give_way(&happening, &stop).await;
                        work.write(happening).await;
                    }
                    None => break,
                },
                _ = tick.tick() => work.flush().await,
            }
        }
        self.queue.close();
        let last_words = async {
            while let Some(happening) = self.queue.recv().await {
                work.write(happening).await;
            }
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            debug!("events were left unwritten at the stop");
        }
    }

    /// Waits while pods are being attached; not with a Warning, nor with many Events behind this one.
    async fn give_way(&mut self, happening: &Happening, stop: &CancellationToken) {
        if happening.key.reason.warning || self.queue.len() >= QUEUE / 2 {
            return;
        }
        let idle = self.attaching.wait_for(|count| *count == 0);
        tokio::select! { biased;
            () = stop.cancelled() => {}
            _ = idle => {}
            () = tokio::time::sleep_until(happening.recorded + GIVE_WAY) => {}
        }
    }
}

struct Work {
    client: Client,
    node_uid: watch::Receiver<Option<String>>,
    node: Arc<str>,
    metrics: Arc<Metrics>,
    known: Aggregator<Key>,
    stop: CancellationToken,
}

impl Work {
    async fn write(&mut self, happening: Happening) {
        match self.known.observe(&happening.key, std::time::Instant::now()) {
            Action::Create => self.create(happening).await,
            Action::Count { name, count } => self.count(&happening.key, &name, count).await,
            Action::Wait => {}
        }
    }

    async fn flush(&mut self) {
        for (key, action) in self.known.due(std::time::Instant::now()) {
            if let Action::Count { name, count } = action {
                self.count(&key, &name, count).await;
            }
        }
    }

    /// Creates the object; waits out an API server that is away, within bounds.
    async fn create(&mut self, happening: Happening) {
        let Happening { key, at, .. } = happening;
        let event = self.event(&key, at);
        let name = event.metadata.name.clone().unwrap_or_default();
        let api = self.api(&key);
        let give_up = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(250);
        loop {
            let attempt = tokio::time::timeout(ATTEMPT, api.create(&PostParams::default(), &event)).await;
            match attempt {
                Ok(Ok(_)) => return self.known.created(&key, name),
                Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                    self.refused(&key, &status.message);
                    return;
                }
                _ if Instant::now() >= give_up || self.stop.is_cancelled() => {
                    self.refused(&key, "the API server cannot be reached");
                    return;
                }
                _ => {}
            }
            tokio::select! { biased;
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE),
            }
        }
    }

    /// Counts up; one attempt, as the next repeat counts up again.
    async fn count(&mut self, key: &Key, name: &str, count: i32) {
        let series = json!({ "series": { "count": count, "lastObservedTime": MicroTime(Timestamp::now()) } });
        let (api, params, patch) = (self.api(key), PatchParams::default(), Patch::Merge(&series));
        let write = api.patch(name, &params, &patch);
        match tokio::time::timeout(ATTEMPT, write).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => self.known.forget(key),
            _ => debug!(reason = key.reason.name, "event could not be counted up"),
        }
    }

    fn refused(&mut self, key: &Key, why: &str) {
        self.known.forget(key);
        self.metrics.add_event_refused();
        warn!(reason = key.reason.name, object = %key.subject.name, note = %key.note, why, "event was not written");
    }

    fn api(&self, key: &Key) -> Api<Event> {
        // Events about cluster-scoped objects live in `default`, where kubectl looks for them.
        let namespace = if key.subject.namespace.is_empty() { "default" } else { &key.subject.namespace };
        Api::namespaced(self.client.clone(), namespace)
    }

    fn event(&self, key: &Key, at: Timestamp) -> Event {
        let node_uid = self.node_uid.borrow().clone();
        let regarding = reference(&key.subject, node_uid.as_deref());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", key.subject.name, at.as_nanosecond())),
                namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            action: Some(key.reason.action.to_owned()),
            event_time: Some(MicroTime(at)),
            note: Some(key.note.clone()),
            reason: Some(key.reason.name.to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some(REPORTER.to_owned()),
            reporting_instance: Some(self.node.as_ref().to_owned()),
            type_: Some(if key.reason.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// The reference that makes `kubectl describe` find the Event.
fn reference(subject: &Subject, node_uid: Option<&str>) -> ObjectReference {
    let uid = match subject.kind {
        // kubelet's own Events carry the node's name as UID, and kubectl looks for both.
        "Node" => node_uid.unwrap_or(&subject.name),
        _ => &subject.uid,
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(subject.kind.to_owned()),
        name: Some(subject.name.clone()),
        namespace: Some(subject.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn recording_never_waits_and_counts_what_it_drops() {
        let metrics = Metrics::new();
        let (recorder, _writer) = recorder("node-a", Arc::clone(&metrics));
        for number in 0..QUEUE + 3 {
            recorder.node(reason::CONFIG_INVALID, format!("{number}"));
        }
        let text = metrics.encode().expect("text is writable");
        assert!(text.contains("events_dropped_total 3"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn normal_events_give_way_to_attachments_but_not_for_long() {
        let (recorder, mut writer) = recorder("node-a", Metrics::new());
        let stop = CancellationToken::new();
        let mut waited = async |reason| {
            recorder.pod_named("default", "p", "u", reason, "x");
            let happening = writer.queue.recv().await.expect("it was recorded");
            let since = Instant::now();
            writer.give_way(&happening, &stop).await;
            since.elapsed()
        };
        assert_eq!(waited(reason::ATTACHED_NETWORKS).await, Duration::ZERO, "nothing is under way");
        let (one, two) = (recorder.attaching(), recorder.attaching());
        assert_eq!(waited(reason::ATTACHED_NETWORKS).await, GIVE_WAY);
        assert_eq!(waited(reason::ATTACH_FAILED).await, Duration::ZERO, "a Warning goes at once");
        drop(one);
        let ends = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(two);
        };
        let (took, ()) = tokio::join!(waited(reason::ATTACHED_NETWORKS), ends);
        assert_eq!(took, Duration::from_millis(300));
    }

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let note = shortened("ü".repeat(NOTE_BYTES));
        assert!(note.len() <= NOTE_BYTES && note.ends_with("ü…"));
        assert_eq!(shortened("short".into()), "short");
    }

    #[test]
    fn a_nodes_event_is_found_by_its_uid_or_else_by_its_name() {
        let subject =
            Subject { kind: "Node", namespace: String::new(), name: "node-a".into(), uid: String::new() };
        assert_eq!(reference(&subject, Some("u-1")).uid.as_deref(), Some("u-1"));
        assert_eq!(reference(&subject, None).uid.as_deref(), Some("node-a"));
        assert_eq!(reference(&subject, None).namespace, None);
    }
}
