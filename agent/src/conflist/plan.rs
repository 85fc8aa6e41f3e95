//! What the chained CNI configuration should be, from what is in the directory.
//!
//! Pure: no file, no clock. Runtimes take the first of `*.conf`, `*.conflist` and `*.json` in lexical order, so ours
//! sorts first and copies the first other one.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Name of our file.
pub const OUR_FILE: &str = "00-trunkline.conflist";

/// Our plugin's type, which is its binary's name.
pub const PLUGIN: &str = "trunkline-cni";

/// How long our file stays without any source before it is removed: a primary CNI that is being reinstalled is back
/// by then.
pub(super) const NO_SOURCE_GRACE: Duration = Duration::from_mins(1);

/// How long a source that can no longer be read stays our source: an installer may be in the middle of writing it.
pub(super) const BROKEN_SOURCE_GRACE: Duration = Duration::from_mins(1);

/// The key of our entry under which we remember what we copied, to tell it from what others chained into our file.
const COPIED: &str = "copied";

const EXTENSIONS: [&str; 3] = [".conf", ".conflist", ".json"];
const MULTUS: [&str; 3] = ["multus", "multus-shim", "multus-cni"];

/// A file of the configuration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfFile {
    /// Its name without directory.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// The settings of our entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurEntry {
    /// Path of the agent's socket on the node.
    pub socket: String,
    /// Seconds that ADD may take (5–180).
    pub timeout_seconds: u64,
    /// Namespaces whose pods start unasked where the runtime hands over no annotations.
    pub allow_namespaces: Vec<String>,
}

/// What the planner cannot see in the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How long there has been no file to copy.
    pub none_for: Duration,
    /// How long the file that we copied has been unreadable.
    pub broken_for: Duration,
}

/// What to do with our file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write it.
    Write(Vec<u8>),
    /// It is as it should be, or nothing better is known yet.
    Keep,
    /// Remove it.
    Remove,
    /// It is not there and should not be.
    Nothing,
}

/// How the node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Pods reach us; the copy's source is named.
    Chained {
        /// File name of the source.
        source: String,
    },
    /// There is no other CNI configuration.
    NoPrimaryCni,
    /// Multus is the primary: it would delegate our networks itself, so we do not chain.
    Multus {
        /// File name of its configuration.
        source: String,
    },
    /// The primary's configuration cannot be chained to.
    CannotChain {
        /// File name of the source.
        source: String,
        /// Why.
        reason: String,
    },
    /// The file that we copied cannot be read at the moment; our copy stays.
    SourceBroken {
        /// File name of the source.
        source: String,
        /// Why.
        reason: String,
    },
}

/// A file that is no source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub file: String,
    /// Why.
    pub reason: String,
}

/// The decision and its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub action: Action,
    /// How the node stands once it is done.
    pub state: State,
    /// Files that were passed over before a source was found.
    pub skipped: Vec<Skipped>,
    /// Usable files that sort before ours: the runtime takes the first of them, and pods do not reach us.
    pub shadowed_by: Vec<String>,
}

/// Decides what our file should be.
pub fn plan(directory: &[ConfFile], entry: &OurEntry, history: History) -> Plan {
    let ours = directory.iter().find(|file| file.name == OUR_FILE);
    let our_list: Option<Map<String, Value>> =
        ours.and_then(|file| serde_json::from_slice(&file.content).ok());
    let copied = our_list.as_ref().and_then(Copied::of);
    let mut others: Vec<&ConfFile> = directory.iter().filter(|file| is_candidate(&file.name)).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));

    let mut plan = Plan {
        action: if ours.is_some() { Action::Keep } else { Action::Nothing },
        state: State::NoPrimaryCni,
        skipped: Vec::new(),
        shadowed_by: Vec::new(),
    };
    for file in &others {
        let reason = match Source::parse(file) {
            Ok(source) => {
                plan.shadowed_by = shadowing(&others);
                return plan_from(&source, ours, our_list.as_ref(), copied.as_ref(), entry, plan);
            }
            Err(reason) => reason,
        };
        let is_ours = copied.as_ref().is_some_and(|copied| copied.file == file.name);
        if is_ours && history.broken_for < BROKEN_SOURCE_GRACE {
            plan.state = State::SourceBroken { source: file.name.clone(), reason };
            return plan;
        }
        plan.skipped.push(Skipped { file: file.name.clone(), reason });
    }
    if ours.is_some() && history.none_for >= NO_SOURCE_GRACE {
        plan.action = Action::Remove;
    }
    plan
}

fn plan_from(
    source: &Source,
    ours: Option<&ConfFile>,
    our_list: Option<&Map<String, Value>>,
    copied: Option<&Copied>,
    entry: &OurEntry,
    mut plan: Plan,
) -> Plan {
    let withdraw = if ours.is_some() { Action::Remove } else { Action::Nothing };
    if source.plugins.iter().any(|plugin| MULTUS.contains(&type_of(plugin))) {
        plan.state = State::Multus { source: source.file.clone() };
        plan.action = withdraw;
        return plan;
    }
    if let Some(reason) = source.version_problem() {
        plan.state = State::CannotChain { source: source.file.clone(), reason };
        plan.action = withdraw;
        return plan;
    }
    let wanted = chained(source, our_list, copied, entry);
    plan.state = State::Chained { source: source.file.clone() };
    plan.action = if our_list == Some(&wanted) {
        Action::Keep
    } else {
        let mut bytes = serde_json::to_vec_pretty(&wanted).expect("a JSON value always serialises");
        bytes.push(b'\n');
        Action::Write(bytes)
    };
    plan
}

