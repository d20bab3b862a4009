/* A plugin of QEMU's: which code runs between two addresses, and how many instructions of it.
 *
 * Words: start=ADDRESS, stop=ADDRESS (of the first instruction of a function, in hex), out=FILE. Each time that `stop`
 * is reached behind `start` it writes `total N` and for each block that ran `ADDRESS INSTRUCTIONS`; both may be the
 * same. Blocks are counted whole, so one that a page fault cuts counts twice. The few declarations are those of QEMU's
 * own header, whose package few hosts have. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN __attribute__((visibility("default")))

struct qemu_plugin_tb;
typedef uint64_t plugin_id;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

SHOWN int qemu_plugin_version = 1;

struct block {
	uint64_t at, instructions, count;
	struct block *next;
};

static struct block *blocks;
static uint64_t start, stop, total;
static int counts;
static FILE *out;

static void ran(unsigned cpu, void *which)
{
	struct block *block = which;
	int begins = !counts;

	(void)cpu;
	if (begins && block->at != start)
		return;
	counts = 1;
	total += block->instructions;
	block->count += block->instructions;
	if (begins || block->at != stop)
		return;
	fprintf(out, "total %lu\n", total);
	for (struct block *each = blocks; each; each = each->next) {
		if (each->count)
			fprintf(out, "%lx %lu\n", each->at, each->count);
		each->count = 0;
	}
	fflush(out);
	counts = 0, total = 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
	struct block *block = calloc(1, sizeof *block);

	(void)id;
	*block = (struct block){qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb), 0, blocks};
	blocks = block;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, 0, block);
}

SHOWN int qemu_plugin_install(plugin_id id, const void *info, int count, char **words)
{
	(void)info;
	for (int i = 0; i < count; i++) {
		if (!strncmp(words[i], "start=", 6))
			start = strtoull(words[i] + 6, 0, 16);
		if (!strncmp(words[i], "stop=", 5))
			stop = strtoull(words[i] + 5, 0, 16);
		if (!strncmp(words[i], "out=", 4))
			out = fopen(words[i] + 4, "w");
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return !start || !stop || !out;
}
