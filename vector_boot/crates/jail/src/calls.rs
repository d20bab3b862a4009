//! The lists of system calls, one a profile: what is not here is refused.
//!
//! Derived by running every role under strace through its tests, then by what the C library, Rust's
//! runtime and the kernel do where those did not go: panics, aborts, allocations that fail, restarts of
//! calls. Names by libc's constants, so that both architectures have their own numbers.
//! Start with [`Calls::of`].

use crate::{Exec, Profile};
use std::collections::BTreeMap;

/// A list under construction: a call with no rule is allowed whatever its arguments are, one with
/// rules where one of them holds.
#[derive(Debug, Default)]
pub struct Calls {
    always: Vec<i64>,
    rules: BTreeMap<i64, Vec<Rule>>,
}

/// Tests that must all hold.
pub type Rule = Vec<Test>;

/// One test of an argument. Numbers are compared in their lower 32 bits, which is all that the kernel takes of
/// those that stand here; pointers whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The argument at this place is this.
    Is(u8, u32),
    /// The bits of the argument at this place that are in the mask are these.
    Bits(u8, u32, u32),
    /// The argument at this place is anything but this.
    Not(u8, u32),
    /// The pointer at this place is null.
    Null(u8),
}
use Test::{Bits, Is, Not, Null};

/// `mmap(2)`: PROT_EXEC.
const PROT_EXEC: u32 = libc::PROT_EXEC.unsigned_abs();
/// Every flag of `clone(2)` that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .unsigned_abs();
/// What makes a thread of this process and not another process.
const THREAD: u32 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND).unsigned_abs();
/// A socket's type without SOCK_NONBLOCK and SOCK_CLOEXEC.
const SOCKET_TYPE: u32 = 0xf;

impl Calls {
    /// The list of a profile, for this process: its own pid is part of it.
    #[must_use]
    pub fn of(profile: Profile, exec: Exec) -> Self {
        let mut calls = Self::default();
        calls.everybody();
        match profile {
            Profile::Ledger => calls.ledger(),
            Profile::Capacity => calls.capacity(),
            Profile::Gateway => calls.gateway(),
            Profile::Console => calls.console(),
            Profile::Net => calls.net(),
            Profile::Cortex => calls.cortex(),
            Profile::Witness => calls.witness(),
            Profile::Foreign => calls.foreign(),
            Profile::ForeignOnline => {
                calls.foreign();
                calls.internet_sockets();
            }
        }
        if let Exec::Parked(number) = exec {
            calls.start_of_a_program();
            calls.when(
                libc::SYS_execveat,
                &[Is(0, number), Is(4, sys::park::EXEC_FLAGS.unsigned_abs())],
            );
        }
        calls
    }

