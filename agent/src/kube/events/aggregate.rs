//! Which Event becomes a new object and which one counts up an old one.
//!
//! Pure: takes `now`, returns actions. Must never talk to the API server, nor grow past its bound.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// An Event object older than this is not counted up any more; kube-apiserver keeps them for an hour.
const LIFETIME: Duration = Duration::from_mins(10);
/// Repeats inside this are gathered into one write.
const QUIET: Duration = Duration::from_secs(5);
/// Distinct Events remembered; past it, the one seen longest ago is forgotten.
const MOST: usize = 1024;

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A new Event object.
    Create,
    /// The named object's series now counts this many.
    Count {
        /// Object name.
        name: String,
        /// Occurrences so far, at least 2.
        count: i32,
    },
    /// Nothing yet: [`Aggregator::due`] returns it later.
    Wait,
}

struct Entry {
    /// Name of the object; absent until it was created.
    name: Option<String>,
    count: i32,
    written: i32,
    created: Instant,
    seen: Instant,
    sent: Instant,
}

/// Counts repeats of equal Events.
pub(super) struct Aggregator<K> {
    entries: HashMap<K, Entry>,
}

impl<K: Clone + Eq + Hash> Aggregator<K> {
    pub(super) fn new() -> Self {
        Self { entries: HashMap::new() }
    }

    /// `key` happened at `now`.
    pub(super) fn observe(&mut self, key: &K, now: Instant) -> Action {
        if let Some(entry) = self.entries.get_mut(key)
            && now.duration_since(entry.created) < LIFETIME
        {
            entry.count = entry.count.saturating_add(1);
            entry.seen = now;
            return entry.action(now);
        }
        self.make_room();
        let entry = Entry { name: None, count: 1, written: 0, created: now, seen: now, sent: now };
        self.entries.insert(key.clone(), entry);
        Action::Create
    }

    /// The object for `key` exists under `name`.
    pub(super) fn created(&mut self, key: &K, name: String) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.written = 1;
            entry.name = Some(name);
        }
    }

    /// The object for `key` could not be written or has expired: the next occurrence makes a new one.
    pub(super) fn forget(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Counts that were gathered and are to be written now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(K, Action)> {
        let mut due = Vec::new();
        for (key, entry) in &mut self.entries {
            if entry.count > entry.written
                && let action @ Action::Count { .. } = entry.action(now)
            {
                due.push((key.clone(), action));
            }
        }
        self.entries
            .retain(|_, entry| entry.count > entry.written || now.duration_since(entry.created) < LIFETIME);
        due
    }

    fn make_room(&mut self) {
        if self.entries.len() < MOST {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.seen).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
    }
}

impl Entry {
    fn action(&mut self, now: Instant) -> Action {
        match &self.name {
            Some(name) if now.duration_since(self.sent) >= QUIET => {
                self.sent = now;
                self.written = self.count;
                Action::Count { name: name.clone(), count: self.count }
            }
            _ => Action::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn repeats_are_gathered_and_written_as_one_count() {
        let (mut aggregator, t) = (Aggregator::new(), Instant::now());
        assert_eq!(aggregator.observe(&"a", t), Action::Create);
        aggregator.created(&"a", "a.1".into());
        assert_eq!(aggregator.observe(&"a", t + SECOND), Action::Wait);
        assert_eq!(aggregator.observe(&"a", t + 2 * SECOND), Action::Wait);
        assert_eq!(aggregator.due(t + 3 * SECOND), []);
        let count = Action::Count { name: "a.1".into(), count: 3 };
        assert_eq!(aggregator.due(t + 6 * SECOND), [("a", count)]);
        assert_eq!(aggregator.due(t + 20 * SECOND), []);
    }

    #[test]
    fn a_repeat_after_a_quiet_time_is_counted_at_once() {
        let (mut aggregator, t) = (Aggregator::new(), Instant::now());
        aggregator.observe(&"a", t);
        aggregator.created(&"a", "a.1".into());
        let count = Action::Count { name: "a.1".into(), count: 2 };
        assert_eq!(aggregator.observe(&"a", t + 30 * SECOND), count);
    }

    #[test]
    fn an_old_or_failed_event_is_made_anew() {
        let (mut aggregator, t) = (Aggregator::new(), Instant::now());
        aggregator.observe(&"a", t);
        aggregator.created(&"a", "a.1".into());
        assert_eq!(aggregator.observe(&"a", t + LIFETIME), Action::Create);
        aggregator.forget(&"a");
        assert_eq!(aggregator.observe(&"a", t + LIFETIME + SECOND), Action::Create);
    }

    #[test]
    fn the_number_of_remembered_events_is_bounded() {
        let (mut aggregator, t) = (Aggregator::new(), Instant::now());
        for key in 0..MOST + 10 {
            aggregator.observe(&key, t + Duration::from_millis(key as u64));
        }
        assert_eq!(aggregator.entries.len(), MOST);
        assert_eq!(aggregator.observe(&0, t + SECOND), Action::Create, "the oldest were forgotten");
    }
}
