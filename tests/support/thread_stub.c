/* Preloaded into a hive: a thread hangs as long as a file of its name is in the folder THREAD_STUB, from the next time
 * that it looks at a clock; it then leaves a file <name>.hangs there, so that it can be seen. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    const char *folder = getenv("THREAD_STUB");
    char name[16] = {0}, hanging[4096], seen[4096];
    int before = errno;
    prctl(PR_GET_NAME, name);
    snprintf(hanging, sizeof hanging, "%s/%s", folder, name);
    if (!access(hanging, F_OK)) {
        snprintf(seen, sizeof seen, "%s/%s.hangs", folder, name);
        close(open(seen, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        while (!access(hanging, F_OK)) usleep(2000);
        unlink(seen);
    }
    errno = before;
    return (int)syscall(SYS_clock_gettime, clock, now);
}
