/* What the kernel starts: leaves a probe behind, notes the clock, and becomes the PID 1 that is to be measured.
 *
 * So the handoff is the same for all: an exec by process 1, the clock taken in the statement before it. The probe
 * is a child that nobody knows. It stays in the root that the kernel made, with all powers and out of every jail,
 * and sleeps until the machine has settled, so that it costs the measured time nothing.
 *
 * /bench/argv holds the words of the PID 1, a NUL behind each; /bench/plan what the probe measures, a letter each:
 *   s  when the services began      m  memory of PID 1 and its helpers     k  SIGKILL of a service
 *   z  ten thousand zombies at once t  the kernel's trace, if it was told to keep one
 *   i  what the kernel's log says   p  PID 1's mappings                    r  nothing, for as long as at first
 *   c  SIGSEGV to PID 1: when it watches again
 *   h  an hour of kills and questions, and what each minute leaves; for our own PID 1, which has a `ctl`
 * Every result is a line on the serial port that begins with `R `. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	SERVICES = 3,
	/* Slow peers need 340 ms; after that only idle time is skipped. */
	SETTLE_MS = 5000,
	KILLS = 11,
	/* Longer than any peer waits before it restarts what ended too soon. */
	KILL_GAP_MS = 1600,
	KILL_LIMIT_MS = 15000,
	ZOMBIES = 10000,
	ZOMBIE_LIMIT_MS = 120000,
	/* Forks refused in a row, a millisecond each. */
	REFUSED_MAX = 1000,
	WORDS_MAX = 8,
};

static int port = -1;

__attribute__((format(printf, 1, 2))) static void result(const char *format, ...)
{
	char line[1024];
	va_list values;
	int length;

	va_start(values, format);
	length = vsnprintf(line, sizeof line, format, values);
	va_end(values);
	for (int done = 0; done < length;) {
		ssize_t n = write(port, line + done, length - done);
		if (n > 0)
			done += n;
	}
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void rest_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, 0);
}

/* Reads a small file whole; an absent one is empty. */
static int read_file(const char *path, char *text, int room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), length = 0, n;

	while (fd >= 0 && length < room - 1 && (n = read(fd, text + length, room - 1 - length)) > 0)
		length += n;
	text[length] = 0;
	close(fd);
	return length;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	(void)!write(fd, text, strlen(text));
	close(fd);
}

/* ---- the probe ---- */

/* A service's letter and clock out of its name; 0 for any other process. */
static int is_service(const char *comm, char *letter, long long *began)
{
	char *end;

	if (strlen(comm) != 15 || !strchr("abc", comm[0]))
		return 0;
	*began = strtoll(comm + 1, &end, 16);
	*letter = comm[0];
	return *end == 0;
}

/* Calls `seen` for every process but this one, with its name. */
static void each_process(void (*seen)(int pid, const char *comm, void *to), void *to)
{
	DIR *folder = opendir("/bench/proc");
	struct dirent *entry;
	char path[64], comm[32];

	while (folder && (entry = readdir(folder))) {
		int pid = atoi(entry->d_name);
		if (pid < 1 || pid == getpid())
			continue;
		snprintf(path, sizeof path, "/bench/proc/%d/comm", pid);
		read_file(path, comm, sizeof comm);
		comm[strcspn(comm, "\n")] = 0;
		seen(pid, comm, to);
	}
	closedir(folder);
}

struct found {
	char letter;
	int pid;
	long long began;
};

static void match(int pid, const char *comm, void *to)
{
	struct found *wanted = to;
	long long began;
	char letter;

	if (is_service(comm, &letter, &began) && letter == wanted->letter)
		*wanted = (struct found){letter, pid, began};
}

static struct found find(char letter)
{
	struct found wanted = {letter, 0, 0};

	each_process(match, &wanted);
	return wanted;
}

static void starts(long long handoff)
{
	for (char letter = 'a'; letter < 'a' + SERVICES; letter++) {
		struct found service = find(letter);
		if (service.pid)
			result("R start %c us=%lld\n", letter, (service.began - handoff) / 1000);
	}
}

static long field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtol(at + strlen(name), 0, 10) : 0;
}

