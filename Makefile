# SPDX-License-Identifier: GPL-2.0-only
# The front end: everything a person types. What Kbuild reads is in Kbuild.

VERSION	:= $(shell cat VERSION)
KVER	?= $(shell scripts/kernel-headers)
KDIR	?= /lib/modules/$(KVER)/build
K	?=
FILTER	?=
SEED	?=
STEPS	?=
KEEP	?=
RUNS	?=
INPUT	?=
KERNEL	?=
SAMPLE	?=
export K FILTER SEED STEPS KEEP KERNEL SAMPLE RUNS INPUT VERSION

.DEFAULT_GOAL := all

.PHONY: all modules clean install uninstall
all: modules ## Build vballoon.ko for the newest installed kernel headers (KVER=, KDIR=)

modules:
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

clean: ## Remove what the build made
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean

install: modules ## Install the module, and what gives it the device at boot, for the running kernel
	scripts/install $(KDIR)

uninstall: ## Take the module away again; virtio_balloon has the device at once
	scripts/install --remove

.PHONY: demo demo-overcommit
demo: ## Watch a real guest give 3 GiB to its host and take them back
	scripts/setup guest
	scripts/demo

demo-overcommit: ## Three guests share less memory than they believe they have
	scripts/setup guest host
	scripts/demo-overcommit

.PHONY: test test-all guest-test guest-test-debug kunit simulate fuzz mutants host-test model check coverage matrix matrix-full boot-matrix fresh into-tree-test configs
test: ## Run every suite, of some the core; ends with 'N passed, N failed, N skipped'
	scripts/setup guest package kunit check host model
	tests/run/test

test-all: ## Run all tests: what continuous integration runs, three times as long
	scripts/setup guest package kunit check host model
	tests/run/test --all

guest-test: ## Real guests under QEMU only (K=pattern selects)
	scripts/setup guest package kunit
	tests/run/guest-test

guest-test-debug: ## The same guests on the KASAN and lockdep kernel (K=pattern selects; KERNEL=)
	scripts/setup guest kunit $(filter rt,$(KERNEL))
	tests/run/guest-test --debug-kernel

kunit: ## Unit tests in the debug kernel (FILTER=pattern selects; KERNEL=rt, kcsan)
	scripts/setup kunit $(filter rt,$(KERNEL))
	tests/run/kunit

simulate: ## The driver between a host and a guest that do anything (STEPS=; SEED= replays, with STEPS= begins there)
	scripts/setup kunit
	tests/run/simulate

mutants: ## Change the driver in many small ways; each has to be noticed (SAMPLE=, 0 for all)
	scripts/setup kunit
	tests/run/mutants

fuzz: ## The same, led by coverage, with a host that lies (RUNS=, INPUT= replays)
	scripts/setup kunit
	tests/run/fuzz

host-test: ## Tests of balloonctl and libvirt (K=pattern selects)
	scripts/setup guest host
	tests/run/host-test

model: ## Check the models of the protocol with Spin, all states and all mutants
	scripts/setup model
	tests/run/model --all

check: ## Static checks: format, checkpatch, kernel-doc, sparse, cocci, W=1, shell, Python
	scripts/setup check
	tests/run/check

coverage: ## Line coverage per file of the unit tests
	scripts/setup kunit
	tests/run/coverage

matrix: ## Build for and boot each supported kernel; prints the support table
	scripts/setup guest matrix
	tests/run/matrix

matrix-full: ## The same with the guest tests: all on amd64, the core of them elsewhere; and all of configs
	scripts/setup guest kunit matrix
	tests/run/configs
	tests/run/matrix --tests

into-tree-test: ## The driver in a kernel's tree: kunit.py (UML, QEMU), built in, first at the device
	scripts/setup guest kunit
	tests/run/into-tree

configs: ## Build for kernels with other options: no NUMA, no migration, UML, allmodconfig ...
	scripts/setup kunit
	tests/run/configs

boot-matrix: ## Boot Debian with each state of the module, initramfs and Secure Boot
	scripts/setup guest package
	tests/run/guest-test -m 'long or not long' -k test_boot

fresh: ## make test, or C='any command', in a bare Debian 12 (SUITE=trixie: Debian 13)
	scripts/setup package
	tests/run/fresh $(C)

.PHONY: bench bench-pressure bench-life bench-balance
bench: ## vballoon beside virtio_balloon: speed, host calls, notifications
	scripts/setup guest
	tests/bench/bench

bench-pressure: ## vballoon beside virtio_balloon in a guest that is asked for too much
	scripts/setup guest
	tests/bench/bench-pressure

bench-life: ## vballoon beside virtio_balloon in guests in use: full caches, streams, fragments
	scripts/setup bench
	tests/bench/bench-life

bench-balance: ## balloonctl balance: processor time with 1000 guests, moves on a simulated day
	scripts/setup guest host
	tests/bench/bench-balance

.PHONY: dkms-install dkms-remove deb
dkms-install: ## Hand the sources to DKMS and the device to vballoon
	scripts/dkms install

dkms-remove: ## Take them back; nothing stays behind
	scripts/dkms remove

deb: ## Build the Debian packages into out/
	scripts/setup package
	scripts/deb

.PHONY: format help
format: ## Put the C files into the kernel's format
	clang-format -i *.c include/*.h tests/*/*.c tests/*/*.h tests/bench/life/*.c \
		tests/lib/vbalguest/hold_reports/*.c

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
		sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 22
