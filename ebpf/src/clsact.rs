//! Taps by clsact, for kernels before TCX: a filter of ours on each side of an interface.
//!
//! ```text
//!  <set>/taps/<slot>_<name>/ingress → 12      symbolic links: on interface 12 there is a filter of ours,
//!                           egress  → 12      or there will be, or was
//!                           qdisc   → 12      we made its clsact
//! ```
//!
//! Filters have no pin: the kernel keeps them with the interface. So what is attached is what the kernel shows, each
//! time; the records say only where to look. A record is written before its filter and removed after it, so whoever
//! dies in between leaves no filter that nobody looks for.
//!
//! A filter is ours by its name, which tells set, slot and hook, in a place whose priority and handle are our own: one
//! on each side. Others' filters are asked in the order of priorities; ours lets each frame go on to the next. What is
//! another's is never touched, and clsact goes only where we made it and nobody else has a filter in it.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::net::if_::{if_nameindex, if_nametoindex};

use crate::attach::{Held, Hook, LinkState, TapLinks, Way, pin_error};
use crate::error::TapError;
use crate::object::Programs;
use crate::sys;
use crate::tc::{self, Filter, Place, Side};

/// What every name of a filter of ours begins with.
const OURS: &str = "trunkline/";
/// Before others', but for those who want to be the very first: 1 and 2 are what people and Cilium take.
const FIRST: u16 = 3;
/// Behind others', and not the very last: what the kernel picks by itself is below 49,152.
const LAST: u16 = 65_523;
/// Tells our filter from others' of the same priority.
const HANDLE: u32 = 0x7470;
/// The record that we made an interface's clsact.
const QDISC: &str = "qdisc";

const SIDES: [Side; 2] = [Side::Ingress, Side::Egress];

/// As the order of links: a guarded tap ends the chain, so it comes last.
fn priority(hook: Hook) -> u16 {
    match hook {
        Hook::Ingress => FIRST,
        Hook::Egress | Hook::Guarded => LAST,
    }
}

fn side(hook: Hook) -> Side {
    match hook {
        Hook::Ingress | Hook::Guarded => Side::Ingress,
        Hook::Egress => Side::Egress,
    }
}

/// Whether any set of ours has put it there.
fn is_ours(filter: &Filter) -> bool {
    let plain = filter.kind == tc::BPF && filter.protocol == tc::ALL && filter.chain == 0;
    let placed = [FIRST, LAST].contains(&filter.priority) && filter.handle == HANDLE;
    plain && placed && filter.name.starts_with(OURS)
}

/// Whether it is the filter of this hook of this very tap.
fn is_of(links: &TapLinks, hook: Hook, filter: &Filter) -> bool {
    is_ours(filter) && filter.name == name(links, hook)
}

/// What the filter of one hook of one tap is called.
fn name(links: &TapLinks, hook: Hook) -> String {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).map_or_else(String::new, |part| part.to_string_lossy().into_owned())
    };
    let set = part(links.folder.ancestors().nth(2));
    format!("{OURS}{set}/{}/{}", part(Some(&links.folder)), hook.pin())
}

/// Whether another's filter keeps ours from this place. Priorities of one kind and protocol can be shared.
fn is_occupied(filters: &[Filter], place: Place) -> bool {
    let beside = filters.iter().filter(|filter| filter.chain == 0 && filter.priority == place.priority);
    let against = |filter: &Filter| {
        filter.kind != tc::BPF || filter.protocol != tc::ALL || filter.handle == place.handle
    };
    beside.into_iter().any(against)
}

/// Attaches one hook to `interface`, or exchanges what is already there of ours without missing a frame. Between
/// guarded and not, the filter's place changes: frames of that moment are counted by neither.
pub(crate) fn attach(
    links: &TapLinks,
    programs: &mut Programs,
    hook: Hook,
    interface: &str,
) -> Result<(), TapError> {
    let found = if_nametoindex(interface).map_err(io::Error::from);
    let ifindex = found.map_err(|source| TapError::Filters { what: "find the index", ifindex: 0, source })?;
    if recorded(links, hook.pin())?.is_some_and(|at| at != ifindex) {
        detach(links, hook)?;
    }
    record(links, hook.pin(), ifindex)?;
    ensure_qdisc(links, interface, ifindex)?;
    put(links, programs, hook, ifindex, interface)
}

