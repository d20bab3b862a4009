/* What the kernel starts instead of /init: becomes /init, and leaves a child behind that damages PID 1's state memfd.
 *
 * The child stays in the root that the kernel made, with all powers, and does nothing until the test stops a service:
 * for `ticker` it puts another version into the header, for `net` a wrong byte into both copies of that service's row.
 * Offsets are those of docs/state-memfd.md. What it did it says in the kernel's log. It ends with everybody else when
 * PID 1 starts everything anew. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum {
	VERSION_AT = 8,
	ROWS_AT = 26112,
	ROWS = 32,
	ROW_BYTES = 640,
	CONTENT = 16,
	PHASE = 56,
	STOPPED = 4,
};

static void rest_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, 0);
}

static void say(const char *text)
{
	int log = open("/kmsg", O_WRONLY | O_CLOEXEC);

	(void)!write(log, text, strlen(text));
	close(log);
}

/* The state memfd of PID 1, if it has one. */
static int state(void)
{
	DIR *folder = opendir("/kernel/1/fd");
	struct dirent *entry;
	char path[300], name[64];
	int found = -1;

	while (found < 0 && folder && (entry = readdir(folder))) {
		snprintf(path, sizeof path, "/kernel/1/fd/%s", entry->d_name);
		ssize_t length = readlink(path, name, sizeof name - 1);
		name[length > 0 ? length : 0] = 0;
		if (strstr(name, "memfd:vb-state"))
			found = open(path, O_RDWR | O_CLOEXEC);
	}
	if (folder)
		closedir(folder);
	return found;
}

/* Where the row of a service begins, if that is stopped by its newer copy. */
static off_t stopped(int fd, const char *service)
{
	unsigned char copies[2][ROW_BYTES];
	long long first, second;

	for (int i = 0; i < ROWS; i++) {
		off_t at = ROWS_AT + (off_t)i * 2 * ROW_BYTES;
		if (pread(fd, copies, sizeof copies, at) != sizeof copies)
			continue;
		memcpy(&first, copies[0], sizeof first);
		memcpy(&second, copies[1], sizeof second);
		const unsigned char *row = copies[second > first] + CONTENT;
		if (strncmp((const char *)row, service, 32) == 0 && row[PHASE] == STOPPED)
			return at;
	}
	return 0;
}

static void flip(int fd, off_t at)
{
	unsigned char byte = 0;

	(void)!pread(fd, &byte, 1, at);
	byte ^= 0x40;
	(void)!pwrite(fd, &byte, 1, at);
}

static void probe(void)
{
	/* PID 1 leaves this root and empties it first. */
	while (access("/init", F_OK) == 0)
		rest_ms(50);
	rest_ms(1000);
	mkdir("/kernel", 0755);
	mknod("/kmsg", S_IFCHR | 0600, makedev(1, 11));
	mount("proc", "/kernel", "proc", 0, 0);
	for (;; rest_ms(50)) {
		int fd = state();
		off_t row;
		if (fd >= 0 && stopped(fd, "ticker")) {
			flip(fd, VERSION_AT);
			say("damaged: version\n");
			break;
		}
		if (fd >= 0 && (row = stopped(fd, "net"))) {
			flip(fd, row + CONTENT);
			flip(fd, row + ROW_BYTES + CONTENT);
			say("damaged: row\n");
			break;
		}
		close(fd);
	}
	for (;;)
		pause();
}

int main(int argc, char **argv, char **environment)
{
	char *words[] = {"/init", 0};

	(void)argc, (void)argv;
	if (fork() == 0) {
		setsid();
		for (int signal_number = 1; signal_number < 32; signal_number++)
			signal(signal_number, SIG_IGN);
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		probe();
	}
	execve(words[0], words, environment);
	return 127;
}
