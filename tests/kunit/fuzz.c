// SPDX-License-Identifier: GPL-2.0-only
/*
 * The simulation led by coverage instead of chance: the bytes of an input decide
 * all that a seed decides else, and what a hostile host does besides. An input
 * that reaches what none before has reached is kept, and changed further.
 *
 * The compiler calls __sanitizer_cov_trace_pc() at each basic block of the driver,
 * and of nothing else (Kbuild). tests/run/fuzz hands inputs in and gets the kept
 * ones out through the kernel's log.
 */
#include "simulate.h"

#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/kmsg_dump.h>
#include <linux/moduleparam.h>
#include <linux/panic_notifier.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#define FUZZ_MAP_BITS 16
#define FUZZ_MAP_SIZE BIT(FUZZ_MAP_BITS)
#define FUZZ_MAX_LEN 192u
#define FUZZ_MAX_INPUTS 4096u
/* As many changes at most to make of one input another. */
#define FUZZ_MAX_CHANGES 8u
/* Half of the inputs that are chosen are among the last that were found. */
#define FUZZ_NEW_ONES 32u
/* Of so many that are drawn the one that costs least is changed, mostly. */
#define FUZZ_RIVALS 3u
#define FUZZ_RUNS_TO_TELL 1000

/**
 * struct fuzz_input - what a life's choices are made by
 * @cost: basic blocks that it took the driver through
 * @len: so many of @bytes
 * @bytes: them
 */
struct fuzz_input {
	unsigned long cost;
	unsigned int len;
	u8 bytes[FUZZ_MAX_LEN];
};

/**
 * struct fuzz - what is known so far, from one word to the next
 * @kept: the inputs that are worth changing
 * @nr_kept: entries of @kept
 * @now: the one that runs, or ran last
 * @seen: by edge, the classes of how often it was passed, a bit each
 * @nr_edges: entries of @seen that are not zero
 * @rnd: what changes are drawn from
 */
static struct fuzz {
	struct fuzz_input kept[FUZZ_MAX_INPUTS];
	unsigned int nr_kept;
	struct fuzz_input now;
	u8 seen[FUZZ_MAP_SIZE];
	unsigned int nr_edges;
	struct rnd_state rnd;
} fuzz;

/* Coverage ------------------------------------------------------------------- */

/* How often each edge was passed by the input that runs. */
static u8 fuzz_map[FUZZ_MAP_SIZE];
static unsigned long fuzz_from;

void __sanitizer_cov_trace_pc(void);

/*
 * An edge is where from and where to, both relative to this module. Who comes in
 * between, as another thread or an interrupt, makes an edge of its own.
 */
notrace void __sanitizer_cov_trace_pc(void)
{
	unsigned long to = _RET_IP_ - (unsigned long)__sanitizer_cov_trace_pc;
	u8 *count;

	to = hash_long(to, FUZZ_MAP_BITS);
	count = &fuzz_map[to ^ fuzz_from];
	*count += *count < U8_MAX;
	fuzz_from = to >> 1;
	fuzz.now.cost++;
}

/* A class of counts, a bit each, begins with each of these. */
static const u8 fuzz_classes[] = { 1, 2, 3, 4, 8, 16, 32, 128 };

static u8 fuzz_class(u8 count)
{
	unsigned int i = ARRAY_SIZE(fuzz_classes);

	while (i && count < fuzz_classes[i - 1])
		i--;
	return i ? BIT(i - 1) : 0;
}

static bool fuzz_is_new(unsigned int i)
{
	u8 class = fuzz_class(fuzz_map[i]);

	if (!(class & ~fuzz.seen[i]))
		return false;
	fuzz.nr_edges += !fuzz.seen[i];
	fuzz.seen[i] |= class;
	return true;
}

/* Return: how many edges were passed, or passed so often, for the first time. */
static unsigned int fuzz_look(void)
{
	const u8 *end = fuzz_map + FUZZ_MAP_SIZE, *at = fuzz_map;
	unsigned int nr_new = 0;

	while ((at = memchr_inv(at, 0, end - at)))
		nr_new += fuzz_is_new(at++ - fuzz_map);
	return nr_new;
}

/* Inputs --------------------------------------------------------------------- */

static void fuzz_print(const char *what, const struct fuzz_input *input)
{
	char text[2 * FUZZ_MAX_LEN + 1];

	*bin2hex(text, input->bytes, input->len) = '\0';
	pr_crit("%s|%s\n", what, text);
}

