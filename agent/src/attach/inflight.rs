//! Which pods are being worked on right now.
//!
//! One operation at a time per pod UID: a DEL cancels the ADD it overtakes and waits for it to have undone its work.
//! Orphan collection asks here before it touches anything. Must never hold a lock across an await of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// The registry; clones share it.
#[derive(Clone, Default)]
pub struct InFlight {
    pods: Arc<Mutex<HashMap<String, Entry>>>,
}

#[derive(Default)]
struct Entry {
    turn: Arc<tokio::sync::Mutex<()>>,
    holders: usize,
    adding: Option<CancellationToken>,
}

/// One pod's turn; ends when dropped.
pub struct Turn {
    registry: InFlight,
    uid: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl InFlight {
    /// Waits for this pod's turn to be attached, ending an earlier ADD: a pod has one sandbox at a time, so the newer
    /// call is the one that counts. `cancel` is what a later [`InFlight::overtake`] cancels.
    pub async fn add(&self, uid: &str, cancel: CancellationToken) -> Turn {
        let turn = self.overtake(uid).await;
        self.with(|pods| {
            if let Some(entry) = pods.get_mut(&turn.uid) {
                entry.adding = Some(cancel);
            }
        });
        turn
    }

    /// Cancels an ADD of this pod that is under way, then waits for the pod's turn.
    pub async fn overtake(&self, uid: &str) -> Turn {
        self.with(|pods| {
            if let Some(cancel) = pods.get(uid).and_then(|entry| entry.adding.as_ref()) {
                cancel.cancel();
            }
        });
        self.wait(uid).await
    }

    /// Is anything being done for this pod.
    pub fn contains(&self, uid: &str) -> bool {
        self.with(|pods| pods.contains_key(uid))
    }

    /// Is anything being done for any pod.
    pub fn is_empty(&self) -> bool {
        self.with(|pods| pods.is_empty())
    }

    async fn wait(&self, uid: &str) -> Turn {
        let mutex = self.with(|pods| {
            let entry = pods.entry(uid.to_owned()).or_default();
            entry.holders += 1;
            entry.turn.clone()
        });
        // Made before the await: a caller that is dropped while it waits still gives its holder count back.
        let mut turn = Turn { registry: self.clone(), uid: uid.to_owned(), held: None };
        turn.held = Some(mutex.lock_owned().await);
        turn
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, Entry>) -> T) -> T {
        f(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let held = self.held.is_some();
        self.registry.with(|pods| {
            if let Some(entry) = pods.get_mut(&self.uid) {
                entry.holders -= 1;
                if held {
                    entry.adding = None;
                }
                if entry.holders == 0 {
                    pods.remove(&self.uid);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_del_cancels_the_add_it_overtakes_and_waits_for_it() {
        let registry = InFlight::default();
        let cancel = CancellationToken::new();
        let adding = registry.add("u", cancel.clone()).await;
        let deleting = tokio::spawn({
            let registry = registry.clone();
            async move { registry.overtake("u").await }
        });
        cancel.cancelled().await;
        assert!(registry.contains("u"));
        assert!(!deleting.is_finished());
        drop(adding);
        drop(deleting.await.expect("the task ends"));
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn pods_do_not_wait_for_each_other() {
        let registry = InFlight::default();
        let _one = registry.add("a", CancellationToken::new()).await;
        let _two = registry.add("b", CancellationToken::new()).await;
        assert!(registry.contains("a") && registry.contains("b"));
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_waiting_leaves_nothing_behind() {
        let registry = InFlight::default();
        let one = registry.add("a", CancellationToken::new()).await;
        let waiting = registry.overtake("a");
        assert!(futures::poll!(std::pin::pin!(waiting)).is_pending());
        drop(one);
        assert!(registry.is_empty());
    }
}
