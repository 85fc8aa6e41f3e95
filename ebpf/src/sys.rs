//! The bpf(2) calls that aya has no word for: batches over a map, and what a link is attached to.
//!
//! Owns raw attributes; nothing outside sees one. Sizes of keys and values come from the types. Numbers and layouts
//! are those of `include/uapi/linux/bpf.h`.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
const BPF_LINK_DETACH: libc::c_long = 34;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// Hash buckets are copied whole: what does not fit is asked for again with more room (ENOSPC).
const BATCH: usize = 4096;
/// Room for the values of a batch: those of a map that is kept per processor are long.
const MOST_BYTES: usize = 4 << 20;

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a repr(C) prefix of `union bpf_attr` for this command, its size is given, and every pointer
    // in it refers to memory that outlives the call and has the length that the command uses.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(answer).unwrap_or(i32::MAX))
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn address<T>(memory: &mut [T]) -> u64 {
    memory.as_mut_ptr() as u64
}

/// Visits every entry of a hash map that nobody writes to, and takes it out.
pub(crate) fn take_each<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<usize> {
    walk::<K, V>(BPF_MAP_LOOKUP_AND_DELETE_BATCH, map, [1, 1], |key, value| visit(&key[0], &value[0]))
}

/// Visits every entry of a map whose types are not ours: keys and values as bytes, of these lengths. Of a map that is
/// kept per processor a value is that of all of them, one after the other, each padded to eight bytes.
pub(crate) fn for_each_raw(
    map: BorrowedFd<'_>,
    lengths: [usize; 2],
    visit: impl FnMut(&[u8], &[u8]),
) -> io::Result<usize> {
    walk::<u8, u8>(BPF_MAP_LOOKUP_BATCH, map, lengths, visit)
}

/// Visits every entry of a hash map that others go on writing to: what comes or goes meanwhile may be missing.
pub(crate) fn for_each<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<usize> {
    walk::<K, V>(BPF_MAP_LOOKUP_BATCH, map, [1, 1], |key, value| visit(&key[0], &value[0]))
}

/// Empties a hash map that nobody writes to. Says how many entries there were.
pub(crate) fn clear<K: Pod + Default, V: Pod + Default>(map: BorrowedFd<'_>) -> io::Result<usize> {
    walk::<K, V>(BPF_MAP_LOOKUP_AND_DELETE_BATCH, map, [1, 1], |_, _| ())
}

/// A key is so many `K`, a value so many `V`.
fn walk<K: Pod + Default, V: Pod + Default>(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    [key_len, value_len]: [usize; 2],
    mut visit: impl FnMut(&[K], &[V]),
) -> io::Result<usize> {
    let batch = (MOST_BYTES / (value_len * size_of::<V>())).clamp(16, BATCH);
    let mut keys = vec![K::default(); batch * key_len];
    let mut values = vec![V::default(); batch * value_len];
    let (mut from, mut to) = ([0_u32; 2], [0_u32; 2]);
    let (mut total, mut started) = (0, false);
    loop {
        let mut attr = BatchAttr {
            in_batch: if started { address(&mut from) } else { 0 },
            out_batch: address(&mut to),
            keys: address(&mut keys),
            values: address(&mut values),
            count: u32::try_from(keys.len() / key_len).unwrap_or(u32::MAX),
            map_fd: map.as_raw_fd().unsigned_abs(),
            ..BatchAttr::default()
        };
        let answer = bpf(command, &mut attr);
        let last = match &answer {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                keys.resize(keys.len() * 2, K::default());
                values.resize(values.len() * 2, V::default());
                continue;
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(_) => return answer.map(|_| total),
        };
        let count = (attr.count as usize).min(keys.len() / key_len);
        for (key, value) in keys.chunks(key_len).zip(values.chunks(value_len)).take(count) {
            visit(key, value);
        }
        total += count;
        if last {
            return Ok(total);
        }
        (from, started) = (to, true);
    }
}