static int fuzz_keep(void)
{
	if (fuzz.nr_kept == FUZZ_MAX_INPUTS)
		return -ENOSPC;
	fuzz.kept[fuzz.nr_kept++] = fuzz.now;
	fuzz_print("new", &fuzz.now);
	return 0;
}

/* A life whose bytes are fuzz.now. */
static int fuzz_run_input(bool trace, char *report, size_t size)
{
	struct sim_plan plan = {
		.input = fuzz.now.bytes,
		.input_len = fuzz.now.len,
		.nr_episodes = 1,
		.nr_steps = SIM_MAX_STEPS,
		.slow = IS_ENABLED(CONFIG_UML),
		.trace = trace,
	};
	int ret;

	bitmap_fill(plan.keep, SIM_MAX_STEPS);
	memset(fuzz_map, 0, sizeof(fuzz_map));
	fuzz_from = 0;
	fuzz.now.cost = 0;
	ret = sim_run(&plan, report, size);
	if (ret)
		fuzz_print("failing", &fuzz.now);
	else if (fuzz_look())
		ret = fuzz_keep();
	return ret;
}

/* Changes -------------------------------------------------------------------- */

static u32 fuzz_draw(u32 nr)
{
	return prandom_u32_state(&fuzz.rnd) % nr;
}

static const struct fuzz_input *fuzz_choose(void)
{
	unsigned int among = fuzz.nr_kept;
	unsigned int nr = fuzz_draw(8) ? FUZZ_RIVALS : 1;
	const struct fuzz_input *chosen = NULL, *rival;

	if (fuzz_draw(2))
		among = min(among, FUZZ_NEW_ONES);
	while (nr--) {
		rival = &fuzz.kept[fuzz.nr_kept - 1 - fuzz_draw(among)];
		if (!chosen || rival->cost < chosen->cost)
			chosen = rival;
	}
	return chosen;
}

/* Put @nr bytes in at @at; what is beyond the longest falls off. */
static void fuzz_insert(unsigned int at, const u8 *bytes, unsigned int nr)
{
	struct fuzz_input *in = &fuzz.now;

	nr = min(nr, FUZZ_MAX_LEN - at);
	memmove(in->bytes + at + nr, in->bytes + at,
		min(in->len - at, FUZZ_MAX_LEN - at - nr));
	memcpy(in->bytes + at, bytes, nr);
	in->len = min(in->len + nr, FUZZ_MAX_LEN);
}

static void fuzz_remove(unsigned int at, unsigned int nr)
{
	struct fuzz_input *in = &fuzz.now;

	nr = min(nr, in->len - at);
	memmove(in->bytes + at, in->bytes + at + nr, in->len - at - nr);
	in->len -= nr;
}

/* A piece of another input, or some bytes that nobody has thought of. */
static void fuzz_insert_piece(unsigned int at)
{
	const struct fuzz_input *other = fuzz_choose();
	unsigned int from, nr = 1 + fuzz_draw(8);
	u8 bytes[8];

	if (fuzz_draw(2) && other->len) {
		from = fuzz_draw(other->len);
		fuzz_insert(at, other->bytes + from,
			    min(4 * nr, other->len - from));
		return;
	}
	prandom_bytes_state(&fuzz.rnd, bytes, sizeof(bytes));
	fuzz_insert(at, bytes, nr);
}

static void fuzz_change(void)
{
	struct fuzz_input *in = &fuzz.now;
	unsigned int at = fuzz_draw(in->len + 1);

	if (at == in->len) {
		fuzz_insert_piece(at);
		return;
	}
	switch (fuzz_draw(6)) {
	case 0:
		in->bytes[at] ^= BIT(fuzz_draw(8));
		break;
	case 1:
		in->bytes[at] = fuzz_draw(256);
		break;
	case 2:
		in->bytes[at] += fuzz_draw(2) ? 1 : -1;
		break;
	case 3:
		fuzz_remove(at, 1 + fuzz_draw(16));
		break;
	default:
		fuzz_insert_piece(at);
		break;
	}
}

static void fuzz_make_input(void)
{
	unsigned int nr_changes = 1 + fuzz_draw(FUZZ_MAX_CHANGES);

	fuzz.now = (struct fuzz_input){};
	if (fuzz.nr_kept)
		fuzz.now = *fuzz_choose();
	while (nr_changes--)
		fuzz_change();
}