static void weigh(int pid, const char *comm, void *to)
{
	char path[64], text[4096], letter;
	long long began;

	(void)to;
	snprintf(path, sizeof path, "/bench/proc/%d/smaps_rollup", pid);
	/* Threads of the kernel have no memory. */
	if (is_service(comm, &letter, &began) || read_file(path, text, sizeof text) == 0 || !strstr(text, "Rss:"))
		return;
	result("R memory %d anon=%ld pss=%ld rss=%ld name=%s\n", pid, field(text, "\nAnonymous:"),
	       field(text, "\nPss:"), field(text, "\nRss:"), comm);
}

/* ---- what only our own PID 1 shows: its state memfd, whose layout docs/state-memfd.md has ---- */

enum {
	HEARTBEAT_AT = 192,
	HEARTBEAT_BYTES = 192,
	CRASHES_AT = 576,
	CRASHES_BYTES = 128,
	/* Of a copy: sequence, checksum, zero. */
	COPY_HEAD = 16,
	BUCKETS = 16,
	/* The first bucket of the histogram that begins above a tenth of a beat: 16.4 ms. */
	LATE_FROM = 11,
};

/* The newer copy of what is there twice; 0 if this PID 1 has no such thing. */
static int read_state(int at, int bytes, void *to)
{
	DIR *folder = opendir("/bench/proc/1/fd");
	struct dirent *entry;
	char path[300], name[64], copies[2][HEARTBEAT_BYTES];
	int found = 0;

	while (!found && folder && (entry = readdir(folder))) {
		snprintf(path, sizeof path, "/bench/proc/1/fd/%s", entry->d_name);
		ssize_t length = readlink(path, name, sizeof name - 1);
		name[length > 0 ? length : 0] = 0;
		if (!strstr(name, "memfd:vb-state"))
			continue;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		long long first, second;
		found = pread(fd, copies[0], bytes, at) == bytes && pread(fd, copies[1], bytes, at + bytes) == bytes;
		close(fd);
		memcpy(&first, copies[0], sizeof first);
		memcpy(&second, copies[1], sizeof second);
		memcpy(to, copies[second > first] + COPY_HEAD, bytes - COPY_HEAD);
	}
	closedir(folder);
	return found;
}

/* Beats so far that were left out, or began more than a tenth of their period late; -1 if nobody says. */
static long long late_beats(void)
{
	char content[HEARTBEAT_BYTES];
	long long coalesced;
	unsigned histogram[BUCKETS];

	if (!read_state(HEARTBEAT_AT, HEARTBEAT_BYTES, content))
		return -1;
	memcpy(&coalesced, content + 16, sizeof coalesced);
	memcpy(histogram, content + 48, sizeof histogram);
	for (int i = LATE_FROM; i < BUCKETS; i++)
		coalesced += histogram[i];
	return coalesced;
}

static void crash(void)
{
	struct found before[SERVICES];
	char content[CRASHES_BYTES];
	long long crashes = 0, again = 0, had;
	int alive = 0;

	if (!read_state(CRASHES_AT, CRASHES_BYTES, content))
		return;
	memcpy(&had, content, sizeof had);
	for (int i = 0; i < SERVICES; i++)
		before[i] = find('a' + i);
	long long at = now_ns();
	kill(1, SIGSEGV);
	rest_ms(500);
	if (read_state(CRASHES_AT, CRASHES_BYTES, content)) {
		memcpy(&crashes, content, sizeof crashes);
		memcpy(&again, content + 8, sizeof again);
	}
	for (int i = 0; i < SERVICES; i++) {
		struct found after = find('a' + i);
		alive += after.pid == before[i].pid && after.began == before[i].began;
	}
	if (crashes == had + 1 && again > at)
		result("R crash ns=%lld alive=%d\n", again - at, alive);
	else
		result("R crash none\n");
}

static void kills(void)
{
	for (int i = 0; i < KILLS; i++) {
		rest_ms(KILL_GAP_MS);
		struct found victim = find('a'), next;
		if (!victim.pid) {
			result("R kill none\n");
			return;
		}
		long long at = now_ns();
		kill(victim.pid, SIGKILL);
		do {
			/* Long enough that looking does not get in the way of what is looked for. */
			rest_ms(10);
			next = find('a');
		} while ((!next.pid || next.began < at) && now_ns() - at < KILL_LIMIT_MS * 1000000LL);
		if (!next.pid || next.began < at) {
			result("R kill none\n");
			return;
		}
		result("R kill ns=%lld\n", next.began - at);
	}
}

