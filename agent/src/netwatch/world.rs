//! The namespaces and links that are followed: what was seen in, which interfaces are wanted out.
//!
//! Pure. A namespace is its inode for as long as somebody holds it open, which the caller does for those named here;
//! an interface is its index in its namespace, and an *instance* that tells it from another one that had the index
//! before. So a rename keeps an interface what it is, equal indices in two namespaces are two interfaces, and an index
//! that is used again is a new one.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_api::AllConfig;

use crate::link::{LinkForm, LinkNews, LinkSeen};

/// Inode number of a network namespace.
pub type Inode = u64;

/// An interface that is to have a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its namespace.
    pub inode: Inode,
    /// The namespace's name.
    pub namespace: String,
    /// The interface as it is now.
    pub link: LinkSeen,
    /// Tells it from an earlier interface of that index. Later ones have greater numbers.
    pub instance: u64,
}

/// What a look at the machine's namespaces asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// To be followed from now on.
    pub open: Vec<Inode>,
    /// To be let go.
    pub close: Vec<Inode>,
}

#[derive(Debug)]
struct Space {
    name: String,
    links: BTreeMap<u32, (LinkSeen, u64)>,
    listed: bool,
}

/// Everything that is followed.
#[derive(Debug)]
pub struct World {
    wanted: AllConfig,
    spaces: BTreeMap<Inode, Space>,
    instances: u64,
}

impl World {
    /// Nothing yet.
    pub fn new(wanted: AllConfig) -> Self {
        Self { wanted, spaces: BTreeMap::new(), instances: 0 }
    }

    /// A complete look at the namespaces that there are, each with all its names. Its name is from now on the first
    /// that the filter admits; one without such a name is not followed.
    pub fn found(&mut self, namespaces: &BTreeMap<Inode, BTreeSet<String>>) -> Moves {
        let filter = &self.wanted.namespaces;
        let named: BTreeMap<Inode, &String> = namespaces
            .iter()
            .filter_map(|(inode, names)| Some((*inode, names.iter().find(|name| filter.admits(name))?)))
            .collect();
        let close = self.spaces.keys().filter(|inode| !named.contains_key(inode)).copied().collect();
        self.spaces.retain(|inode, _| named.contains_key(inode));
        let mut open = Vec::new();
        for (inode, name) in named {
            if let Some(space) = self.spaces.get_mut(&inode) {
                space.name.clone_from(name);
                continue;
            }
            let space = Space { name: name.clone(), links: BTreeMap::new(), listed: false };
            self.spaces.insert(inode, space);
            open.push(inode);
        }
        Moves { open, close }
    }

    /// A namespace cannot be followed, or is followed no more; the next look finds it anew.
    pub fn lost(&mut self, inode: Inode) {
        self.spaces.remove(&inode);
    }

    /// A namespace's news. Those of one that is not followed are late, and nothing.
    pub fn heard(&mut self, inode: Inode, news: LinkNews) {
        let Some(space) = self.spaces.get_mut(&inode) else { return };
        let mut number = || {
            self.instances += 1;
            self.instances
        };
        match news {
            LinkNews::Seen(link) => {
                let held = space.links.get(&link.ifindex).map(|(_, instance)| *instance);
                let instance = held.unwrap_or_else(number);
                space.links.insert(link.ifindex, (link, instance));
            }
            LinkNews::Gone(ifindex) => drop(space.links.remove(&ifindex)),
            LinkNews::All(links) => {
                let before = std::mem::take(&mut space.links);
                for link in links {
                    let held = before.get(&link.ifindex).filter(|(held, _)| same(held, &link));
                    let instance = held.map_or_else(&mut number, |(_, instance)| *instance);
                    space.links.insert(link.ifindex, (link, instance));
                }
                space.listed = true;
            }
        }
    }

    /// Whether every namespace that is followed has told all its links.
    pub fn complete(&self) -> bool {
        self.spaces.values().all(|space| space.listed)
    }

    /// The interfaces that are to have a tap, by namespace and index.
    pub fn wanted(&self) -> Vec<Wanted> {
        let AllConfig { interfaces, kinds, .. } = &self.wanted;
        let of_space = |(inode, space): (&Inode, &Space)| {
            let admitted = |link: &LinkSeen| interfaces.admits(&link.name) && kinds.admits(&link.kind);
            let links = space.links.values().filter(|(link, _)| space.listed && admitted(link));
            let wanted = |(link, instance): &(LinkSeen, u64)| Wanted {
                inode: *inode,
                namespace: space.name.clone(),
                link: link.clone(),
                instance: *instance,
            };
            links.map(wanted).collect::<Vec<_>>()
        };
        self.spaces.iter().flat_map(of_space).collect()
    }
}

/// Whether a link may be the one that had its index before messages were lost: a rename and a new address are both
/// possible, but hardly both at once.
fn same(held: &LinkSeen, now: &LinkSeen) -> bool {
    let addressed = held.mac.is_some() && held.mac == now.mac && held.form == LinkForm::Ethernet;
    held.kind == now.kind && held.form == now.form && (held.name == now.name || addressed)
}

#[cfg(test)]
mod tests;
