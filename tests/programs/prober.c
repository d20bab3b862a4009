/* Tries what no service may do, from inside its jail. One line a try: `NAME refused ERROR` or `NAME ALLOWED`.
 *
 *   prober PROFILE [brief] [stay] [file=PATH] [peer=PID] [socket=PATH] [may=NAME] ...
 *
 * PROFILE says what may be allowed; `brief` leaves out the lines of refusals; `stay` does not end, as a service does not; the others add a file that must not be
 * opened, a process that must not be touched, a Unix socket that must not be reached, a try that may succeed here.
 * `prober as-32-bit` makes one call of another architecture, which must be its end.
 * Ends with `prober: profile=P tried=N allowed=M`, and M as its exit code. A try that is allowed is undone.
 * Nothing but the number of the error decides: a call that fails for another reason than permission was let through. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Newer than the headers of the oldest host. */
#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

static const char *profile, *brief, *stay;
static int tried, allowed;
static const char *may[64];
static int may_count;

/* ---- judging ---- */

enum kind { CALL, FILES, EXEC };

static int is_refusal(enum kind kind, int error)
{
    if (error == EPERM || error == EACCES || error == ENOSYS)
        return 1;
    /* A file that is not there cannot be opened, one on a read-only disk not written. */
    if (kind == FILES && (error == ENOENT || error == ENOTDIR || error == ENXIO || error == EROFS || error == ELOOP))
        return 1;
    /* No such number, no link followed, no number to be had. */
    return kind == EXEC && (error == EBADF || error == ELOOP || error == EMFILE || error == EINVAL || error == ENOENT);
}

static int is_expected(const char *name)
{
    for (int i = 0; i < may_count; i++)
        if (strcmp(may[i], name) == 0)
            return 1;
    return 0;
}

static void judge(enum kind kind, const char *name, long result)
{
    int error = result < 0 ? errno : 0;
    tried++;
    if (result < 0 && is_refusal(kind, error)) {
        if (!brief)
            printf("%s refused %s\n", name, strerrorname_np(error));
    } else if (is_expected(name)) {
        if (!brief)
            printf("%s allowed, as expected\n", name);
    } else {
        allowed++;
        printf("%s ALLOWED %s\n", name, result < 0 ? strerrorname_np(error) : "");
    }
    fflush(stdout);
}

#define TRY(name, expression) judge(CALL, name, (errno = 0, (long)(expression)))

#define TRY_FILE(name, expression) judge(FILES, name, (errno = 0, (long)(expression)))

/* A descriptor that was given is closed again. */
static long closed(long fd)
{
    if (fd >= 0)
        close((int)fd);
    return fd;
}

/* ---- files ---- */

/* By every call that opens. */
static int opened(const char *path, int flags, int mode)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = { flags, flags & O_CREAT ? mode : 0, 0 };
    int fd = openat(AT_FDCWD, path, flags, mode);
    if (fd < 0 && is_refusal(CALL, errno))
        fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
#ifdef __x86_64__
    if (fd < 0 && is_refusal(CALL, errno))
        fd = (int)syscall(SYS_open, path, flags, mode);
#endif
    return fd;
}

static void try_open(const char *name, const char *path, int flags)
{
    judge(FILES, name, closed(opened(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600)));
}

static void try_read(const char *path)
{
    char name[300];
    snprintf(name, sizeof name, "read:%s", path);
    try_open(name, path, O_RDONLY);
}

static void try_write(const char *path)
{
    char name[300];
    snprintf(name, sizeof name, "write:%s", path);
    try_open(name, path, O_WRONLY);
}