/* The parameter -------------------------------------------------------------- */

static char fuzz_last_report[PAGE_SIZE];
static unsigned long fuzz_nr_run;

/* So many inputs, changed as @seed has it. */
static int fuzz_go_on(u64 seed, unsigned long nr_runs)
{
	int ret = fuzz.nr_kept ? 0 : fuzz_keep();

	prandom_seed_state(&fuzz.rnd, seed);
	while (!ret && nr_runs--) {
		fuzz_make_input();
		ret = fuzz_run_input(false, fuzz_last_report,
				     sizeof(fuzz_last_report));
		/* Who listens must not take this for the end. */
		if (!(++fuzz_nr_run % FUZZ_RUNS_TO_TELL))
			pr_crit("at|%lu\n", fuzz_nr_run);
	}
	return ret == -ENOSPC ? 0 : ret;
}

static int fuzz_one(const char *text, bool trace)
{
	size_t len = strlen(text) / 2;

	if (len > FUZZ_MAX_LEN || hex2bin(fuzz.now.bytes, text, len))
		return -EINVAL;
	fuzz.now.len = len;
	fuzz_nr_run++;
	return fuzz_run_input(trace, fuzz_last_report,
			      sizeof(fuzz_last_report));
}

static int fuzz_each(char *texts)
{
	char *text;
	int ret = 0;

	while (!ret && (text = strsep(&texts, " ")))
		ret = fuzz_one(text, false);
	return ret;
}

/* "run SEED NR", "input HEX...", "trace HEX" */
static int fuzz_obey(void *data)
{
	char *text = strim(data);
	unsigned long nr_runs;
	u64 seed;

	if (!strncmp(text, "input ", 6))
		return fuzz_each(text + 6);
	if (!strncmp(text, "trace ", 6))
		return fuzz_one(text + 6, true);
	if (sscanf(text, "run %llu %lu", &seed, &nr_runs) == 2)
		return fuzz_go_on(seed, nr_runs);
	return -EINVAL;
}

/* What was said and not shown, such as what lies in memory when there is no more. */
static void fuzz_last_words(void)
{
	static char words[SZ_16K];
	struct kmsg_dump_iter iter;
	char *rest = words, *line;
	size_t len;

	kmsg_dump_rewind(&iter);
	if (!kmsg_dump_get_buffer(&iter, false, words, sizeof(words) - 1, &len))
		return;
	words[len] = '\0';
	while ((line = strsep(&rest, "\n")))
		pr_crit("log: %s\n", line);
}

/* The kernel dies: of what? User Mode Linux leaves the kernel no time to tell. */
static int fuzz_panic(struct notifier_block *nb, unsigned long action,
		      void *data)
{
	fuzz_last_words();
	sim_last_words();
	fuzz_print("failing", &fuzz.now);
	return NOTIFY_DONE;
}

/* First: User Mode Linux ends in one of the others. */
static struct notifier_block fuzz_panic_nb = {
	.notifier_call = fuzz_panic,
	.priority = INT_MAX,
};

static int fuzz_param_set(const char *val, const struct kernel_param *kp)
{
	struct atomic_notifier_head *chain = &panic_notifier_list;
	char *text = kstrdup(val, GFP_KERNEL);
	int ret;

	if (!text)
		return -ENOMEM;
	atomic_notifier_chain_register(chain, &fuzz_panic_nb);
	ret = sim_run_errand(fuzz_obey, text);
	atomic_notifier_chain_unregister(chain, &fuzz_panic_nb);
	kfree(text);
	return ret;
}

static int fuzz_param_get(char *buffer, const struct kernel_param *kp)
{
	const char *failed = strstr(fuzz_last_report, "failed|") ?: "";

	return scnprintf(buffer, PAGE_SIZE, "runs|%lu|%u|%u\n%.*s\n",
			 fuzz_nr_run, fuzz.nr_kept, fuzz.nr_edges,
			 (int)strcspn(failed, "\n"), failed);
}

static const struct kernel_param_ops fuzz_param_ops = {
	.set = fuzz_param_set,
	.get = fuzz_param_get,
};
module_param_cb(fuzz, &fuzz_param_ops, NULL, 0600);
MODULE_PARM_DESC(fuzz, "run SEED NR, input HEX..., trace HEX, at run time");