    /// How many calls are on it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
            + self
                .always
                .iter()
                .filter(|n| !self.rules.contains_key(n))
                .count()
    }

    /// Whether nothing is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The list as the compiler takes it.
    #[must_use]
    pub fn into_rules(mut self) -> BTreeMap<i64, Vec<Rule>> {
        for number in self.always {
            // Allowed always: rules would only narrow it.
            self.rules.insert(number, Vec::new());
        }
        self.rules
    }

    fn allow(&mut self, numbers: &[i64]) {
        for number in numbers {
            if !self.always.contains(number) {
                self.always.push(*number);
            }
        }
    }

    fn when(&mut self, number: i64, tests: &[Test]) {
        self.rules.entry(number).or_default().push(tests.to_vec());
    }

    /// Memory, time, signals to itself, descriptors that are open: what every program does.
    fn everybody(&mut self) {
        self.allow(&[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_close,
            libc::SYS_fstat,
            libc::SYS_statx,
            libc::SYS_newfstatat,
            libc::SYS_lseek,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_madvise,
            libc::SYS_futex,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_sigaltstack,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_restart_syscall,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_geteuid,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_getrandom,
            // Where the vDSO cannot answer: a machine whose clock source is no counter.
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            libc::SYS_ppoll,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_poll]);
        // W^X: no page is ever made executable; what runs was mapped by the kernel at the exec.
        self.when(libc::SYS_mmap, &[Bits(2, PROT_EXEC, 0)]);
        self.when(libc::SYS_mprotect, &[Bits(2, PROT_EXEC, 0)]);
        // abort() and raise(): to itself.
        self.when(libc::SYS_tgkill, &[Is(0, std::process::id())]);
        self.when(libc::SYS_prctl, &[Is(0, libc::PR_SET_NAME.unsigned_abs())]);
        // Limits may be read, its own alone (pid 0), and not set.
        self.when(libc::SYS_prlimit64, &[Is(0, 0), Null(2)]);
        self.fcntls(&[
            libc::F_GETFD,
            libc::F_SETFD,
            libc::F_GETFL,
            libc::F_SETFL,
            libc::F_DUPFD_CLOEXEC,
            // Whether a passed page is what it should be.
            libc::F_GET_SEALS,
        ]);
        self.ioctls(&[libc::TCGETS as u32, libc::FIONBIO as u32]);
    }

    /// Commands on descriptors; no other one is let through.
    fn fcntls(&mut self, commands: &[i32]) {
        for command in commands {
            self.when(libc::SYS_fcntl, &[Is(1, command.unsigned_abs())]);
        }
    }

    /// Requests on devices and sockets; no other one is let through.
    fn ioctls(&mut self, requests: &[u32]) {
        for request in requests {
            self.when(libc::SYS_ioctl, &[Is(1, *request)]);
        }
    }

    /// Threads, and no other processes.
    fn threads(&mut self) {
        self.when(libc::SYS_clone, &[Bits(0, THREAD | NAMESPACES, THREAD)]);
    }

    /// A table of descriptors for one thread, which closes there what strangers sent.
    fn own_descriptors(&mut self) {
        self.when(
            libc::SYS_unshare,
            &[Is(0, libc::CLONE_FILES.unsigned_abs())],
        );
    }

    /// Unix sockets of every type, and what is done with one that is open.
    fn local_sockets(&mut self) {
        self.when(
            libc::SYS_socket,
            &[Is(0, libc::AF_UNIX.unsigned_abs()), Is(2, 0)],
        );
        self.allow(&[
            libc::SYS_sendto,
            libc::SYS_recvfrom,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_shutdown,
        ]);
        let socket = libc::SOL_SOCKET.unsigned_abs();
        self.when(libc::SYS_getsockopt, &[Is(1, socket)]);
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            self.when(
                libc::SYS_setsockopt,
                &[Is(1, socket), Is(2, option.unsigned_abs())],
            );
        }
    }

    /// Every option of a socket but SO_LINGER: whoever closes the last handle of such a socket waits,
    /// and a socket can be sent to somebody who must not. What is dangerous needs capabilities.
    fn options_of_sockets(&mut self) {
        let socket = libc::SOL_SOCKET.unsigned_abs();
        let linger = libc::SO_LINGER.unsigned_abs();
        self.allow(&[libc::SYS_getsockopt]);
        self.when(libc::SYS_setsockopt, &[Not(1, socket)]);
        self.when(libc::SYS_setsockopt, &[Is(1, socket), Not(2, linger)]);
    }

    /// An event loop.
    fn events(&mut self) {
        self.allow(&[
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_signalfd4,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_epoll_wait]);
    }

    /// Opening files for reading and listing folders: where, says Landlock.
    fn files(&mut self) {
        self.allow(&[
            libc::SYS_openat,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_pread64,
            // What kind of file system an open file lies on, and how full it is.
            libc::SYS_fstatfs,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_readlink]);
    }

    /// One log, two listeners, a thread a connection, and files in its folder: the device key, which it keeps
    /// out of swap, objects, tiles and snapshots. It connects to nobody.
    fn ledger(&mut self) {
        self.threads();
        self.own_descriptors();
        self.local_sockets();
        self.events();
        self.files();
        self.allow(&[
            libc::SYS_accept4,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_fdatasync,
            libc::SYS_fsync,
            libc::SYS_ftruncate,
            libc::SYS_flock,
            // What a compaction dropped from a log in a file goes back to the file system.
            libc::SYS_fallocate,
            libc::SYS_mkdirat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
            libc::SYS_mlock,
            libc::SYS_mlock2,
            libc::SYS_munlock,
            // Zeros ahead of the log's end are on their way before they are waited for.
            libc::SYS_sync_file_range,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[
            libc::SYS_mkdir,
            libc::SYS_rename,
            libc::SYS_rmdir,
            libc::SYS_unlink,
        ]);
        self.ioctls(&[libc::BLKSSZGET as u32, BLKGETSIZE64]);
        // The committer, for itself.
        let real_time = sys::process::REAL_TIME.unsigned_abs();
        self.when(libc::SYS_sched_setscheduler, &[Is(0, 0), Is(1, real_time)]);
    }

    /// One listener, two clients, a file in its folder, what the kernel tells of load.
    fn capacity(&mut self) {
        self.threads();
        self.own_descriptors();
        self.local_sockets();
        self.events();
        self.files();
        self.allow(&[
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_rename, libc::SYS_unlink]);
    }

    /// One listener, two clients, files in its folder, and memory that it shares with proposers and PID 1. It may make
    /// such memory since it can execute nothing: neither `execve` nor `execveat` nor executable pages are on its list.
    fn cortex(&mut self) {
        self.threads();
        self.local_sockets();
        self.events();
        self.files();
        self.allow(&[
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_memfd_create,
            libc::SYS_pwrite64,
            libc::SYS_ftruncate,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_flock,
            libc::SYS_renameat,
            libc::SYS_renameat2,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_rename]);
        self.fcntls(&[libc::F_ADD_SEALS]);
        // What wakes a proposer and is rung by it.
        self.when(libc::SYS_socketpair, &[Is(0, libc::AF_UNIX.unsigned_abs())]);
        // How long the package's device is.
        self.ioctls(&[BLKGETSIZE64]);
    }

    /// Listeners, two clients, tools below its roots: every path is resolved by `openat2`.
    fn gateway(&mut self) {
        self.threads();
        self.local_sockets();
        self.events();
        self.allow(&[
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_eventfd2,
            libc::SYS_openat2,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_fstatfs,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_ftruncate,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_renameat,
            libc::SYS_unlinkat,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_readlink]);
        self.when(
            libc::SYS_setsockopt,
            &[
                Is(1, libc::IPPROTO_TCP.unsigned_abs()),
                Is(2, libc::TCP_NODELAY.unsigned_abs()),
            ],
        );
        // Only the question which ABI there is: no attributes, LANDLOCK_CREATE_RULESET_VERSION.
        self.when(libc::SYS_landlock_create_ruleset, &[Null(0), Is(2, 1)]);
    }

    /// A terminal, clients, reading the machine's state.
    fn console(&mut self) {
        self.threads();
        self.local_sockets();
        self.events();
        self.files();
        self.allow(&[libc::SYS_connect, libc::SYS_statfs]);
        self.ioctls(&[
            libc::TCSETS as u32,
            libc::TCSETSW as u32,
            libc::TCSETSF as u32,
            libc::TCFLSH as u32,
            libc::TIOCGWINSZ as u32,
            libc::BLKSSZGET as u32,
            BLKGETSIZE64,
        ]);
    }

    /// Links, addresses, packets.
    fn net(&mut self) {
        self.local_sockets();
        self.events();
        self.files();
        // UDP is all that is used; TCP of its own Landlock refuses where it knows it.
        self.internet_sockets();
        self.options_of_sockets();
        self.when(libc::SYS_socket, &[Is(0, libc::AF_PACKET.unsigned_abs())]);
        // Of the families of netlink only NETLINK_ROUTE: links and addresses.
        self.when(
            libc::SYS_socket,
            &[Is(0, libc::AF_NETLINK.unsigned_abs()), Is(2, 0)],
        );
        self.allow(&[
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_getsockname,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            // The host's name, for the DHCP server.
            libc::SYS_uname,
            // resolv.conf, whole or not at all.
            libc::SYS_fchmod,
            libc::SYS_fsync,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_rename, libc::SYS_unlink]);
    }

    /// Two clients: the ledger's, and one of a peer elsewhere, over TCP. It listens to nobody and opens no file.
    fn witness(&mut self) {
        self.local_sockets();
        self.events();
        self.sockets_of(libc::SOCK_STREAM, libc::IPPROTO_TCP);
        self.allow(&[libc::SYS_connect]);
    }

    /// TCP and UDP, and nothing raw.
    fn internet_sockets(&mut self) {
        self.sockets_of(libc::SOCK_STREAM, libc::IPPROTO_TCP);
        self.sockets_of(libc::SOCK_DGRAM, libc::IPPROTO_UDP);
    }

    /// One protocol over IPv4 and IPv6.
    fn sockets_of(&mut self, kind: i32, protocol: i32) {
        for domain in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [0, protocol] {
                self.when(
                    libc::SYS_socket,
                    &[
                        Is(0, domain.unsigned_abs()),
                        Bits(1, SOCKET_TYPE, kind.unsigned_abs()),
                        Is(2, protocol.unsigned_abs()),
                    ],
                );
            }
        }
    }

    /// A static program of any language: threads, processes, files, sockets.
    fn foreign(&mut self) {
        self.local_sockets();
        self.options_of_sockets();
        self.events();
        self.files();
        self.when(libc::SYS_socketpair, &[Is(0, libc::AF_UNIX.unsigned_abs())]);
        // Threads and processes, never a namespace.
        self.when(libc::SYS_clone, &[Bits(0, NAMESPACES, 0)]);
        self.allow(&[
            // Sockets.
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_connect,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_sendmmsg,
            libc::SYS_recvmmsg,
            // Descriptors.
            libc::SYS_readv,
            libc::SYS_pipe2,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_eventfd2,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_timerfd_gettime,
            libc::SYS_inotify_init1,
            libc::SYS_inotify_add_watch,
            libc::SYS_inotify_rm_watch,
            libc::SYS_epoll_pwait2,
            libc::SYS_pselect6,
            libc::SYS_close_range,
            // Files.
            libc::SYS_openat2,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_statfs,
            libc::SYS_fstatfs,
            libc::SYS_getcwd,
            libc::SYS_chdir,
            libc::SYS_fchdir,
            libc::SYS_umask,
            libc::SYS_mkdirat,
            libc::SYS_unlinkat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            libc::SYS_utimensat,
            libc::SYS_truncate,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_fadvise64,
            libc::SYS_flock,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_pwrite64,
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_sendfile,
            libc::SYS_splice,
            libc::SYS_copy_file_range,
            // Processes of its own; to whom it may send signals is decided by uid and by Landlock.
            libc::SYS_wait4,
            libc::SYS_waitid,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_getppid,
            libc::SYS_getpgid,
            libc::SYS_setpgid,
            libc::SYS_getsid,
            libc::SYS_setsid,
            libc::SYS_getuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_getresuid,
            libc::SYS_getresgid,
            libc::SYS_getgroups,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_rt_sigpending,
            libc::SYS_rt_sigsuspend,
            // Time.
            libc::SYS_nanosleep,
            libc::SYS_clock_getres,
            libc::SYS_gettimeofday,
            libc::SYS_setitimer,
            libc::SYS_getitimer,
            libc::SYS_timer_create,
            libc::SYS_timer_settime,
            libc::SYS_timer_gettime,
            libc::SYS_timer_getoverrun,
            libc::SYS_timer_delete,
            // Memory and the machine.
            libc::SYS_mincore,
            libc::SYS_msync,
            libc::SYS_mlock,
            libc::SYS_mlock2,
            libc::SYS_munlock,
            libc::SYS_membarrier,
            libc::SYS_getcpu,
            libc::SYS_getpriority,
            libc::SYS_sched_getparam,
            libc::SYS_sched_getscheduler,
            libc::SYS_getrusage,
            libc::SYS_times,
            libc::SYS_sysinfo,
            libc::SYS_uname,
        ]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[
            libc::SYS_open,
            libc::SYS_creat,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_access,
            libc::SYS_getdents,
            libc::SYS_mkdir,
            libc::SYS_rmdir,
            libc::SYS_unlink,
            libc::SYS_rename,
            libc::SYS_link,
            libc::SYS_symlink,
            libc::SYS_chmod,
            libc::SYS_utimes,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_getpgrp,
            libc::SYS_getrlimit,
            libc::SYS_pipe,
            libc::SYS_dup2,
            libc::SYS_select,
            libc::SYS_epoll_create,
            libc::SYS_eventfd,
            libc::SYS_alarm,
            libc::SYS_pause,
            libc::SYS_time,
        ]);
        self.fcntls(&[
            libc::F_DUPFD,
            libc::F_GETLK,
            libc::F_SETLK,
            libc::F_SETLKW,
            libc::F_OFD_GETLK,
            libc::F_OFD_SETLK,
            libc::F_OFD_SETLKW,
            libc::F_GETPIPE_SZ,
            libc::F_SETPIPE_SZ,
        ]);
        for option in [
            libc::PR_GET_NAME,
            libc::PR_SET_PDEATHSIG,
            libc::PR_GET_PDEATHSIG,
            libc::PR_GET_NO_NEW_PRIVS,
            libc::PR_GET_DUMPABLE,
        ] {
            self.when(libc::SYS_prctl, &[Is(0, option.unsigned_abs())]);
        }
        self.ioctls(&[
            libc::FIOCLEX as u32,
            libc::FIONCLEX as u32,
            libc::FIONREAD as u32,
            libc::TIOCGWINSZ as u32,
            libc::TIOCGPGRP as u32,
        ]);
    }

    /// What a static program does before its `main`, in every libc.
    fn start_of_a_program(&mut self) {
        self.allow(&[libc::SYS_set_tid_address]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_arch_prctl]);
        self.allow(&[libc::SYS_readlinkat]);
        #[cfg(target_arch = "x86_64")]
        self.allow(&[libc::SYS_readlink]);
    }
}

