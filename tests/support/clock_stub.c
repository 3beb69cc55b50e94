/* Preloaded into a hive: its wall clock is off by as many seconds as stand in the file CLOCK_STUB, which may change at
 * any time. The monotonic clock is as it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long offset_s(void) {
    char text[32] = {0};
    int before = errno, file = open(getenv("CLOCK_STUB"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t length = read(file, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        close(file);
    }
    errno = before;
    return atoll(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset_s();
    return (int)failed;
}
