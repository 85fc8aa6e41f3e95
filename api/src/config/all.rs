//! `flows.all` of `trunkline-agent.conf`: taps on interfaces that Trunkline did not make.
//!
//! Owns keys, defaults and what a pattern is. Must never look at an interface.

use regex::Regex;

use super::yaml::{Node, Problem};

/// Which interfaces of which namespaces get a tap besides pods' ports and uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllConfig {
    /// `enabled`. Default false.
    pub enabled: bool,
    /// `interfaces`, by the interface's name. Default all but `^lo$`.
    pub interfaces: NameFilter,
    /// `namespaces`, by the network namespace's name: `host`, its file's name, or `net:[<inode>]`. Default all.
    pub namespaces: NameFilter,
    /// `kinds`, by the link's kind: `veth`, `vlan`, …, `physical` where it has none. Default all.
    pub kinds: NameFilter,
}

/// What a name must match and what it must not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// `include`: one of these must match; empty, all do.
    pub include: Vec<Pattern>,
    /// `exclude`: none of these may match.
    pub exclude: Vec<Pattern>,
}

/// A regular expression, in the syntax of the crate `regex`. It matches anywhere in a name: `^` and `$` anchor it.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Default for AllConfig {
    fn default() -> Self {
        let interfaces =
            NameFilter { exclude: Pattern::new("^lo$").into_iter().collect(), ..NameFilter::default() };
        Self { enabled: false, interfaces, namespaces: NameFilter::default(), kinds: NameFilter::default() }
    }
}

impl NameFilter {
    /// Whether a thing of this name is wanted.
    pub fn admits(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.0.is_match(name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

impl Pattern {
    /// Compiles it. The error says in one line what is wrong and where.
    pub fn new(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| {
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

pub(super) fn read(node: &Node<'_>) -> Result<AllConfig, Problem> {
    let mut fields = node.fields()?;
    let mut config = AllConfig::default();
    fields.set("enabled", &mut config.enabled, Node::boolean)?;
    for (key, filter) in [
        ("interfaces", &mut config.interfaces),
        ("namespaces", &mut config.namespaces),
        ("kinds", &mut config.kinds),
    ] {
        let before = filter.clone();
        fields.set(key, filter, |node| read_filter(node, before))?;
    }
    fields.finish()?;
    Ok(config)
}

fn read_filter(node: &Node<'_>, mut filter: NameFilter) -> Result<NameFilter, Problem> {
    let mut fields = node.fields()?;
    fields.set("include", &mut filter.include, read_patterns)?;
    fields.set("exclude", &mut filter.exclude, read_patterns)?;
    fields.finish()?;
    Ok(filter)
}

fn read_patterns(node: &Node<'_>) -> Result<Vec<Pattern>, Problem> {
    let pattern = |item: &Node<'_>| {
        let text = item.string()?;
        Pattern::new(text)
            .map_err(|wrong| item.refuse(format!("{text:?} is not a regular expression: {wrong}")))
    };
    node.items()?.iter().map(pattern).collect()
}