static int threads(void)
{
	struct sysinfo info;

	sysinfo(&info);
	return info.procs;
}

/* Who holds the dead and dies himself hands all of them to PID 1 in one instant. */
static void zombies(void)
{
	int ends[2], before, peak;
	char byte;

	rest_ms(500);
	long long late = late_beats();
	before = threads();
	(void)!pipe(ends);
	pid_t holder = fork();
	if (holder == 0) {
		/* A limit of the PID 1's that holds for us too shows in `peak`. */
		for (int made = 0, refused = 0; made < ZOMBIES && refused < REFUSED_MAX;) {
			pid_t child = fork();
			if (child == 0)
				_exit(0);
			if (child > 0)
				made++, refused = 0;
			else
				refused++, rest_ms(1);
		}
		/* The last of them is dead only after its time slice. */
		rest_ms(300);
		(void)!write(ends[1], "", 1);
		for (;;)
			pause();
	}
	(void)!read(ends[0], &byte, 1);
	peak = threads() - before;
	long long at = now_ns();
	kill(holder, SIGKILL);
	waitpid(holder, 0, 0);
	long long handed = now_ns();
	while (threads() > before && now_ns() - at < ZOMBIE_LIMIT_MS * 1000000LL)
		rest_ms(1);
	long long reaped = now_ns() - handed;
	int left = threads() - before;
	/* What was late is told with the beat after it. */
	rest_ms(500);
	result("R zombies peak=%d handed_us=%lld reaped_us=%lld left=%d late=%lld\n", peak, (handed - at) / 1000,
	       reaped / 1000, left, late < 0 ? -1 : late_beats() - late);
}

static void add_service(int pid, const char *comm, void *to)
{
	char path[64], text[4096], letter;
	long long began;

	if (!is_service(comm, &letter, &began))
		return;
	snprintf(path, sizeof path, "/bench/proc/%d/smaps_rollup", pid);
	read_file(path, text, sizeof text);
	*(long *)to += field(text, "\nAnonymous:");
}

static int entries(const char *path)
{
	DIR *folder = opendir(path);
	int count = 0;

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	/* Less the folder itself and the one above. */
	return count - 2;
}

/* Asks PID 1 by its own `ctl`, and puts the answer on the port or nowhere. */
static void ask(const char *what, int fd)
{
	pid_t child = fork();

	if (child == 0) {
		char *words[] = {"vector_boot", "ctl", "--run", "/bench/proc/1/root/run/vb", (char *)what, "--json", 0};
		char *none[] = {0};

		dup2(fd < 0 ? open("/dev/null", O_WRONLY) : fd, 1);
		execve("/bench/proc/1/exe", words, none);
		_exit(127);
	}
	waitpid(child, 0, 0);
}

/* What PID 1, the services and the kernel hold. */
static void account(int minute)
{
	char status[4096], own[4096], memory[4096], groups[256];
	long services = 0;

	read_file("/bench/proc/1/status", status, sizeof status);
	/* Counted page by page; `status` may be 64 pages behind. */
	read_file("/bench/proc/1/smaps_rollup", own, sizeof own);
	read_file("/bench/proc/meminfo", memory, sizeof memory);
	read_file("/bench/proc/1/root/sys/fs/cgroup/cgroup.stat", groups, sizeof groups);
	each_process(add_service, &services);
	result("R hour minute=%d anon=%ld fds=%d threads=%ld cgroups=%ld dying=%ld services=%ld slab=%ld free=%ld\n", minute,
	       field(own, "\nAnonymous:"), entries("/bench/proc/1/fd"), field(status, "\nThreads:"),
	       field(groups, "nr_descendants"), field(groups, "nr_dying_descendants"), services,
	       field(memory, "\nSUnreclaim:"), field(memory, "\nMemFree:"));
}

