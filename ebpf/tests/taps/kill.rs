//! A process that is killed as it asks the kernel for its n-th change.
//!
//! Owns ptrace(2). Counted are the calls that change what outlives a process here: pins, folders, entries of maps, what
//! a link runs; and whatever netlink is asked.
#![expect(unsafe_code, reason = "fork and ptrace have no safe wrapper")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// `bpf(2)`: `BPF_MAP_UPDATE_ELEM`, `BPF_OBJ_PIN`, `BPF_LINK_UPDATE`, `BPF_LINK_DETACH`.
const CHANGES: [u64; 4] = [2, 6, 29, 34];
const PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
const ENTRY: u8 = 1;

/// `struct ptrace_syscall_info`, as far as a call's entry.
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: u64,
    arguments: [u64; 6],
    rest: [u64; 2],
}

/// Runs `job` in a process of its own that is killed before its `nth` change, counted from 0. `Some(false)`: it ended
/// well before; `Some(true)`: it was killed; `None`: it failed.
pub(crate) fn killed_at(nth: usize, job: impl FnOnce()) -> Option<bool> {
    // SAFETY: the child has one thread and ends in `_exit`; the C library makes its allocator usable there.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Child => {
            // SAFETY: no pointer is used by this request, and the parent waits for the stop.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
            let done = catch_unwind(AssertUnwindSafe(job));
            // SAFETY: ends this process without running what the parent's threads have registered.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        ForkResult::Parent { child } => follow(child, nth),
    }
}

fn follow(child: Pid, nth: usize) -> Option<bool> {
    let wait = || waitpid(child, Some(WaitPidFlag::__WALL)).expect("our child");
    assert!(matches!(wait(), WaitStatus::Stopped(_, Signal::SIGSTOP)), "it stops first");
    request(child, libc::PTRACE_SETOPTIONS, 0, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL);
    let (mut changes, mut signal) = (0, 0);
    loop {
        request(child, libc::PTRACE_SYSCALL, 0, signal);
        signal = 0;
        match wait() {
            WaitStatus::PtraceSyscall(_) => {
                if !about_to_change(child) {
                    continue;
                }
                if changes == nth {
                    kill(child, Signal::SIGKILL).expect("it lives");
                    while !matches!(wait(), WaitStatus::Signaled(_, Signal::SIGKILL, _)) {}
                    return Some(true);
                }
                changes += 1;
            }
            WaitStatus::Stopped(_, other) => signal = other as i32,
            WaitStatus::Exited(_, 0) => return Some(false),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return None,
            _ => {}
        }
    }
}

fn about_to_change(child: Pid) -> bool {
    let mut info = SyscallInfo::default();
    // SAFETY: the address is that of `info`, which is as long as is said and lives through the call.
    let got = unsafe {
        libc::ptrace(PTRACE_GET_SYSCALL_INFO, child.as_raw(), size_of::<SyscallInfo>(), &raw mut info)
    };
    assert!(got > 0, "{}", io::Error::last_os_error());
    let number = libc::c_long::try_from(info.number).unwrap_or(-1);
    let files = [libc::SYS_renameat2, libc::SYS_renameat, libc::SYS_mkdirat, libc::SYS_unlinkat];
    let filters = [libc::SYS_symlinkat, libc::SYS_sendto].contains(&number);
    let files = filters || files.contains(&number) || legacy().contains(&number);
    info.op == ENTRY && (files || number == libc::SYS_bpf && CHANGES.contains(&info.arguments[0]))
}

/// What newer architectures have under other names alone.
fn legacy() -> Vec<libc::c_long> {
    #[cfg(target_arch = "x86_64")]
    return vec![libc::SYS_rename, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_symlink];
    #[cfg(not(target_arch = "x86_64"))]
    return Vec::new();
}

fn request(child: Pid, request: u32, address: usize, data: i32) {
    // SAFETY: these requests take numbers and no pointers.
    let answer = unsafe { libc::ptrace(request, child.as_raw(), address, libc::c_long::from(data)) };
    assert!(answer == 0 || Errno::last() == Errno::ESRCH, "{}", io::Error::last_os_error());
}
