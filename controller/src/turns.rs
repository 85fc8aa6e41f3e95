//! One call at a time for each pod, and one change at a time for each pool's finalizer.
//!
//! Owns the queue. Must never be taken twice by one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns by key; a key costs nothing while nobody wants it.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    keys: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// Held by the one whose turn it is; the next one goes on when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    key: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for the key's turn; first come, first served. Cancel safe: who stops waiting leaves the queue.
    pub async fn take(&self, key: String) -> Turn {
        let mut turn = Turn { turns: self.clone(), key, permit: None };
        let semaphore = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.entry(turn.key.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        turn.permit = semaphore.acquire_owned().await.ok();
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut keys = self.turns.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_one_key_exclude_each_other_and_leave_nothing_behind() {
        let turns = Turns::default();
        let first = turns.take("a".to_owned()).await;
        let mut second = Box::pin(turns.take("a".to_owned()));
        assert!(futures::poll!(&mut second).is_pending());
        let _other = turns.take("b".to_owned()).await;
        drop(first);
        let second = second.await;
        drop(second);
        assert_eq!(turns.keys.lock().expect("not poisoned").len(), 1, "only b is left");
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_the_queue() {
        let turns = Turns::default();
        let first = turns.take("a".to_owned()).await;
        let mut second = Box::pin(turns.take("a".to_owned()));
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        drop(first);
        assert!(turns.keys.lock().expect("not poisoned").is_empty());
    }
}