const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Part of a per-processor array: `count` entries from `first` on, each with a value for every possible processor.
/// Reads them, or with `write` sets them. Values are padded to eight bytes, as ours are.
fn part<V: Pod + Default>(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    first: u32,
    values: &mut [V],
    keys: &mut [u32],
) -> io::Result<()> {
    let (mut before, mut out) = ([first.wrapping_sub(1)], [0_u32]);
    let mut attr = BatchAttr {
        in_batch: if first == 0 { 0 } else { address(&mut before) },
        out_batch: address(&mut out),
        keys: address(keys),
        values: address(values),
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().unsigned_abs(),
        ..BatchAttr::default()
    };
    match bpf(command, &mut attr) {
        Ok(_) => {}
        // The array ends with this part.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if attr.count as usize == keys.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINTR)) }
}

/// Reads a part of a per-processor array.
pub(crate) fn read_part<V: Pod + Default>(map: BorrowedFd<'_>, first: u32, count: u32) -> io::Result<Vec<V>> {
    let mut keys = vec![0; count as usize];
    let mut values = vec![V::default(); count as usize * possible_processors() as usize];
    part(BPF_MAP_LOOKUP_BATCH, map, first, &mut values, &mut keys)?;
    Ok(values)
}

/// Sets a part of a per-processor array to nothing.
pub(crate) fn clear_part<V: Pod + Default>(map: BorrowedFd<'_>, first: u32, count: u32) -> io::Result<()> {
    let mut keys: Vec<u32> = (first..first + count).collect();
    let mut values = vec![V::default(); count as usize * possible_processors() as usize];
    part(BPF_MAP_UPDATE_BATCH, map, first, &mut values, &mut keys)
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Waits until no BPF program that runs now can still be running. An update of a map of maps does that in the kernel
/// (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`): it is documented as the way to wait (commit 1ae80cf31938).
pub(crate) struct Barrier {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Barrier {
    pub(crate) fn new() -> io::Result<Self> {
        let create = |map_type, inner: u32| {
            let mut attr = MapCreateAttr {
                map_type,
                key_size: 4,
                value_size: 4,
                max_entries: 1,
                inner_map_fd: inner,
                ..MapCreateAttr::default()
            };
            attr.map_name[..10].copy_from_slice(b"tl_barrier");
            bpf(BPF_MAP_CREATE, &mut attr).map(owned)
        };
        let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd().unsigned_abs())?;
        Ok(Self { outer, inner })
    }

    /// Blocks, 10–50 ms as measured. Never on a runtime's worker.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (mut key, mut value) = ([0_u32], [self.inner.as_raw_fd().unsigned_abs()]);
        let mut attr = MapElemAttr {
            map_fd: self.outer.as_raw_fd().unsigned_abs(),
            key: address(&mut key),
            value: address(&mut value),
            ..MapElemAttr::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
    }
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `struct bpf_link_info`, the part that a TCX link fills.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawLinkInfo {
    kind: u32,
    /// The link's number.
    pub(crate) id: u32,
    /// The attached program's number.
    pub(crate) program: u32,
    pad: u32,
    /// Interface; 0 once the link is detached or the interface gone.
    pub(crate) ifindex: u32,
    attach_type: u32,
    rest: [u64; 8],
}

/// Opens what is pinned somewhere. `None`: nothing is.
fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, ..ObjAttr::default() };
    match bpf(BPF_OBJ_GET, &mut attr) {
        Ok(fd) => Ok(Some(owned(fd))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a pinned link is attached to. `None`: nothing is pinned there.
pub(crate) fn pinned_link(path: &Path) -> io::Result<Option<RawLinkInfo>> {
    let Some(link) = pinned(path)? else { return Ok(None) };
    let found: RawLinkInfo = info(link.as_fd())?;
    if found.kind != BPF_LINK_TYPE_TCX {
        return Err(io::Error::other(format!("{} is no TCX link", path.display())));
    }
    Ok(Some(found))
}

/// `struct bpf_prog_info`, as far as the name.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    /// A hash of its instructions, equal for equal code whatever maps it uses.
    pub(crate) tag: [u8; 8],
    /// The first 15 bytes of its name, and a zero.
    pub(crate) name: [u8; 16],
}

fn info<T: Default>(of: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = [T::default()];
    let mut attr = InfoAttr {
        bpf_fd: of.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<T>()).unwrap_or(0),
        info: address(&mut info),
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [info] = info;
    Ok(info)
}

/// A loaded program's tag and name.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let RawProgramInfo { tag, name, .. } = info(program)?;
    Ok(ProgramInfo { tag, name })
}

/// A program by its number. `None`: it is gone.
pub(crate) fn program_by_id(program: u32) -> io::Result<Option<ProgramInfo>> {
    let mut attr = IdAttr { id: program, ..IdAttr::default() };
    match bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) {
        Ok(fd) => program_info(owned(fd).as_fd()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `struct bpf_map_info`, as far as its types.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawMapInfo {
    pub(crate) kind: u32,
    id: u32,
    /// Bytes.
    pub(crate) key_size: u32,
    /// Bytes; of a map that is kept per processor, those of one.
    pub(crate) value_size: u32,
    /// Most entries.
    pub(crate) max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_vmlinux_value_type_id: u32,
    netns: [u64; 2],
    /// The number of the BTF that describes it; 0 for none.
    pub(crate) btf: u32,
    /// The type of its keys there.
    pub(crate) key_type: u32,
    /// The type of its values there.
    pub(crate) value_type: u32,
    pad: u32,
    map_extra: u64,
}

impl RawMapInfo {
    /// Whether every processor has a value of its own.
    pub(crate) fn per_processor(&self) -> bool {
        self.kind == BPF_MAP_TYPE_PERCPU_ARRAY
    }
}

/// A pinned map. `None`: nothing is pinned there.
pub(crate) fn pinned_map(path: &Path) -> io::Result<Option<(OwnedFd, RawMapInfo)>> {
    let Some(map) = pinned(path)? else { return Ok(None) };
    let found = info(map.as_fd())?;
    Ok(Some((map, found)))
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawBtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// The type information of this number, as bytes.
pub(crate) fn btf(id: u32) -> io::Result<Vec<u8>> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    let btf = owned(bpf(BPF_BTF_GET_FD_BY_ID, &mut attr)?);
    let RawBtfInfo { btf_size, .. } = info(btf.as_fd())?;
    let mut bytes = vec![0_u8; btf_size as usize];
    let mut asked = [RawBtfInfo { btf: address(&mut bytes), btf_size, ..RawBtfInfo::default() }];
    let mut attr = InfoAttr {
        bpf_fd: btf.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<RawBtfInfo>()).unwrap_or(0),
        info: address(&mut asked),
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(bytes)
}

/// One of our structs from its bytes. `None`: they are of another length.
pub(crate) fn of_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: `T` may be read from any bytes, as its `Pod` says, and there are as many as it has.
    (bytes.len() == size_of::<T>()).then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<T>()) })
}

/// Takes a pinned link off its interface, now: without this it goes some time after its pin, and until then the
/// kernel refuses the same program there (EEXIST).
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    let Some(link) = pinned(path)? else { return Ok(()) };
    let mut attr = link.as_raw_fd();
    bpf(BPF_LINK_DETACH, &mut attr).map(|_| ())
}

/// Removes a pin; that it is gone already is as good.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds: the programs' clock.
pub(crate) fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// One of the kernel's ticks (`TICK_NSEC`), nanoseconds: the coarse clocks' resolution (`kernel/time/posix-timers.c`).
pub(crate) fn tick() -> u64 {
    let tick =
        nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).map(std::time::Duration::from);
    tick.map_or(0, |tick| u64::try_from(tick.as_nanos()).unwrap_or(0))
}

/// Processors that the kernel may ever use: maps that are kept per processor have a value for each.
pub fn possible_processors() -> u32 {
    aya::util::nr_cpus().ok().and_then(|count| u32::try_from(count).ok()).unwrap_or(1)
}
