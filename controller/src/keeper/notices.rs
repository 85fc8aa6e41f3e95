//! Events on pools.
//!
//! One task publishes them one after another; when the API server is slow, the queue fills and further ones are
//! dropped, for conditions say the same. Must never hold up a caller.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use trunkline_api::IPPool;

use super::status::Warning;
use crate::lease::Chain;
use crate::ledger::PoolReport;

/// Events that may wait.
const QUEUE: usize = 256;
/// `reportingController` of our Events.
const CONTROLLER: &str = "trunkline.io/controller";

struct Notice {
    pool: String,
    uid: Option<String>,
    warning: Warning,
    action: &'static str,
}

/// A clonable handle: says what users should hear.
#[derive(Clone)]
pub struct Notices {
    queue: mpsc::Sender<Notice>,
}

/// The task that publishes.
pub struct NoticesTask {
    queue: mpsc::Receiver<Notice>,
    recorder: Recorder,
    api: Api<IPPool>,
}

impl Notices {
    /// A handle and its task; `instance` is this controller's pod.
    pub fn new(client: Client, instance: &str) -> (Self, NoticesTask) {
        let (queue, notices) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        (Self { queue }, NoticesTask { queue: notices, recorder, api: Api::all(client) })
    }

    /// A condition of a pool has begun to hold.
    pub(super) fn pool(&self, report: &PoolReport, warning: Warning) {
        let (pool, uid) = (report.object.spec.name.clone(), Some(report.object.uid.clone()));
        self.send(Notice { pool, uid, warning, action: "Checking" });
    }

    /// An address of a pool is used by somebody else.
    pub fn address_conflict(&self, pool: String, note: String) {
        let warning = Warning { reason: "AddressConflict", note };
        self.send(Notice { pool, uid: None, warning, action: "Probing" });
    }

    fn send(&self, notice: Notice) {
        if let Err(error) = self.queue.try_send(notice) {
            tracing::warn!(error = %Chain(&error), "an event is dropped");
        }
    }
}

impl NoticesTask {
    /// Runs for as long as there is a handle.
    pub async fn run(mut self) {
        while let Some(notice) = self.queue.recv().await {
            if let Err(error) = self.publish(notice).await {
                tracing::warn!(error = %Chain(&error), "an event could not be published");
            }
        }
    }

    async fn publish(&self, notice: Notice) -> Result<(), kube::Error> {
        let uid = match notice.uid {
            Some(uid) => Some(uid),
            None => self.api.get_opt(&notice.pool).await?.and_then(|pool| pool.uid()),
        };
        let regarding = ObjectReference {
            api_version: Some(IPPool::api_version(&()).into_owned()),
            kind: Some(IPPool::kind(&()).into_owned()),
            name: Some(notice.pool),
            uid,
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: notice.warning.reason.to_owned(),
            note: Some(shorten(notice.warning.note)),
            action: notice.action.to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &regarding).await
    }
}

/// The API server takes notes of up to 1 kB.
fn shorten(mut note: String) -> String {
    const LIMIT: usize = 1000;
    if note.len() > LIMIT {
        let end = (0..=LIMIT).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}
