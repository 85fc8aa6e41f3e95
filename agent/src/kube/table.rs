//! One watched resource in memory, as last seen; malformed objects keep their place with what is wrong with them.
//!
//! Owns the map and its replacement when a watch starts over. Must never wait: every lock is held for a few lines.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use kube::{Resource, core::DeserializeGuard, runtime::watcher::Event};

/// Namespace (empty for a cluster-scoped object) and name.
pub(super) type Key = (String, String);

/// An object, or what is wrong with it.
pub(super) type Row<K> = Result<Arc<K>, Arc<str>>;

/// What one watch event changed.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// The object is new or different.
    Put(Key, Row<K>),
    /// The object is gone.
    Gone,
    /// The first list, or a repeated one, is complete.
    Synced,
    /// Nothing that a reader could see.
    Nothing,
}

/// The objects of one resource.
#[derive(Debug)]
pub(super) struct Table<K> {
    rows: RwLock<Rows<K>>,
    synced: AtomicBool,
}

#[derive(Debug)]
struct Rows<K> {
    shown: HashMap<Key, Row<K>>,
    /// Filled while a watch lists anew, shown when the list is complete.
    coming: Option<HashMap<Key, Row<K>>>,
}

impl<K: Resource> Table<K> {
    pub(super) fn new() -> Self {
        Self {
            rows: RwLock::new(Rows { shown: HashMap::new(), coming: None }),
            synced: AtomicBool::new(false),
        }
    }

    /// Has a list been complete at least once.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Row<K>> {
        self.read().shown.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Every object that could be read.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.read().shown.values().filter_map(|row| row.as_ref().ok()).cloned().collect()
    }

    pub(super) fn malformed(&self) -> usize {
        self.read().shown.values().filter(|row| row.is_err()).count()
    }

    pub(super) fn apply(&self, event: Event<DeserializeGuard<K>>) -> Change<K> {
        match event {
            Event::Init => {
                self.write().coming = Some(HashMap::new());
                Change::Nothing
            }
            Event::InitApply(object) => {
                let (key, row) = split(object);
                // Shown at once, so that a long list does not hold back what has already come.
                let mut rows = self.write();
                if let Some(coming) = &mut rows.coming {
                    coming.insert(key.clone(), row.clone());
                }
                rows.shown.insert(key.clone(), row.clone());
                Change::Put(key, row)
            }
            Event::InitDone => {
                let mut rows = self.write();
                if let Some(coming) = rows.coming.take() {
                    rows.shown = coming;
                }
                self.synced.store(true, Ordering::Release);
                Change::Synced
            }
            Event::Apply(object) => {
                let (key, row) = split(object);
                self.write().shown.insert(key.clone(), row.clone());
                Change::Put(key, row)
            }
            Event::Delete(object) => {
                let (key, _) = split(object);
                self.write().shown.remove(&key);
                Change::Gone
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows<K>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows<K>> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Key and row of an object; what only the API server needs is dropped.
pub(super) fn split<K: Resource>(mut object: DeserializeGuard<K>) -> (Key, Row<K>) {
    object.meta_mut().managed_fields = None;
    let meta = object.meta();
    let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    (key, object.0.map(Arc::new).map_err(|invalid| invalid.error.into()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, data: &serde_json::Value) -> DeserializeGuard<ConfigMap> {
        let meta = json!({ "namespace": "ns", "name": name });
        serde_json::from_value(json!({ "metadata": meta, "data": data })).expect("has metadata")
    }

    fn names(table: &Table<ConfigMap>) -> Vec<String> {
        let mut names: Vec<_> = table.all().iter().filter_map(|map| map.metadata.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_list_that_starts_over_drops_what_is_gone_only_when_it_is_complete() {
        let table = Table::new();
        table.apply(Event::Init);
        table.apply(Event::InitApply(object("a", &json!({}))));
        table.apply(Event::InitApply(object("b", &json!({}))));
        assert!(!table.is_synced());
        table.apply(Event::InitDone);
        assert!(table.is_synced());
        table.apply(Event::Init);
        table.apply(Event::InitApply(object("c", &json!({}))));
        assert_eq!(names(&table), ["a", "b", "c"]);
        table.apply(Event::InitDone);
        assert_eq!(names(&table), ["c"]);
    }

    #[test]
    fn a_malformed_object_is_kept_with_its_error_and_heals() {
        let table = Table::new();
        table.apply(Event::Apply(object("good", &json!({}))));
        table.apply(Event::Apply(object("bad", &json!("not a map"))));
        assert!(matches!(table.get("ns", "good"), Some(Ok(_))));
        assert!(matches!(table.get("ns", "bad"), Some(Err(_))));
        assert_eq!(table.malformed(), 1);
        table.apply(Event::Apply(object("bad", &json!({}))));
        assert_eq!(table.malformed(), 0);
        table.apply(Event::Delete(object("bad", &json!({}))));
        assert_eq!(names(&table), ["good"]);
    }
}