/// The source with our entry, and with what others chained into our file around it.
fn chained(
    source: &Source,
    our_list: Option<&Map<String, Value>>,
    copied: Option<&Copied>,
    entry: &OurEntry,
) -> Map<String, Value> {
    let (before, after) = chained_by_others(source, our_list, copied);
    let mut plugins = source.plugins.clone();
    plugins.extend(before);
    plugins.push(our_entry(source, entry));
    plugins.extend(after);
    let mut list = source.list.clone();
    list.insert("plugins".to_owned(), Value::Array(plugins));
    list
}

/// Plugins in our file that are neither ours nor copied nor in the source by now: before and after our entry.
fn chained_by_others(
    source: &Source,
    our_list: Option<&Map<String, Value>>,
    copied: Option<&Copied>,
) -> (Vec<Value>, Vec<Value>) {
    let mut parts = (Vec::new(), Vec::new());
    let Some(plugins) = our_list.and_then(|list| list.get("plugins")).and_then(Value::as_array) else {
        return parts;
    };
    let mut passed_ours = false;
    for plugin in plugins {
        let kind = type_of(plugin);
        if kind == PLUGIN {
            passed_ours = true;
            continue;
        }
        let was_copied = copied.is_some_and(|copied| copied.types.iter().any(|known| known == kind));
        let in_source = source.plugins.iter().any(|known| type_of(known) == kind);
        let part = if passed_ours { &mut parts.1 } else { &mut parts.0 };
        if !was_copied && !in_source && !part.contains(plugin) {
            part.push(plugin.clone());
        }
    }
    parts
}

fn our_entry(source: &Source, entry: &OurEntry) -> Value {
    json!({
        "type": PLUGIN,
        "socket": entry.socket,
        "timeoutSeconds": entry.timeout_seconds,
        "podsWithoutAnnotations": { "allowNamespaces": entry.allow_namespaces },
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        COPIED: {
            "from": source.file,
            "plugins": source.plugins.iter().map(type_of).collect::<Vec<_>>(),
        },
    })
}

/// What our entry says that we copied.
struct Copied {
    file: String,
    types: Vec<String>,
}

impl Copied {
    fn of(list: &Map<String, Value>) -> Option<Self> {
        let plugins = list.get("plugins")?.as_array()?;
        let copied = plugins.iter().find(|plugin| type_of(plugin) == PLUGIN)?.get(COPIED)?;
        let types = copied.get("plugins")?.as_array()?;
        Some(Self {
            file: copied.get("from")?.as_str()?.to_owned(),
            types: types.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

/// A configuration that can be copied: the list without its plugins, and the plugins without ours.
struct Source {
    file: String,
    list: Map<String, Value>,
    plugins: Vec<Value>,
}

impl Source {
    fn parse(file: &ConfFile) -> Result<Self, String> {
        let mut list: Map<String, Value> =
            serde_json::from_slice(&file.content).map_err(|error| format!("not a JSON object: {error}"))?;
        let plugins = if file.name.ends_with(".conflist") {
            match list.remove("plugins") {
                Some(Value::Array(plugins)) => plugins,
                _ => return Err("it has no list of plugins".to_owned()),
            }
        } else {
            let plugin = list;
            if type_of_map(&plugin).is_empty() {
                return Err("it has no type".to_owned());
            }
            list = Map::new();
            for key in ["cniVersion", "name", "disableCheck"] {
                list.extend(plugin.get(key).map(|value| (key.to_owned(), value.clone())));
            }
            vec![Value::Object(plugin)]
        };
        let plugins = without_ours(plugins);
        if plugins.is_empty() {
            return Err("it has no plugin besides ours".to_owned());
        }
        Ok(Self { file: file.name.clone(), list, plugins })
    }

    /// Chaining came with 0.3.0; without a version runtimes assume an older one.
    fn version_problem(&self) -> Option<String> {
        let version = self.list.get("cniVersion").and_then(Value::as_str).unwrap_or("0.2.0");
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        ((major, minor) < (0, 3))
            .then(|| format!("its cniVersion is {version}; plugins are chained from 0.3.0 on"))
    }
}

/// Strips our entry, and repeats of one plugin that copying back and forth between two installers would pile up.
fn without_ours(plugins: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::with_capacity(plugins.len());
    for plugin in plugins {
        if type_of(&plugin) != PLUGIN && !kept.contains(&plugin) {
            kept.push(plugin);
        }
    }
    kept
}

/// Usable files that the runtime reads before ours.
fn shadowing(others: &[&ConfFile]) -> Vec<String> {
    others
        .iter()
        .filter(|file| file.name.as_str() < OUR_FILE && Source::parse(file).is_ok())
        .map(|file| file.name.clone())
        .collect()
}

fn is_candidate(name: &str) -> bool {
    name != OUR_FILE && EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

fn type_of(plugin: &Value) -> &str {
    plugin.as_object().map_or("", type_of_map)
}

fn type_of_map(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests;
