//! Every network namespace of the machine and the links in each, as they come and go.
//!
//! ```text
//!  inotify on folders ─┐
//!  every two seconds ──┼─► look: names, inodes ─► World ─► open, let go ─► a task for each namespace ─┐
//!  a link is gone ─────┘                            ▲  └─► Sightings                        rtnetlink │
//!                                                   └────────────────────────────────────────────────┘
//! ```
//!
//! Tasks: one looks, one for each namespace reads its socket. What is held of a namespace, a descriptor and a socket,
//! keeps it alive, so both are dropped as soon as no file and no process has it any more. Only namespaces whose name
//! is admitted are opened at all.

mod look;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use trunkline_api::AllConfig;

use crate::cli::chain;
use crate::link::{LinkNews, LinkStream};
use crate::netns::{NetnsError, NetnsFd, NetnsId, NetnsThread};
use look::{FolderWatch, Look};
pub use world::{Inode, Moves, Wanted, World};

/// How often namespaces are looked for that no file's coming and going tells of.
const PERIOD: Duration = Duration::from_secs(2);
/// Looks are at least this far apart.
const GAP: Duration = Duration::from_millis(50);
/// How long a file may take to hold its namespace before it is left to the regular looks.
const RESTLESS: Duration = Duration::from_secs(1);
/// News that may wait; the kernel keeps more, and says when it could not.
const QUEUE: usize = 256;

/// An interface that is to have a tap, and how to get there.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The interface.
    pub wanted: Wanted,
    /// Its namespace; `None` for the agent's own.
    pub namespace: Option<NetnsFd>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// Whether everything has been looked at once: before, what is not here may only be unknown yet.
    pub complete: bool,
    /// How many namespaces are followed.
    pub namespaces: usize,
    /// The interfaces, by namespace and index.
    pub interfaces: Vec<Sighting>,
}

/// What went wrong with one namespace.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    #[error("its links cannot be followed")]
    Links(#[source] io::Error),
    #[error("it has been exchanged meanwhile")]
    Exchanged,
}

struct Followed {
    number: u64,
    namespace: Option<NetnsFd>,
    _task: AbortOnDropHandle<()>,
}

type News = (Inode, u64, io::Result<LinkNews>);

/// The watch; [`Self::run`] keeps it going.
pub struct NetWatch {
    own: NetnsId,
    thread: NetnsThread,
    world: World,
    followed: BTreeMap<Inode, Followed>,
    numbers: u64,
    refused: BTreeSet<Inode>,
    looked: bool,
    told: watch::Sender<Arc<Sightings>>,
}

impl NetWatch {
    /// A watch of what the configuration wants, and where it tells what it sees.
    pub fn new(
        wanted: AllConfig,
        thread: NetnsThread,
    ) -> Result<(Self, watch::Receiver<Arc<Sightings>>), NetnsError> {
        let (told, sightings) = watch::channel(Arc::default());
        let watch = Self {
            own: NetnsFd::own()?.id(),
            thread,
            world: World::new(wanted),
            followed: BTreeMap::new(),
            numbers: 0,
            refused: BTreeSet::new(),
            looked: false,
            told,
        };
        Ok((watch, sightings))
    }