static void try_create(const char *folder)
{
    char name[300], path[300];
    snprintf(name, sizeof name, "create:%s", folder);
    snprintf(path, sizeof path, "%s/prober.%d", folder, getpid());
    int fd = opened(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    judge(FILES, name, fd);
    if (fd >= 0) {
        close(fd);
        unlinkat(AT_FDCWD, path, 0);
    }
}

static void files(void)
{
    static const char *const read[] = {
        "/etc/shadow", "/etc/passwd", "/data", "/data/service.ledger", "/data/service.capacity/leases", "/data/work",
        "/dev/mem", "/dev/kmem", "/dev/port", "/dev/vda", "/dev/vdb", "/dev/vdb1", "/dev/hvc0", "/dev/ttyS0", "/dev/ttyAMA0",
        "/dev/console", "/dev/watchdog", "/dev/input/event0", "/dev/cpu/0/msr", "/proc/kcore", "/proc/kallsyms",
        "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/syscall", "/proc/1/root", "/proc/1/cwd",
        "/proc/1/exe", "/proc/1/fd", "/proc/1/fdinfo", "/proc/1/ns/mnt", "/proc/sysrq-trigger", "/sys/kernel/debug",
        "/sys/firmware/qemu_fw_cfg/by_name/opt/vb/token/raw", "/root", "/lib/modules", "/boot",
    };
    static const char *const write[] = {
        "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
        "/proc/1/oom_score_adj", "/proc/1/mem", "/proc/1/comm", "/proc/self/uid_map", "/proc/self/mem",
        "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/vb/cgroup.subtree_control", "/sys/fs/cgroup/vb/system/ledger/cgroup.kill",
        "/sys/fs/cgroup/vb/system/ledger/memory.max", "/sys/fs/cgroup/vb/system/prober/memory.max",
        "/sys/fs/cgroup/vb/system/prober/cgroup.procs", "/sys/kernel/uevent_helper", "/sys/power/state", "/dev/kmsg",
        "/dev/vda", "/dev/vdb", "/dev/vdb1", "/dev/watchdog", "/dev/console", "/dev/hvc0", "/dev/ttyS0", "/dev/rtc0",
        "/run/vb/resolv.conf", "/etc/resolv.conf",
    };
    static const char *const create[] = {
        "/", "/run", "/run/vb", "/run/vb/notify", "/data", "/data/work", "/data/service.ledger", "/dev", "/dev/shm",
        "/sys/fs/cgroup", "/sys/fs/cgroup/vb", "/etc", "/var/tmp", "/home",
    };
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        try_read(read[i]);
    for (size_t i = 0; i < sizeof write / sizeof *write; i++)
        try_write(write[i]);
    for (size_t i = 0; i < sizeof create / sizeof *create; i++)
        try_create(create[i]);
    /* What /proc tells of everybody. */
    try_read("/proc");
    try_read("/proc/1/stat");
    try_read("/proc/1/cmdline");
    try_read("/sys");
    TRY_FILE("mkdir-cgroup", mkdirat(AT_FDCWD, "/sys/fs/cgroup/prober", 0700));
    TRY_FILE("chown", fchownat(AT_FDCWD, "/dev/null", getuid(), getgid(), 0));
    TRY_FILE("chmod-null", fchmodat(AT_FDCWD, "/dev/null", 0666, 0));
    TRY_FILE("setxattr", syscall(SYS_setxattr, "/", "user.x", "y", 1, 0));
    const char *folder = getenv("VB_DATA") ? getenv("VB_DATA") : "/tmp";
    char path[300];
    snprintf(path, sizeof path, "%s/prober-node.%d", folder, getpid());
    judge(FILES, "mknod-char", mknodat(AT_FDCWD, path, S_IFCHR | 0600, 0x103));
    unlinkat(AT_FDCWD, path, 0);
    judge(FILES, "mknod-block", mknodat(AT_FDCWD, path, S_IFBLK | 0600, 0xfe00));
    unlinkat(AT_FDCWD, path, 0);
    struct {
        unsigned bytes;
        int type;
        unsigned char handle[64];
    } handle = { 8, 1, { 0 } };
    int here = opened(folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0), mount;
    TRY_FILE("name_to_handle_at", syscall(SYS_name_to_handle_at, here, "", &handle, &mount, AT_EMPTY_PATH));
    TRY_FILE("open_by_handle_at", closed(syscall(SYS_open_by_handle_at, here, &handle, O_RDONLY)));
    closed(here);
}

/* ---- the kernel ---- */

static void machine(void)
{
    char name[65] = "";
    /* Times and clocks that do not exist: whoever may set clocks gets another error. */
    struct timespec now = { 0, 0 };
    struct timeval wrong = { 0, -1 };
    gethostname(name, sizeof name);
    TRY("mount", mount("none", "/nonexistent", "tmpfs", 0, NULL));
    TRY("mount-bind", mount("/", "/nonexistent", NULL, MS_BIND, NULL));
    TRY("mount-proc", mount("proc", "/nonexistent", "proc", 0, NULL));
    TRY("umount", umount2("/nonexistent", 0));
    TRY("remount", mount(NULL, "/nonexistent", NULL, MS_REMOUNT | MS_BIND, NULL));
    TRY("fsopen", closed(syscall(SYS_fsopen, "tmpfs", 0)));
    TRY("fsmount", closed(syscall(SYS_fsmount, -1, 0, 0)));
    TRY("fspick", closed(syscall(SYS_fspick, AT_FDCWD, "/", 0)));
    TRY("open_tree", closed(syscall(SYS_open_tree, AT_FDCWD, "/", 1)));
    TRY("move_mount", syscall(SYS_move_mount, -1, "", -1, "", 0));
    TRY("mount_setattr", syscall(SYS_mount_setattr, -1, "", 0, NULL, 0));
    TRY("pivot_root", syscall(SYS_pivot_root, "/", "/"));
    TRY("chroot", chroot("/"));
    TRY("swapon", syscall(SYS_swapon, "/nonexistent", 0));
    TRY("swapoff", syscall(SYS_swapoff, "/nonexistent"));
    TRY("acct", syscall(SYS_acct, "/nonexistent"));
    TRY("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    TRY("quotactl_fd", syscall(SYS_quotactl_fd, -1, 0, 0, NULL));
    TRY("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0xbadc0de, NULL));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 17, NULL, 0xffff0000));
#ifdef SYS_kexec_file_load
    TRY("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, NULL, 0xffffUL));
#endif
    TRY("init_module", syscall(SYS_init_module, NULL, 0, ""));
    TRY("finit_module", syscall(SYS_finit_module, -1, "", 0));
    TRY("delete_module", syscall(SYS_delete_module, "nonexistent", O_NONBLOCK));
    TRY("sethostname", sethostname(name, strlen(name)));
    TRY("setdomainname", setdomainname("", 0));
    TRY("clock_settime", syscall(SYS_clock_settime, CLOCK_MONOTONIC, &now));
    TRY("settimeofday", syscall(SYS_settimeofday, &wrong, NULL));
    TRY("adjtimex", syscall(SYS_adjtimex, NULL));
    TRY("clock_adjtime", syscall(SYS_clock_adjtime, CLOCK_REALTIME, NULL));
    TRY("syslog", syscall(SYS_syslog, 3, name, 1));
    TRY("bpf", closed(syscall(SYS_bpf, 0, NULL, 0)));
    TRY("io_uring_setup", closed(syscall(SYS_io_uring_setup, 1, NULL)));
    TRY("io_uring_enter", syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
    TRY("io_uring_register", syscall(SYS_io_uring_register, -1, 0, NULL, 0));
    TRY("perf_event_open", closed(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0)));
    TRY("userfaultfd", closed(syscall(SYS_userfaultfd, 0)));
    TRY("fanotify_init", closed(syscall(SYS_fanotify_init, 0, 0)));
    TRY("lookup_dcookie", syscall(SYS_lookup_dcookie, 0ULL, NULL, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    TRY("request_key", syscall(SYS_request_key, "user", "x", NULL, 0));
    TRY("nfsservctl", syscall(SYS_nfsservctl, 0, NULL, NULL));
    TRY("vhangup", syscall(SYS_vhangup));
    TRY("seccomp", syscall(SYS_seccomp, 1, 0, NULL));
    TRY("seccomp-listener", closed(syscall(SYS_seccomp, 1, 8, NULL)));
    TRY("personality-query", syscall(SYS_personality, 0xffffffffUL));
    TRY("personality", syscall(SYS_personality, 0x0400000UL));
    TRY("mq_open", closed(syscall(SYS_mq_open, "prober", O_CREAT | O_RDWR, 0600, NULL)));
    TRY("shmget", syscall(SYS_shmget, 0, 4096, 01600));
    TRY("semget", syscall(SYS_semget, 0, 1, 01600));
    TRY("msgget", syscall(SYS_msgget, 0, 01600));
    TRY("ioprio_set", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
    TRY("sched_setscheduler", syscall(SYS_sched_setscheduler, 0, -1, NULL));
    TRY("sched_setattr", syscall(SYS_sched_setattr, 0, NULL, 0));
    TRY("mbind", syscall(SYS_mbind, NULL, 0, 0, NULL, 0, 0));
    TRY("migrate_pages", syscall(SYS_migrate_pages, 1, 0, NULL, NULL));
    TRY("move_pages", syscall(SYS_move_pages, 1, 0, NULL, NULL, NULL, 0));
    TRY("remap_file_pages", syscall(SYS_remap_file_pages, NULL, 0, 0, 0, 0));
#ifdef __x86_64__
    TRY("iopl", syscall(SYS_iopl, 3));
    TRY("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
    TRY("modify_ldt", syscall(SYS_modify_ldt, 0, name, sizeof name));
    TRY("uselib", syscall(SYS_uselib, "/nonexistent"));
    TRY("ustat", syscall(SYS_ustat, 0, name));
    TRY("sysfs", syscall(SYS_sysfs, 3));
    /* The x32 numbers, and calls over the 32-bit entry, would not meet the list. */
    TRY("x32-getpid", syscall(0x40000000L + SYS_getpid));
#endif
}

/* ---- privileges, namespaces, other processes ---- */

static void privileges(void)
{
    uint32_t header[2] = { 0x20080522, 0 }, data[6] = { 1 << 21, 1 << 21, 1 << 21, 0, 0, 0 };
    gid_t group = 0;
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    TRY("setuid", syscall(SYS_setuid, 0));
    TRY("setgid", syscall(SYS_setgid, 0));
    TRY("setreuid", syscall(SYS_setreuid, 0, 0));
    TRY("setregid", syscall(SYS_setregid, 0, 0));
    TRY("setresuid", syscall(SYS_setresuid, 0, 0, 0));
    TRY("setresgid", syscall(SYS_setresgid, 0, 0, 0));
    TRY("setfsuid", syscall(SYS_setfsuid, 0));
    TRY("setgroups", syscall(SYS_setgroups, 1, &group));
    TRY("capset", syscall(SYS_capset, header, data));
    TRY("prctl-ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
    TRY("prctl-keepcaps", prctl(PR_SET_KEEPCAPS, 1));
    TRY("prctl-securebits", prctl(PR_SET_SECUREBITS, 0));
    TRY("prctl-dumpable", prctl(PR_SET_DUMPABLE, 1));
    TRY("prctl-ptracer", prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY));
    TRY("prctl-mm", prctl(PR_SET_MM, 0, 0, 0, 0));
    TRY("prctl-subreaper", prctl(PR_SET_CHILD_SUBREAPER, 1));
    TRY("prctl-no-seccomp", prctl(PR_SET_SECCOMP, 1, 0, 0, 0));
    TRY("rlimit-nofile", setrlimit(RLIMIT_NOFILE, &limit));
    TRY("rlimit-core", setrlimit(RLIMIT_CORE, &limit));
    TRY("rlimit-of-parent", syscall(SYS_prlimit64, getppid(), RLIMIT_NOFILE, NULL, &limit));
    static const struct {
        const char *name;
        int flag;
    } spaces[] = { { "user", CLONE_NEWUSER }, { "mnt", CLONE_NEWNS },        { "pid", CLONE_NEWPID }, { "net", CLONE_NEWNET },
                   { "ipc", CLONE_NEWIPC },   { "uts", CLONE_NEWUTS }, { "cgroup", CLONE_NEWCGROUP }, { "time", 0x80 } };
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        char name[40], path[60];
        snprintf(name, sizeof name, "unshare-%s", spaces[i].name);
        TRY(name, unshare(spaces[i].flag));
        snprintf(path, sizeof path, "/proc/1/ns/%s", spaces[i].name);
        int fd = opened(path, O_RDONLY | O_CLOEXEC, 0);
        snprintf(name, sizeof name, "setns-%s", spaces[i].name);
        TRY(name, setns(fd, spaces[i].flag));
        closed(fd);
        if (spaces[i].flag == 0x80)
            continue;
        snprintf(name, sizeof name, "clone-%s", spaces[i].name);
        long child = syscall(SYS_clone, (unsigned long)spaces[i].flag | SIGCHLD, NULL, NULL, NULL, 0);
        if (child == 0)
            _exit(0);
        judge(CALL, name, child);
        /* Without a child there is nothing to wait for. */
        (void)waitpid((pid_t)child, NULL, 0);
    }
    uint64_t arguments[11] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD };
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    judge(CALL, "clone3", child);
    child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
    if (child == 0)
        _exit(0);
    judge(CALL, "fork", child);
    (void)waitpid((pid_t)child, NULL, 0);
}

static void try_process(const char *who, pid_t pid)
{
    char name[60], path[60], byte;
    struct {
        void *base;
        size_t len;
    } ours = { &byte, 1 }, theirs = { (void *)0x400000, 1 };
#define NAMED(what) (snprintf(name, sizeof name, "%s-%s", what, who), name)
    TRY(NAMED("signal"), syscall(SYS_kill, pid, 0));
    TRY(NAMED("tgkill"), syscall(SYS_tgkill, pid, pid, 0));
    TRY(NAMED("tkill"), syscall(SYS_tkill, pid, 0));
    TRY(NAMED("sigqueue"), syscall(SYS_rt_sigqueueinfo, pid, 0, NULL));
    TRY(NAMED("ptrace-attach"), syscall(SYS_ptrace, 16, pid, 0, 0));
    TRY(NAMED("ptrace-seize"), syscall(SYS_ptrace, 0x4206, pid, 0, 0));
    TRY(NAMED("vm_readv"), syscall(SYS_process_vm_readv, pid, &ours, 1, &theirs, 1, 0));
    TRY(NAMED("vm_writev"), syscall(SYS_process_vm_writev, pid, &ours, 1, &theirs, 1, 0));
    TRY(NAMED("kcmp"), syscall(SYS_kcmp, getpid(), pid, 0, 0, 0));
    TRY(NAMED("setpriority"), syscall(SYS_setpriority, 99, pid, 5));
    TRY(NAMED("affinity"), syscall(SYS_sched_setaffinity, pid, 0, NULL));
    TRY(NAMED("robust_list"), syscall(SYS_get_robust_list, pid, NULL, NULL));
    long pidfd = syscall(SYS_pidfd_open, pid, 0);
    int why = errno;
    (void)NAMED("pidfd_open");
    errno = why;
    judge(CALL, name, pidfd);
    TRY(NAMED("pidfd_getfd"), closed(syscall(SYS_pidfd_getfd, pidfd, 0, 0)));
    TRY(NAMED("pidfd_signal"), syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
    TRY(NAMED("process_madvise"), syscall(SYS_process_madvise, pidfd, NULL, 0, 0, 0));
    closed(pidfd);
    static const char *const files[] = { "mem", "environ", "maps", "fd", "root", "cwd", "exe", "ns/net", "stack" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        snprintf(name, sizeof name, "%s-of-%s", files[i], who);
        try_open(name, path, O_RDONLY);
    }
}

static void others(void)
{
    /* PID 1 is one of them; as an ordinary process the parent is PID 1's part. */
    try_process("init", 1);
    if (getppid() > 1)
        try_process("parent", getppid());
    /* Every process that /proc shows, or that has a low number. */
    int reached = 0;
    for (pid_t pid = 2; pid < 1000; pid++)
        if (pid != getpid() && (syscall(SYS_kill, pid, 0) == 0 || errno == EINVAL))
            reached++;
    TRY("signal-anybody", reached ? reached : (errno = EPERM, -1));
    TRY("ptrace-traceme", syscall(SYS_ptrace, 0, 0, 0, 0));
    TRY("tiocsti", ioctl(0, TIOCSTI, ""));
    TRY("tiocsctty", ioctl(0, TIOCSCTTY, 1));
    TRY("tioclinux", ioctl(0, 0x541c, ""));
    TRY("setown-init", fcntl(0, F_SETOWN, 1));
    TRY("fcntl-setsig", fcntl(0, F_SETSIG, SIGKILL));
    TRY("fcntl-lease", fcntl(0, F_SETLEASE, F_WRLCK));
    TRY("fcntl-notify", fcntl(0, F_NOTIFY, 0));
}

/* ---- sockets ---- */

static void try_socket(const char *name, int domain, int type, int protocol)
{
    TRY(name, closed(socket(domain, type | SOCK_CLOEXEC, protocol)));
}

static void try_connect(const char *path, int type)
{
    char name[200];
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(name, sizeof name, "connect:%s", path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    judge(FILES, name, connect(fd, (struct sockaddr *)&address, sizeof address));
    closed(fd);
}

static void sockets(void)
{
    try_socket("socket-tcp", AF_INET, SOCK_STREAM, 0);
    try_socket("socket-udp", AF_INET, SOCK_DGRAM, 0);
    try_socket("socket-tcp6", AF_INET6, SOCK_STREAM, 0);
    try_socket("socket-udp6", AF_INET6, SOCK_DGRAM, 0);
    try_socket("socket-ping", AF_INET, SOCK_DGRAM, 1);
    try_socket("socket-raw", AF_INET, SOCK_RAW, 1);
    try_socket("socket-raw6", AF_INET6, SOCK_RAW, 58);
    try_socket("socket-sctp", AF_INET, SOCK_STREAM, 132);
    try_socket("socket-mptcp", AF_INET, SOCK_STREAM, 262);
    try_socket("socket-dccp", AF_INET, 6, 33);
    try_socket("socket-packet", AF_PACKET, SOCK_RAW, 0);
    try_socket("socket-packet-dgram", AF_PACKET, SOCK_DGRAM, 0);
    try_socket("socket-packet-old", AF_INET, 10, 0);
    try_socket("socket-netlink", AF_NETLINK, SOCK_RAW, 0);
    try_socket("socket-netlink-audit", AF_NETLINK, SOCK_RAW, 9);
    try_socket("socket-netlink-netfilter", AF_NETLINK, SOCK_RAW, 12);
    try_socket("socket-netlink-uevent", AF_NETLINK, SOCK_DGRAM, 15);
    try_socket("socket-vsock", AF_VSOCK, SOCK_STREAM, 0);
    try_socket("socket-alg", AF_ALG, SOCK_SEQPACKET, 0);
    try_socket("socket-bluetooth", AF_BLUETOOTH, SOCK_RAW, 1);
    try_socket("socket-can", AF_CAN, SOCK_RAW, 1);
    try_socket("socket-xdp", 44, SOCK_RAW, 0);
    try_socket("socket-tipc", AF_TIPC, SOCK_STREAM, 0);
    try_socket("socket-smc", 43, SOCK_STREAM, 0);
    try_socket("socket-key", AF_KEY, SOCK_RAW, 2);
    int pair[2];
    TRY("socketpair-tipc", socketpair(AF_TIPC, SOCK_STREAM, 0, pair));
    /* An abstract name is reachable from everywhere in the network namespace. */
    static const char *const theirs[] = { "/run/vb/gateway.sock", "/run/vb/zygote.sock" };
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        try_connect(theirs[i], SOCK_STREAM);
    static const char *const notes[] = { "/run/vb/notify/ledger", "/run/vb/notify/capacity", "/run/vb/notify/gateway" };
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        try_connect(notes[i], SOCK_DGRAM);
}

/* ---- code that was not there at the start ---- */

static void pages(void)
{
    long size = sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int file = opened("/proc/self/exe", O_RDONLY | O_CLOEXEC, 0);
    TRY("mmap-wx", mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    TRY("mmap-x", mmap(NULL, size, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    TRY("mmap-x-shared", mmap(NULL, size, PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    TRY("mmap-x-file", mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED ? -1 : 0);
    TRY("mmap-x-high-bits", syscall(SYS_mmap, 0, size, 0xffffffff00000000UL | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TRY("mprotect-x", mprotect(page, size, PROT_READ | PROT_EXEC));
    TRY("mprotect-wx", mprotect(page, size, PROT_READ | PROT_WRITE | PROT_EXEC));
    TRY("mprotect-grows", mprotect(page, size, PROT_EXEC | PROT_GROWSDOWN));
    TRY("pkey_mprotect-x", syscall(SYS_pkey_mprotect, page, size, PROT_READ | PROT_EXEC, -1));
    TRY("pkey_alloc", syscall(SYS_pkey_alloc, 0, 0));
    TRY("shmat-x", syscall(SYS_shmat, 0, NULL, 0100000) == -1 ? -1 : 0);
    TRY("memfd_secret", closed(syscall(SYS_memfd_secret, 0)));
    closed(file);
}

static char *const again[] = { "prober", "executed", NULL };
static char *const nothing[] = { NULL };

/* In a child where there may be one, so that the others can still be tried. */
static void try_exec(const char *name, int folder, const char *path, int flags)
{
    long child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
    if (child > 0) {
        int status = 0;
        waitpid((pid_t)child, &status, 0);
        errno = WEXITSTATUS(status);
        judge(EXEC, name, errno == 200 ? 0 : -1);
        return;
    }
    long result = flags < 0 ? syscall(SYS_execve, path, again, nothing)
                            : syscall(SYS_execveat, folder, path, again, nothing, flags);
    if (child == 0)
        _exit(errno);
    judge(EXEC, name, result);
}

/* A descriptor of a copy of this program, in a file that may be executed but for the jail. */
static int own_copy(char *path, size_t size)
{
    const char *folder = getenv("VB_DATA") ? getenv("VB_DATA") : "/tmp";
    char buffer[65536];
    snprintf(path, size, "%s/prober-copy.%d", folder, getpid());
    int from = opened("/proc/self/exe", O_RDONLY | O_CLOEXEC, 0);
    int to = opened(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    for (ssize_t n; to >= 0 && (n = read(from, buffer, sizeof buffer)) > 0;)
        if (write(to, buffer, n) != n)
            break;
    closed(from);
    closed(to);
    return opened(path, O_RDONLY | O_CLOEXEC, 0);
}

static void give_out_every_number(int fd, int parked)
{
    /* By a message, which takes numbers as open does. */
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return;
    for (int n = 0; n < 5000; n++) {
        char byte = 0, room[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec data = { &byte, 1 };
        struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        if (sendmsg(pair[0], &message, 0) < 0)
            break;
        message.msg_controllen = sizeof room;
        if (recvmsg(pair[1], &message, 0) < 0 || message.msg_flags & MSG_CTRUNC || !CMSG_FIRSTHDR(&message))
            break;
    }
    TRY("parked-by-message", fcntl(parked, F_GETFD) < 0 ? (errno = EPERM, -1) : 0);
    for (int n = 3; n < 5000; n++)
        if (n != fd)
            close(n);
}

static void executing(void)
{
    char path[300], number[60];
    struct rlimit files = { 0, 0 };
    int copy = own_copy(path, sizeof path);
    static const int empty = AT_EMPTY_PATH, parked_flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    try_exec("execve-sh", 0, "/bin/sh", -1);
    try_exec("execve-true", 0, "/bin/true", -1);
    try_exec("execve-self", 0, "/proc/self/exe", -1);
    try_exec("execve-init", 0, "/proc/1/exe", -1);
    try_exec("execve-copy", 0, path, -1);
    try_exec("execveat-copy", AT_FDCWD, path, 0);
    try_exec("execveat-copy-fd", copy, "", empty);
    try_exec("execveat-copy-fd-nofollow", copy, "", parked_flags);
    for (unsigned flags = 0; flags <= 0x1f; flags++) {
        char name[40];
        snprintf(name, sizeof name, "memfd-%x", flags);
        errno = 0;
        int memory = (int)syscall(SYS_memfd_create, "prober", flags);
        judge(CALL, name, memory);
        if (memory >= 0) {
            snprintf(number, sizeof number, "/proc/self/fd/%d", memory);
            try_exec("execve-memfd", 0, number, -1);
            try_exec("execveat-memfd", memory, "", empty);
        }
        closed(memory);
    }
    /* The number that one execveat was let through on. */
    getrlimit(RLIMIT_NOFILE, &files);
    int parked = (int)files.rlim_max;
    judge(EXEC, "parked-open", fcntl(parked, F_GETFD));
    judge(EXEC, "parked-dup3", dup3(copy, parked, O_CLOEXEC));
#ifdef __x86_64__
    judge(EXEC, "parked-dup2", syscall(SYS_dup2, copy, parked));
#endif
    judge(EXEC, "parked-dupfd", fcntl(copy, F_DUPFD, parked));
    judge(EXEC, "parked-dupfd-cloexec", fcntl(copy, F_DUPFD_CLOEXEC, parked));
    struct rlimit more = { files.rlim_max + 1, files.rlim_max + 1 };
    TRY("parked-limit", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &more, NULL));
    TRY("parked-limit-pid", syscall(SYS_prlimit64, getpid(), RLIMIT_NOFILE, &more, NULL));
#ifdef SYS_setrlimit
    TRY("parked-setrlimit", syscall(SYS_setrlimit, RLIMIT_NOFILE, &more));
#endif
    TRY("pidfd_getfd-own", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), copy, 0));
    give_out_every_number(copy, parked);
    snprintf(number, sizeof number, "/proc/self/fd/%d", copy);
    for (int i = 0; i < 2; i++) {
        /* Twice: with the number as it is, and after everything above. */
        try_exec("execveat-parked", parked, "", parked_flags);
        try_exec("execveat-parked-path", parked, path, parked_flags);
        try_exec("execveat-parked-link", parked, number, parked_flags);
        try_exec("execveat-parked-self", parked, "/proc/self/exe", parked_flags);
        try_exec("execveat-parked-sh", parked, "/bin/sh", parked_flags);
        try_exec("execveat-parked-follow", parked, number, empty);
        try_exec("execveat-parked-high-bits", (int)(0xffffffff00000000UL | (unsigned)parked), number, empty);
    }
    unlinkat(AT_FDCWD, path, 0);
    closed(copy);
}

/* ---- what a profile may ---- */

static void expect(const char *name)
{
    if (may_count < (int)(sizeof may / sizeof *may))
        may[may_count++] = name;
}

static void expectations(void)
{
    int is_net = strcmp(profile, "net") == 0, is_online = strcmp(profile, "foreign-online") == 0;
    int is_foreign = is_online || strcmp(profile, "foreign") == 0;
    if (is_net || is_online) {
        expect("socket-tcp"), expect("socket-udp"), expect("socket-tcp6"), expect("socket-udp6");
    }
    if (strcmp(profile, "witness") == 0)
        expect("socket-tcp"), expect("socket-tcp6");
    if (is_net) {
        /* It owns links; packet sockets need its capability. */
        expect("socket-packet"), expect("socket-packet-dgram"), expect("socket-netlink");
    }
    if (is_foreign)
        expect("fork");
    if (is_foreign && geteuid() == 0)
        /* Landlock knows no right for modes: who owns a file may change its mode. */
        expect("chmod-null");
    if (strcmp(profile, "gateway") == 0 || strcmp(profile, "console") == 0) {
        /* Lists of processes: who runs, not what it holds. */
        expect("read:/proc"), expect("read:/proc/1/stat"), expect("read:/proc/1/cmdline");
    }
    if (strcmp(profile, "console") == 0)
        /* Names without addresses: kernel.kptr_restrict is 2. */
        expect("read:/proc/kallsyms");
    if (strcmp(profile, "console") == 0 && geteuid() == 0) {
        /* On a host root's files are open to root below /proc, which the console lists. */
        expect("read:/proc/1/syscall"), expect("read:/proc/1/fd");
        static const char *const whose[] = { "fd", "stack", "environ", "maps" };
        static char names[12][20];
        for (int i = 0; i < 12; i++) {
            static const char *const who[] = { "init", "parent", "peer" };
            snprintf(names[i], sizeof names[i], "%s-of-%s", whose[i % 4], who[i / 4]);
            expect(names[i]);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "executed") == 0)
        _exit(200);
#ifdef __x86_64__
    if (argc > 1 && strcmp(argv[1], "as-32-bit") == 0) {
        /* getpid of the 32-bit entry: the filter ends the process. */
        int pid;
        __asm__ volatile("int $0x80" : "=a"(pid) : "a"(20) : "memory");
        return 1;
    }
#endif
    profile = argc > 1 ? argv[1] : "foreign";
    expectations();
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "brief") == 0)
            brief = argv[i];
        else if (strcmp(argv[i], "stay") == 0)
            stay = argv[i];
        else if (strncmp(argv[i], "may=", 4) == 0)
            expect(argv[i] + 4);
    }
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "file=", 5) == 0) {
            try_read(argv[i] + 5);
            try_write(argv[i] + 5);
        } else if (strncmp(argv[i], "peer=", 5) == 0)
            try_process("peer", atoi(argv[i] + 5));
        else if (strncmp(argv[i], "socket=", 7) == 0) {
            try_connect(argv[i] + 7, SOCK_STREAM);
            try_connect(argv[i] + 7, SOCK_SEQPACKET);
        }
    }
    files();
    machine();
    privileges();
    others();
    sockets();
    pages();
    executing();
    printf("prober: profile=%s tried=%d allowed=%d\n", profile, tried, allowed);
    fflush(stdout);
    while (stay)
        poll(NULL, 0, -1);
    return allowed > 255 ? 255 : allowed;
}
