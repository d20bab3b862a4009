/* Services that go wrong, by their first word; each is to be contained by its limits.
 *
 *   fork     processes without end         memory  memory without end
 *   flood    lines without end             deaf    it and its child take no SIGTERM
 *   orphans  ends at once, and leaves a child's child behind
 *   cpu      four processes that never wait */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void sleep_for_ever(void)
{
	for (;;)
		pause();
}

static void fork_bomb(void)
{
	/* Where no more are given each of them goes on asking. */
	for (;;)
		(void)!fork();
}

static void memory_bomb(void)
{
	for (;;) {
		char *piece = malloc(1 << 20);
		if (piece)
			memset(piece, 1, 1 << 20);
	}
}

static void flood(void)
{
	for (unsigned long n = 0;; n++)
		printf("flood: line %lu\n", n);
}

static void deaf(void)
{
	signal(SIGTERM, SIG_IGN);
	(void)!fork();
	puts("deaf: listens to nobody");
	fflush(stdout);
	sleep_for_ever();
}

static void orphans(void)
{
	if (fork() == 0) {
		if (fork() == 0)
			sleep_for_ever();
		_exit(0);
	}
	/* Both are there before the parent goes. */
	sleep(1);
	_exit(0);
}

static void cpu(void)
{
	(void)!fork();
	(void)!fork();
	for (volatile unsigned long n = 0;; n++)
		;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *word;
		void (*run)(void);
	} kinds[] = {
		{"fork", fork_bomb}, {"memory", memory_bomb}, {"flood", flood},
		{"deaf", deaf},      {"orphans", orphans},    {"cpu", cpu},
	};

	for (unsigned i = 0; argc > 1 && i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(argv[1], kinds[i].word) == 0)
			kinds[i].run();
	return 2;
}