/// Has the filter that `held` has a record of run our program from now on, as that of `ours`: no frame is missed.
pub(crate) fn replace(
    held: &TapLinks,
    ours: &TapLinks,
    programs: &mut Programs,
    hook: Hook,
) -> Result<(), TapError> {
    let ifindex = recorded(held, hook.pin())?.unwrap_or_default();
    if held.folder != ours.folder && recorded(held, QDISC)? == Some(ifindex) {
        record(ours, QDISC, ifindex)?;
    }
    put(ours, programs, hook, ifindex, &held.name)
}

/// Adds the filter, or exchanges the one of ours that is there, of whatever set.
fn put(
    links: &TapLinks,
    programs: &mut Programs,
    hook: Hook,
    ifindex: u32,
    interface: &str,
) -> Result<(), TapError> {
    let program = programs.program(hook.program())?;
    let failed = |source| TapError::Program { program: hook.program(), source: Box::new(source) };
    let program = program.fd().map_err(failed)?.as_fd();
    let (name, failed) = (name(links, hook), failed_at(ifindex));
    let place = Place { ifindex, side: side(hook), priority: priority(hook), handle: HANDLE };
    let filters = filters(ifindex, place.side)?;
    for filter in filters.iter().filter(|filter| is_ours(filter) && filter.priority != place.priority) {
        delete(ifindex, place.side, filter)?;
    }
    if filters.iter().any(|filter| is_ours(filter) && filter.priority == place.priority) {
        return tc::replace(place, &name, program).map_err(failed("exchange a filter"));
    }
    let occupied = || TapError::Occupied { interface: interface.to_owned(), priority: place.priority };
    if is_occupied(&filters, place) {
        return Err(occupied());
    }
    match tc::add(place, &name, program) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(occupied()),
        added => added.map_err(failed("add a filter")),
    }
}

/// What an older set's tap has there, as the kernel shows it. `None`: it has no record.
pub(crate) fn held(theirs: &TapLinks, ours: &TapLinks, hook: Hook) -> Result<Option<Held>, TapError> {
    let Some(ifindex) = recorded(theirs, hook.pin())? else { return Ok(None) };
    let filters = filters(ifindex, side(hook))?;
    // Whoever died while it was taken over may have given it our name.
    let found = filters.iter().find(|filter| [theirs, ours].iter().any(|links| is_of(links, hook, filter)));
    let guarded = found.is_some_and(|filter| hook != Hook::Egress && filter.priority == LAST);
    Ok(Some(Held { ifindex: found.map_or(0, |_| ifindex), guarded }))
}

/// What one hook is attached to, as the kernel shows it.
pub(crate) fn state(links: &TapLinks, hook: Hook, tag: [u8; 8]) -> Result<LinkState, TapError> {
    let Some(ifindex) = recorded(links, hook.pin())? else { return Ok(LinkState::Gone) };
    let filters = filters(ifindex, side(hook))?;
    let found = filters.iter().find(|filter| is_of(links, hook, filter));
    let Some(ours) = found else { return Ok(LinkState::Gone) };
    let same = ours.tag == tag && ours.priority == priority(hook);
    Ok(if same { LinkState::Attached { ifindex } } else { LinkState::OtherProgram { ifindex } })
}

/// Takes one hook off, and clsact with it where we made that and nobody else uses it.
pub(crate) fn detach(links: &TapLinks, hook: Hook) -> Result<(), TapError> {
    if let Some(ifindex) = recorded(links, hook.pin())? {
        let mut was_there = false;
        for filter in filters(ifindex, side(hook))?.iter().filter(|filter| is_of(links, hook, filter)) {
            delete(ifindex, side(hook), filter)?;
            was_there = true;
        }
        // Where no filter of ours was, the interface may be another one by now, with the number of ours.
        if was_there && recorded(links, QDISC)? == Some(ifindex) && is_unused(ifindex)? {
            gone_is_fine(tc::delete_clsact(ifindex)).map_err(failed_at(ifindex)("remove the clsact"))?;
            forget(links, QDISC)?;
        }
        forget(links, hook.pin())?;
    }
    let hooks = Hook::of_tap(false).map(|hook| recorded(links, hook.pin()));
    if hooks.into_iter().collect::<Result<Vec<_>, _>>()?.iter().all(Option::is_none) {
        forget(links, QDISC)?;
    }
    Ok(())
}

