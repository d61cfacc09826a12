// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the host can do at best: madvise(MADV_DONTNEED) over memory that was
 * written to, in pieces of several sizes, then the cost of touching it again,
 * and MADV_WILLNEED as QEMU uses it for each page that it gives back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5

static const size_t piece_kib[] = { 4, 8, 64, 512, 2048, 4096, 65536 };

static void fail(const char *what)
{
	fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void advise(char *memory, size_t bytes, size_t piece, int advice)
{
	size_t at;

	for (at = 0; at < bytes; at += piece)
		if (madvise(memory + at, piece, advice))
			fail("madvise");
}

static void touch(char *memory, size_t bytes)
{
	size_t at;

	for (at = 0; at < bytes; at += 4096)
		memory[at] = 1;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median_gib_s(double *seconds, size_t bytes)
{
	qsort(seconds, ROUNDS, sizeof(*seconds), compare);
	return bytes / seconds[ROUNDS / 2] / (1 << 30);
}

static void measure(char *memory, size_t bytes, size_t piece, const char *pages)
{
	double discard[ROUNDS], retouch[ROUNDS], willneed[ROUNDS];
	double start;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		memset(memory, 0xa5, bytes);
		start = now_s();
		advise(memory, bytes, piece, MADV_DONTNEED);
		discard[i] = now_s() - start;
		start = now_s();
		advise(memory, bytes, piece, MADV_WILLNEED);
		willneed[i] = now_s() - start;
		start = now_s();
		touch(memory, bytes);
		retouch[i] = now_s() - start;
	}
	printf("%-6s %8zu %12.2f %12.2f %12.2f\n", pages, piece >> 10,
	       median_gib_s(discard, bytes), median_gib_s(willneed, bytes),
	       median_gib_s(retouch, bytes));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	size_t bytes = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) << 20;
	size_t align = 64 << 20;
	int huge;

	if (!bytes || bytes % align) {
		fprintf(stderr, "usage: limits [MIB, a multiple of 64]\n");
		return 2;
	}
	printf("%zu MiB, median of %d; GiB/s\n", bytes >> 20, ROUNDS);
	printf("%-6s %8s %12s %12s %12s\n", "pages", "KiB/call", "discard",
	       "willneed", "touch again");
	for (huge = 1; huge >= 0; huge--) {
		char *memory = aligned_alloc(align, bytes);
		size_t i;

		if (!memory)
			fail("aligned_alloc");
		if (madvise(memory, bytes,
			    huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
			fail("madvise(MADV_HUGEPAGE)");
		for (i = 0; i < sizeof(piece_kib) / sizeof(piece_kib[0]); i++)
			measure(memory, bytes, piece_kib[i] << 10,
				huge ? "huge" : "small");
		free(memory);
	}
	return 0;
}