static void hour(void)
{
	for (int minute = 0; minute <= 60; minute++) {
		long long at = now_ns();
		for (char letter = 'a'; letter < 'a' + SERVICES; letter++) {
			struct found victim = find(letter);
			if (victim.pid)
				kill(victim.pid, SIGKILL);
			rest_ms(1000);
		}
		for (int i = 0; i < 10; i++)
			ask(i % 2 ? "status" : "services", -1);
		/* Beside the last service's, so that all is quiet. */
		rest_ms(10000);
		account(minute);
		rest_ms(60000 - (now_ns() - at) / 1000000);
	}
	result("R beat ");
	ask("beat", port);
}

/* Copies a file that may be long, each line behind a mark. */
static void copy(const char *path, const char *mark, int flags)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	char text[4096], line[512];
	int n, length = 0;

	for (;;) {
		n = read(fd, text, sizeof text);
		/* kmsg says EPIPE where it dropped lines. */
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++) {
			if (text[i] != '\n' && length < (int)sizeof line - 1) {
				line[length++] = text[i];
				continue;
			}
			line[length] = 0;
			result("R %s %s\n", mark, line);
			length = 0;
		}
	}
	close(fd);
}

static void probe(long long handoff, const char *plan)
{
	rest_ms(SETTLE_MS);
	mkdir("/bench/proc", 0755);
	mount("proc", "/bench/proc", "proc", 0, 0);
	write_file("/bench/proc/sys/kernel/threads-max", "60000");
	result("\nR begin\n");
	for (; *plan; plan++) {
		switch (*plan) {
		case 's':
			starts(handoff);
			break;
		case 'm':
			each_process(weigh, 0);
			break;
		case 'k':
			kills();
			break;
		case 'c':
			crash();
			break;
		case 'h':
			hour();
			break;
		case 'r':
			rest_ms(SETTLE_MS);
			break;
		case 'z':
			zombies();
			break;
		case 't':
			mkdir("/bench/trace", 0755);
			mount("tracefs", "/bench/trace", "tracefs", 0, 0);
			write_file("/bench/trace/tracing_on", "0");
			copy("/bench/trace/trace", "trace", 0);
			break;
		case 'i':
			copy("/dev/kmsg", "log", O_NONBLOCK);
			break;
		case 'p':
			copy("/bench/proc/1/smaps", "map", 0);
			break;
		}
	}
	result("R handoff ns=%lld\nR end\n", handoff);
	rest_ms(50);
	reboot(RB_AUTOBOOT);
}

/* ---- process 1, before it becomes what is measured ---- */

static void nodes(void)
{
	static const struct {
		const char *path;
		int major, minor;
	} table[] = {
		{"/dev/console", 5, 1}, {"/dev/null", 1, 3},    {"/dev/zero", 1, 5},
		{"/dev/urandom", 1, 9}, {"/dev/kmsg", 1, 11}, {"/dev/ttyS0", 4, 64},
	};
	static const char *const folders[] = {"/dev", "/proc", "/sys", "/run", "/tmp", "/etc"};

	for (unsigned i = 0; i < sizeof folders / sizeof *folders; i++)
		mkdir(folders[i], 0755);
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
		mknod(table[i].path, S_IFCHR | 0666, makedev(table[i].major, table[i].minor));
}

int main(int argc, char **argv, char **environment)
{
	static char text[1024], plan[32];
	char *words[WORDS_MAX + 1] = {0};
	int length, count = 0;

	(void)argc, (void)argv;
	nodes();
	/* Without a console in the archive the kernel gave us no descriptors. */
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/console", O_RDWR);
	port = open("/dev/ttyS0", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	length = read_file("/bench/argv", text, sizeof text);
	for (char *word = text; word < text + length && count < WORDS_MAX; word += strlen(word) + 1)
		words[count++] = word;
	read_file("/bench/plan", plan, sizeof plan);
	long long *handoff = mmap(0, sizeof *handoff, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fork() == 0) {
		/* Keys and ends of sessions are PID 1's business. */
		setsid();
		for (int sig = 1; sig < 32; sig++)
			signal(sig, SIG_IGN);
		signal(SIGCHLD, SIG_DFL);
		probe(*handoff, plan);
		_exit(0);
	}
	*handoff = now_ns();
	execve(words[0], words, environment);
	result("R failed exec %s errno=%d\n", words[0] ? words[0] : "nothing", errno);
	rest_ms(50);
	reboot(RB_AUTOBOOT);
}
