// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a guest: what runs in the guests of bench-life. Static, because
 * such a guest has no libraries.
 *
 *   life sweep|fault|wake|pipe MS   time a small piece of work again and again
 *   life neighbour                  allocate a little, now and then, for ever
 *   life fragment MIB N             keep one page of each N of so much memory
 *   life touch MIB                  need so much memory at once
 *   life files FOLDER COUNT KIB     create files
 *   life thin FOLDER COUNT          remove every second one of them
 *   life database FILE MIB DONE     look pages up in a mapped file, for ever
 *   life compile FILE MIB DONE      run processes that read parts of a file, and
 *                                   need memory of their own, for ever
 *
 * The last two add a line to DONE for each tenth of the file looked up, or each
 * process run.
 *
 * Times are printed in microseconds: samples, p50, p99, p99.9, the slowest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1024 * 1024)
#define MAX_SAMPLES 4000000
#define SWEEP_BYTES (2 * MIB)
#define NEIGHBOUR_BYTES MIB
#define FAULT_PAGES 16
#define WAKE_NS 1000000L
#define NEIGHBOUR_NS 20000000L

static size_t page_bytes;

static void fail(const char *what)
{
	fprintf(stderr, "life: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void sleep_ns(long ns)
{
	struct timespec t = { .tv_nsec = ns };

	nanosleep(&t, NULL);
}

static char *map(size_t bytes, int advice)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	/* a kernel without huge pages refuses advice about them: no matter */
	madvise(memory, bytes, advice);
	return memory;
}

static void touch_pages(char *memory, size_t bytes)
{
	size_t at;

	for (at = 0; at < bytes; at += page_bytes)
		memory[at] = 1;
}

/* Pieces of work: each returns how long it took, in microseconds. */

static double sweep(void)
{
	static long *memory;
	double start;
	size_t i;

	if (!memory) {
		memory = (long *)map(SWEEP_BYTES, MADV_NORMAL);
		touch_pages((char *)memory, SWEEP_BYTES);
	}
	start = now_us();
	for (i = 0; i < SWEEP_BYTES / sizeof(*memory); i += 8)
		memory[i]++;
	return now_us() - start;
}

static double fault(void)
{
	size_t bytes = FAULT_PAGES * page_bytes;
	double start = now_us();
	char *memory = map(bytes, MADV_NOHUGEPAGE);

	touch_pages(memory, bytes);
	munmap(memory, bytes);
	return now_us() - start;
}

static double wake(void)
{
	double start = now_us();

	sleep_ns(WAKE_NS);
	return now_us() - start - WAKE_NS / 1e3;
}

static void answer(int in, int out)
{
	char byte;

	prctl(PR_SET_PDEATHSIG, 9);
	while (read(in, &byte, 1) == 1 && write(out, &byte, 1) == 1)
		;
	_exit(0);
}

static double echo(void)
{
	static int there[2], back[2];
	static int ready;
	double start;
	char byte = 1;

	if (!ready) {
		if (pipe(there) || pipe(back))
			fail("pipe");
		if (!fork())
			answer(there[0], back[1]);
		ready = 1;
	}
	start = now_us();
	if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
		fail("pipe");
	return now_us() - start;
}

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

static void print_times(float *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare);
	printf("%zu %.1f %.1f %.1f %.1f\n", count, samples[count / 2],
	       samples[count * 99 / 100], samples[count * 999 / 1000],
	       samples[count - 1]);
}

static void measure(double (*work)(void), long ms)
{
	size_t bytes = MAX_SAMPLES * sizeof(float);
	float *samples = (float *)map(bytes, MADV_NORMAL);
	size_t count = 0;
	double end;

	/* the samples' own memory is not to be waited for later */
	touch_pages((char *)samples, bytes);
	work();
	end = now_us() + ms * 1e3;
	while (!count || (count < MAX_SAMPLES && now_us() < end))
		samples[count++] = work();
	print_times(samples, count);
}

static void neighbour(void)
{
	for (;;) {
		char *memory = map(NEIGHBOUR_BYTES, MADV_NOHUGEPAGE);

		touch_pages(memory, NEIGHBOUR_BYTES);
		munmap(memory, NEIGHBOUR_BYTES);
		sleep_ns(NEIGHBOUR_NS);
	}
}

static void fragment(size_t mib, size_t keep)
{
	char *memory = map(mib * MIB, MADV_NOHUGEPAGE);
	size_t page, pages = mib * MIB / page_bytes;

	touch_pages(memory, mib * MIB);
	for (page = 0; page < pages; page++)
		if (page % keep)
			madvise(memory + page * page_bytes, page_bytes,
				MADV_DONTNEED);
	printf("%zu\n", pages / keep);
	fflush(stdout);
	pause();
}

static void touch(size_t mib)
{
	char *memory = map(mib * MIB, MADV_NOHUGEPAGE);
	double start = now_us(), last = start, slowest = 0;
	size_t at;

	for (at = 0; at < mib * MIB; at += page_bytes) {
		double now;

		memory[at] = 1;
		now = now_us();
		if (now - last > slowest)
			slowest = now - last;
		last = now;
	}
	printf("%.1f %.1f\n", last - start, slowest);
}

static void file_name(char *name, size_t size, const char *folder, long number)
{
	if (snprintf(name, size, "%s/%ld/%ld", folder, number / 1000, number) >=
	    (int)size)
		exit(2);
}

