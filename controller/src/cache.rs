//! What a watch has told, by key.
//!
//! Owns how a restarted watch replaces what was known. Must never ask the API server.

use std::collections::HashMap;

use kube::runtime::watcher::Event;

/// Facts about the objects of one kind.
#[derive(Debug)]
pub struct Cache<V> {
    live: HashMap<String, V>,
    incoming: HashMap<String, V>,
    synced: bool,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { live: HashMap::new(), incoming: HashMap::new(), synced: false }
    }
}

impl<V: Clone> Cache<V> {
    /// Takes one watch event, its object reduced to key and facts.
    pub fn apply(&mut self, event: Event<(String, V)>) {
        match event {
            Event::Apply((key, value)) => {
                self.live.insert(key, value);
            }
            Event::Delete((key, _)) => {
                self.live.remove(&key);
            }
            Event::Init => self.incoming.clear(),
            Event::InitApply((key, value)) => {
                self.live.insert(key.clone(), value.clone());
                self.incoming.insert(key, value);
            }
            Event::InitDone => {
                self.live = std::mem::take(&mut self.incoming);
                self.synced = true;
            }
        }
    }

    /// The facts of one object.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.live.get(key)
    }

    /// Facts from a live look, kept until the watch says more.
    pub fn insert(&mut self, key: String, value: V) {
        self.live.insert(key, value);
    }

    /// Has a first list been complete?
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// All facts.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.live.values()
    }
}

/// Reduces the object of a watch event.
pub fn map_event<K, V>(event: Event<K>, reduce: impl FnOnce(K) -> V) -> Event<V> {
    match event {
        Event::Apply(object) => Event::Apply(reduce(object)),
        Event::Delete(object) => Event::Delete(reduce(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(reduce(object)),
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> (String, u8) {
        (key.to_owned(), 0)
    }

    #[test]
    fn what_a_relist_does_not_name_is_forgotten_only_when_it_is_done() {
        let mut cache = Cache::default();
        cache.apply(Event::Init);
        cache.apply(Event::InitApply(entry("a")));
        assert!(!cache.is_synced());
        cache.apply(Event::InitDone);
        assert!(cache.is_synced());
        cache.apply(Event::Init);
        cache.apply(Event::InitApply(entry("b")));
        assert!(cache.get("a").is_some() && cache.get("b").is_some());
        cache.apply(Event::InitDone);
        assert!(cache.get("a").is_none() && cache.get("b").is_some());
        cache.apply(Event::Delete(entry("b")));
        assert!(cache.get("b").is_none());
    }
}