/// linux/fs.h: `_IOR(0x12, 114, size_t)`, the bytes of a block device.
const BLKGETSIZE64: u32 = 0x8008_1272;

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that no profile lists, whatever it is for.
    const NEVER: &[i64] = &[
        libc::SYS_execve,
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_clone3,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_memfd_create,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_personality,
        libc::SYS_seccomp,
        libc::SYS_setrlimit,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_setgroups,
        libc::SYS_capset,
        libc::SYS_mknodat,
        libc::SYS_open_by_handle_at,
        libc::SYS_clock_settime,
        libc::SYS_pkey_mprotect,
        libc::SYS_shmat,
        libc::SYS_vmsplice,
    ];
    /// Calls that are let through with a look at their arguments only.
    const LOOKED_AT: &[i64] = &[
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_clone,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_setsockopt,
        libc::SYS_ioctl,
        libc::SYS_fcntl,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_unshare,
        libc::SYS_execveat,
        libc::SYS_landlock_create_ruleset,
    ];

    #[test]
    fn no_list_holds_what_none_may_or_holds_it_unseen() {
        for profile in Profile::all() {
            for exec in [Exec::Never, Exec::Parked(63)] {
                let rules = Calls::of(profile, exec).into_rules();
                for number in NEVER {
                    // It executes nothing, so it may make memory files.
                    let memory = profile == Profile::Cortex && *number == libc::SYS_memfd_create;
                    assert_eq!(rules.contains_key(number), memory, "{profile:?}: {number}");
                }
                for number in LOOKED_AT {
                    let seen = rules.get(number).is_none_or(|tests| !tests.is_empty());
                    assert!(seen, "{profile:?}: {number}");
                }
                let may = rules.contains_key(&libc::SYS_execveat);
                assert_eq!(may, exec != Exec::Never, "{profile:?}");
            }
        }
    }

    #[test]
    fn our_own_roles_start_no_processes_and_only_some_connect() {
        let has = |profile, number| {
            let rules = Calls::of(profile, Exec::Never).into_rules();
            rules.contains_key(&number)
        };
        for profile in Profile::all() {
            let foreign = matches!(profile, Profile::Foreign | Profile::ForeignOnline);
            assert_eq!(has(profile, libc::SYS_kill), foreign, "{profile:?}");
            assert_eq!(has(profile, libc::SYS_wait4), foreign, "{profile:?}");
            assert_eq!(has(profile, libc::SYS_listen), foreign, "{profile:?}");
            let connects = profile != Profile::Ledger;
            assert_eq!(has(profile, libc::SYS_connect), connects, "{profile:?}");
            let opens = !matches!(profile, Profile::Gateway | Profile::Witness);
            assert_eq!(has(profile, libc::SYS_openat), opens, "{profile:?}");
        }
    }
}
