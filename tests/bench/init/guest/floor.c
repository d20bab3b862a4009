/* A floor: the least that a PID 1 can do. Starts three services and keeps them up, and takes every dead child.
 *
 * With -DMOUNTS it also does what the init of any appliance must: proc, sys, dev, run, the cgroup tree, and a
 * cgroup of its own for each service, which is cloned into it. Nothing here handles errors: it is a measure. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVICES = 3 };
static char *const letters[SERVICES] = {"a", "b", "c"};
static pid_t running[SERVICES];

#ifdef MOUNTS
static char *const leaves[SERVICES] = {"/sys/fs/cgroup/a", "/sys/fs/cgroup/b", "/sys/fs/cgroup/c"};
static int groups[SERVICES];

static void prepare(void)
{
	const unsigned long closed = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount("proc", "/proc", "proc", closed, 0);
	mount("sysfs", "/sys", "sysfs", closed, 0);
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755");
	mount("tmpfs", "/run", "tmpfs", closed, "mode=0755");
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", closed, 0);
	for (int i = 0; i < SERVICES; i++) {
		mkdir(leaves[i], 0755);
		groups[i] = open(leaves[i], O_PATH | O_CLOEXEC);
	}
}

/* Without CLONE_VM: a child that shares our stack cannot return from syscall(2). */
static pid_t split(int i)
{
	struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = groups[i]};

	return syscall(SYS_clone3, &how, sizeof how);
}
#else
static void prepare(void) {}
#define split(i) vfork()
#endif

static void start(int i)
{
	char *words[] = {"/bench/service", letters[i], 0}, *none[] = {0};
	pid_t child = split(i);

	if (child == 0) {
		execve(words[0], words, none);
		_exit(127);
	}
	running[i] = child;
}

int main(void)
{
	prepare();
	for (int i = 0; i < SERVICES; i++)
		start(i);
	for (;;) {
		pid_t gone = wait(0);

		if (gone < 0)
			pause();
		for (int i = 0; i < SERVICES; i++)
			if (gone == running[i])
				start(i);
	}
}
