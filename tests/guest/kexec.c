// SPDX-License-Identifier: GPL-2.0-only
/*
 * kexec KERNEL INITRD: start another kernel with the present command line. In
 * place of kexec-tools, which take over the reboots of a machine that they are
 * installed on.
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

int main(int argc, char **argv)
{
	char cmdline[2048];
	ssize_t len;

	if (argc != 3)
		errx(EXIT_FAILURE, "usage: kexec KERNEL INITRD");
	len = read(open_or_die("/proc/cmdline"), cmdline, sizeof(cmdline));
	if (len < 1)
		err(EXIT_FAILURE, "/proc/cmdline");
	/* The length counts the zero at the end; there was a newline. */
	cmdline[len - 1] = '\0';
	if (syscall(SYS_kexec_file_load, open_or_die(argv[1]),
		    open_or_die(argv[2]), len, cmdline, 0))
		err(EXIT_FAILURE, "kexec_file_load");
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
		LINUX_REBOOT_CMD_KEXEC, NULL);
	err(EXIT_FAILURE, "reboot");
}
