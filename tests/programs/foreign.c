/* Services that are not ours, by their first word; they know sd_notify(3) by its page alone.
 *
 *   db      counts its lives in a descriptor that it leaves with PID 1, and gives signs of life
 *           USR1: hangs
 *   web     answers HTTP; its first start takes longer than it may, and says so
 *           USR1: takes no more connections, and says when one waits   USR2: speaks for db
 *   worker  lives */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t told_usr1, told_usr2;

static void take(int number)
{
	if (number == SIGUSR1)
		told_usr1 = 1;
	else
		told_usr2 = 1;
}

static void fail(const char *what)
{
	printf("foreign: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* The way to PID 1. */
static int notify_socket(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!path || fd < 0)
		fail("NOTIFY_SOCKET");
	strncpy(to.sun_path, path, sizeof(to.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		fail(path);
	return fd;
}

/* Sends a message, with a descriptor unless that is -1. */
static int say(int socket, const char *text, int fd)
{
	char room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec part = { (void *)text, strlen(text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (fd >= 0) {
		message.msg_control = room;
		message.msg_controllen = sizeof(room);
		struct cmsghdr *along = CMSG_FIRSTHDR(&message);
		along->cmsg_level = SOL_SOCKET;
		along->cmsg_type = SCM_RIGHTS;
		along->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(along), &fd, sizeof(int));
	}
	return (int)sendmsg(socket, &message, MSG_NOSIGNAL);
}

/* The descriptor that PID 1 passed under a name; -1 without one. */
static int passed(const char *name)
{
	const char *names = getenv("LISTEN_FDNAMES");
	int fd = 3;
	for (; names && *names; fd++) {
		size_t length = strcspn(names, ":");
		if (length == strlen(name) && !strncmp(names, name, length))
			return fd;
		names += length + (names[length] == ':');
	}
	return -1;
}

/* Which of its lives this is: the count lies in a file without a name that PID 1 keeps. */
static int life(int to)
{
	int fd = passed("lives"), lives = 0;
	if (fd < 0) {
		fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (say(to, "FDSTORE=1\nFDNAME=lives", fd) < 0)
			fail("FDSTORE");
	} else if (pread(fd, &lives, sizeof(lives), 0) != sizeof(lives)) {
		fail("what was left");
	}
	lives++;
	if (pwrite(fd, &lives, sizeof(lives), 0) != sizeof(lives))
		fail("what is left");
	return lives;
}

static void db(void)
{
	int to = notify_socket(), door = passed("db.sock"), lives = life(to);
	char status[64];
	snprintf(status, sizeof(status), "READY=1\nSTATUS=life %d", lives);
	say(to, status, -1);
	while (!told_usr1) {
		struct pollfd waits = { .fd = door, .events = POLLIN };
		if (poll(&waits, 1, 100) > 0) {
			/* Its own way to PID 1, to whoever asks. */
			int client = accept(door, NULL, NULL);
			say(client, "!", to);
			close(client);
		}
		say(to, "WATCHDOG=1", -1);
	}
	for (;;)
		pause();
}

/* Messages to PID 1 through the socket of another service. */
static void forge(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = "/run/vb/db.sock" };
	char room[CMSG_SPACE(sizeof(int))] = { 0 }, byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), its;
	if (connect(peer, (struct sockaddr *)&at, sizeof(at)) < 0 || recvmsg(peer, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		fail("db.sock");
	memcpy(&its, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	for (int i = 0; i < 3; i++)
		if (say(its, "STATUS=forged\nWATCHDOG=trigger\nSTOPPING=1\nFDSTOREREMOVE=1\nFDNAME=lives", -1) < 0)
			fail("forge");
	printf("web: forged\n");
	close(its);
	close(peer);
}

static void web(void)
{
	int to = notify_socket(), door = passed("http"), lives = life(to);
	char text[128], request[1024];
	if (lives == 1) {
		say(to, "EXTEND_TIMEOUT_USEC=40000000\nSTATUS=slow", -1);
		sleep(11);
	}
	snprintf(text, sizeof(text), "READY=1\nSTATUS=life %d", lives);
	say(to, text, -1);
	for (;;) {
		struct pollfd waits = { .fd = door, .events = POLLIN };
		int ready = poll(&waits, 1, 50);
		if (told_usr2) {
			told_usr2 = 0;
			forge();
		}
		if (ready <= 0)
			continue;
		if (told_usr1) {
			say(to, "STATUS=somebody waits", -1);
			pause();
		}
		int client = accept(door, NULL, NULL);
		if (read(client, request, sizeof(request)) > 0) {
			int body = snprintf(text, sizeof(text), "{\"life\":%d}", lives);
			dprintf(client, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", body, text);
		}
		close(client);
	}
}

int main(int count, char **words)
{
	struct sigaction action = { .sa_handler = take };
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count > 1 && !strcmp(words[1], "db"))
		db();
	if (count > 1 && !strcmp(words[1], "web"))
		web();
	for (;;)
		pause();
}