/// Takes every tap of a set off that is recorded in its folder.
pub(crate) fn detach_all(set: &Path) -> Result<(), TapError> {
    let taps = set.join("taps");
    let entries = match fs::read_dir(&taps) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(pin_error("read", &taps)(error)),
    };
    for entry in entries {
        let folder = entry.map_err(pin_error("read", &taps))?.path();
        let Some(links) = TapLinks::of_folder(folder, Way::Clsact) else { continue };
        Hook::of_tap(false).into_iter().try_for_each(|hook| detach(&links, hook))?;
    }
    Ok(())
}

/// Takes every filter of ours off every interface of the calling thread's namespace, recorded or not. Says whether
/// there was any.
pub(crate) fn sweep() -> Result<bool, TapError> {
    let interfaces = if_nameindex().map_err(io::Error::from);
    let interfaces =
        interfaces.map_err(|source| TapError::Filters { what: "list the indices", ifindex: 0, source })?;
    let mut any = false;
    for ifindex in interfaces.iter().map(nix::net::if_::Interface::index) {
        for side in SIDES {
            for filter in filters(ifindex, side)?.iter().filter(|filter| is_ours(filter)) {
                delete(ifindex, side, filter)?;
                any = true;
            }
        }
    }
    Ok(any)
}

/// Sees to it that the interface has clsact. What another made is as good, and stays another's.
fn ensure_qdisc(links: &TapLinks, interface: &str, ifindex: u32) -> Result<(), TapError> {
    let failed = failed_at(ifindex);
    match tc::add_clsact(ifindex) {
        Ok(()) => record(links, QDISC, ifindex),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let kind = tc::qdisc(ifindex).map_err(failed("read the qdisc"))?;
            if kind.as_deref() != Some(tc::CLSACT) {
                return Err(TapError::Policed { interface: interface.to_owned() });
            }
            // Ours would have a filter of ours in it: this one may have been made anew by another.
            if recorded(links, QDISC)?.is_some() && !has_ours(links, ifindex)? {
                forget(links, QDISC)?;
            }
            Ok(())
        }
        Err(error) => Err(failed("add the clsact")(error)),
    }
}

fn has_ours(links: &TapLinks, ifindex: u32) -> Result<bool, TapError> {
    for hook in Hook::of_tap(false) {
        if filters(ifindex, side(hook))?.iter().any(|filter| is_of(links, hook, filter)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_unused(ifindex: u32) -> Result<bool, TapError> {
    for side in SIDES {
        if !filters(ifindex, side)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn filters(ifindex: u32, side: Side) -> Result<Vec<Filter>, TapError> {
    tc::filters(ifindex, side).map_err(failed_at(ifindex)("read the filters"))
}

fn delete(ifindex: u32, side: Side, filter: &Filter) -> Result<(), TapError> {
    let place = Place { ifindex, side, priority: filter.priority, handle: filter.handle };
    gone_is_fine(tc::delete(place)).map_err(failed_at(ifindex)("remove a filter"))
}

/// The filter, its qdisc or its interface went by themselves.
fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        done => done,
    }
}

fn failed_at(ifindex: u32) -> impl Fn(&'static str) -> Box<dyn Fn(io::Error) -> TapError> {
    move |what| Box::new(move |source| TapError::Filters { what, ifindex, source })
}

/// The interface that a record names. `None`: there is no record.
fn recorded(links: &TapLinks, name: &str) -> Result<Option<u32>, TapError> {
    let path = links.folder.join(name);
    match fs::read_link(&path) {
        Ok(target) => Ok(target.to_str().and_then(|index| index.parse().ok())),
        // Nothing, or a link of TCX.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            Ok(None)
        }
        Err(error) => Err(pin_error("read", &path)(error)),
    }
}

fn record(links: &TapLinks, name: &str, ifindex: u32) -> Result<(), TapError> {
    if recorded(links, name)? == Some(ifindex) {
        return Ok(());
    }
    forget(links, name)?;
    let path = links.folder.join(name);
    symlink(ifindex.to_string(), &path).map_err(pin_error("create", &path))
}

fn forget(links: &TapLinks, name: &str) -> Result<(), TapError> {
    let path = links.folder.join(name);
    // A link of TCX has the same name.
    if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
        return Ok(());
    }
    sys::unpin(&path).map_err(pin_error("remove", &path))
}