static void files(const char *folder, long count, size_t kib)
{
	static char data[64 << 10];
	char name[256];
	long number;

	for (number = 0; number < count; number++) {
		size_t left = kib << 10;
		int fd;

		if (number % 1000 == 0) {
			snprintf(name, sizeof(name), "%s/%ld", folder,
				 number / 1000);
			if (mkdir(name, 0755) && errno != EEXIST)
				fail(name);
		}
		file_name(name, sizeof(name), folder, number);
		fd = open(name, O_CREAT | O_WRONLY, 0644);
		if (fd < 0)
			fail(name);
		while (left) {
			size_t part = left < sizeof(data) ? left : sizeof(data);

			if (write(fd, data, part) != (ssize_t)part)
				fail(name);
			left -= part;
		}
		close(fd);
	}
}

static void thin(const char *folder, long count)
{
	char name[256];
	long number;

	for (number = 0; number < count; number += 2) {
		file_name(name, sizeof(name), folder, number);
		if (unlink(name))
			fail(name);
	}
}

/* Someone at work for ever, who reads a disk and tells how far he is. */
struct work {
	const char *path;
	size_t mib;
	int done;
};

static const struct work *open_work(char **argv)
{
	static struct work w;

	w.path = argv[0];
	w.mib = strtoul(argv[1], NULL, 10);
	w.done = open(argv[2], O_CREAT | O_WRONLY | O_APPEND, 0644);
	if (w.done < 0)
		fail(argv[2]);
	return &w;
}

static void tell(const struct work *w)
{
	if (write(w->done, "\n", 1) != 1)
		fail("done");
}

/* The same numbers in each run. */
static size_t draw(size_t limit)
{
	static unsigned long long state = 1;

	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state >> 33) % limit;
}

static void use_bytes(const char *memory, size_t bytes)
{
	const long *word = (const long *)memory;
	long sum = 0;
	size_t i;

	for (i = 0; i < bytes / sizeof(*word); i++)
		sum += word[i];
	asm volatile("" : : "r"(sum));
}

/* Of ten lookups nine go to every tenth page of the file, one anywhere. */
static void database(const struct work *w)
{
	size_t pages = w->mib * MIB / page_bytes, i;
	int fd = open(w->path, O_RDONLY);
	char *file;

	if (fd < 0)
		fail(w->path);
	file = mmap(NULL, w->mib * MIB, PROT_READ, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED)
		fail("mmap");
	madvise(file, w->mib * MIB, MADV_RANDOM);
	for (i = 0; i < pages; i++)
		use_bytes(file + i * page_bytes, page_bytes);
	for (;;) {
		for (i = 0; i < pages / 10; i++) {
			size_t page = draw(10) ? draw(pages / 10) * 10 :
						 draw(pages);

			use_bytes(file + page * page_bytes, page_bytes);
		}
		tell(w);
	}
}

#define UNIT_PARTS 32
#define UNIT_PART_BYTES (MIB / 2)

/* Parts of the file, as of headers, and as much memory of its own. */
static void compile_unit(int fd, const off_t *parts)
{
	char *memory = map(UNIT_PARTS * UNIT_PART_BYTES, MADV_NORMAL);
	size_t i;

	for (i = 0; i < UNIT_PARTS; i++) {
		char *to = memory + i * UNIT_PART_BYTES;

		if (pread(fd, to, UNIT_PART_BYTES, parts[i]) != UNIT_PART_BYTES)
			fail("pread");
		use_bytes(to, UNIT_PART_BYTES);
	}
}

static void compile(const struct work *w)
{
	off_t parts[UNIT_PARTS];
	int fd = open(w->path, O_RDONLY);

	if (fd < 0)
		fail(w->path);
	for (;;) {
		int status = 1;
		pid_t child;
		size_t i;

		for (i = 0; i < UNIT_PARTS; i++)
			parts[i] = draw(w->mib * MIB / UNIT_PART_BYTES) *
				   UNIT_PART_BYTES;
		child = fork();
		if (!child) {
			compile_unit(fd, parts);
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			fail("compile");
		tell(w);
	}
}

static int bad_usage(void)
{
	fprintf(stderr,
		"try: life sweep|fault|wake|pipe MS | neighbour | fragment MIB N |\n"
		"       touch MIB | files FOLDER COUNT KIB | thin FOLDER COUNT |\n"
		"       database|compile FILE MIB DONE\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		double (*work)(void);
	} works[] = { { "sweep", sweep },
		      { "fault", fault },
		      { "wake", wake },
		      { "pipe", echo } };
	const char *what = argc > 1 ? argv[1] : "";
	size_t i;

	page_bytes = sysconf(_SC_PAGESIZE);
	for (i = 0; argc == 3 && i < sizeof(works) / sizeof(works[0]); i++)
		if (!strcmp(what, works[i].name)) {
			measure(works[i].work, strtol(argv[2], NULL, 10));
			return 0;
		}
	if (!strcmp(what, "neighbour"))
		neighbour();
	else if (!strcmp(what, "fragment") && argc == 4 && atol(argv[3]) > 0)
		fragment(strtoul(argv[2], NULL, 10),
			 strtoul(argv[3], NULL, 10));
	else if (!strcmp(what, "touch") && argc == 3)
		touch(strtoul(argv[2], NULL, 10));
	else if (!strcmp(what, "files") && argc == 5)
		files(argv[2], strtol(argv[3], NULL, 10),
		      strtoul(argv[4], NULL, 10));
	else if (!strcmp(what, "thin") && argc == 4)
		thin(argv[2], strtol(argv[3], NULL, 10));
	else if (!strcmp(what, "database") && argc == 5)
		database(open_work(argv + 2));
	else if (!strcmp(what, "compile") && argc == 5)
		compile(open_work(argv + 2));
	else
		return bad_usage();
	return 0;
}
