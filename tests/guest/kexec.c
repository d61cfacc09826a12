// SPDX-License-Identifier: GPL-2.0-only
/*
 * kexec KERNEL INITRD: load another kernel, for the present command line.
 * kexec: start it. In place of kexec-tools, which take over the reboots of a
 * machine that they are installed on.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_or_die(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(EXIT_FAILURE, "%s", path);
	return fd;
}

static void load(const char *kernel, const char *initrd)
{
	char cmdline[2048];
	ssize_t len;

	len = read(open_or_die("/proc/cmdline"), cmdline, sizeof(cmdline));
	if (len < 1)
		err(EXIT_FAILURE, "/proc/cmdline");
	/* The length counts the zero at the end; there was a newline. */
	cmdline[len - 1] = '\0';
	if (syscall(SYS_kexec_file_load, open_or_die(kernel),
		    open_or_die(initrd), len, cmdline, 0))
		err(EXIT_FAILURE, "kexec_file_load");
}

int main(int argc, char **argv)
{
	if (argc == 3) {
		load(argv[1], argv[2]);
		return EXIT_SUCCESS;
	}
	if (argc != 1)
		errx(EXIT_FAILURE, "usage: kexec [KERNEL INITRD]");
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
		LINUX_REBOOT_CMD_KEXEC, NULL);
	err(EXIT_FAILURE, "reboot");
}