    /// Watches until the stop.
    pub async fn run(mut self, stop: CancellationToken) {
        raise_descriptor_limit();
        let folders = FolderWatch::open();
        if let Err(error) = &folders {
            tracing::warn!(%error, "no inotify: namespaces that come are noticed up to two seconds later");
        }
        let (sender, mut news) = mpsc::channel::<News>(QUEUE);
        let (mut next, mut last) = (Instant::now(), Instant::now());
        let mut restless = next;
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => return,
                first = news.recv() => {
                    let mut waiting = first;
                    let mut gone = false;
                    while let Some(one) = waiting {
                        gone |= self.heard(one);
                        waiting = news.try_recv().ok();
                    }
                    if gone {
                        // It may have gone to a namespace that nobody knows yet.
                        next = next.min(last + GAP);
                    }
                }
                () = changed(&folders) => {
                    restless = Instant::now() + RESTLESS;
                    next = next.min(last + GAP);
                }
                () = tokio::time::sleep_until(next) => {
                    if let Ok(folders) = &folders {
                        folders.renew();
                    }
                    let unfinished = self.look(&sender).await;
                    last = Instant::now();
                    next = last + if unfinished && last < restless { GAP } else { PERIOD };
                }
            }
            self.tell();
        }
    }

    /// Looks once; says whether a namespace is about to be.
    async fn look(&mut self, sender: &mpsc::Sender<News>) -> bool {
        let own = self.own;
        let Ok(look) = tokio::task::spawn_blocking(move || Look::now(own)).await else { return false };
        let Moves { open, close } = self.world.found(&look.names);
        for inode in close {
            self.followed.remove(&inode);
        }
        self.refused.retain(|inode| look.names.contains_key(inode));
        for inode in open {
            match self.follow(inode, &look, sender).await {
                Ok(followed) => drop(self.followed.insert(inode, followed)),
                Err(error) => self.give_up(inode, &error),
            }
        }
        self.looked = true;
        look.unfinished
    }

    async fn follow(
        &mut self,
        inode: Inode,
        look: &Look,
        sender: &mpsc::Sender<News>,
    ) -> Result<Followed, FollowError> {
        let (namespace, subscribed) = if inode == self.own.inode {
            (None, LinkStream::subscribe())
        } else {
            let path = look.paths.get(&inode).ok_or(FollowError::Exchanged)?;
            let namespace = NetnsFd::open(path)?;
            if namespace.id().inode != inode {
                return Err(FollowError::Exchanged);
            }
            let subscribed = self.thread.run(&namespace, LinkStream::subscribe).await?;
            (Some(namespace), subscribed)
        };
        let stream = subscribed.and_then(LinkStream::start).map_err(FollowError::Links)?;
        self.numbers += 1;
        let task = tokio::spawn(read(stream, inode, self.numbers, sender.clone()));
        Ok(Followed { number: self.numbers, namespace, _task: AbortOnDropHandle::new(task) })
    }

    fn give_up(&mut self, inode: Inode, error: &FollowError) {
        self.world.lost(inode);
        self.followed.remove(&inode);
        if self.refused.insert(inode) {
            tracing::warn!(inode, error = %chain(error), "a network namespace is not followed, will try again");
        }
    }

    /// Takes in one piece of news; says whether a link is gone.
    fn heard(&mut self, (inode, number, news): News) -> bool {
        if self.followed.get(&inode).is_none_or(|followed| followed.number != number) {
            return false; // of one that was let go
        }
        match news {
            Ok(news) => {
                let gone = matches!(news, LinkNews::Gone(_));
                self.world.heard(inode, news);
                gone
            }
            Err(error) => {
                self.give_up(inode, &FollowError::Links(error));
                false
            }
        }
    }

    fn tell(&self) {
        let wanted = self.world.wanted();
        let before = Arc::clone(&self.told.borrow());
        let complete = before.complete || (self.looked && self.world.complete());
        let namespaces = self.followed.len();
        let same = before.interfaces.iter().map(|sighting| &sighting.wanted).eq(&wanted);
        if same && before.complete == complete && before.namespaces == namespaces {
            return;
        }
        let sighting = |wanted: Wanted| {
            let namespace = self.followed.get(&wanted.inode)?.namespace.clone();
            Some(Sighting { wanted, namespace })
        };
        let interfaces = wanted.into_iter().filter_map(sighting).collect();
        self.told.send_replace(Arc::new(Sightings { complete, namespaces, interfaces }));
    }
}

async fn changed(folders: &io::Result<FolderWatch>) {
    match folders {
        Ok(folders) if folders.changed().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn read(mut stream: LinkStream, inode: Inode, number: u64, sender: mpsc::Sender<News>) {
    loop {
        let news = stream.next().await;
        let last = news.is_err();
        if sender.send((inode, number, news)).await.is_err() || last {
            return;
        }
    }
}

/// A namespace takes two descriptors, and runtimes start containers with a low limit that may be raised.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
