/* Preloaded into a hive: a disk that hangs. Whoever opens a log to read it waits as long as the file HANG_STUB is
 * there, and leaves a file HANG_STUB.<thread> behind, so that it can be seen who hangs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int (*real)(const char *, int, ...);

__attribute__((constructor)) static void find(void) { real = dlsym(RTLD_NEXT, "open64"); }

static void hang(const char *path) {
    const char *hanging = getenv("HANG_STUB"), *ending = strrchr(path, '.');
    if (!hanging || !ending || strcmp(ending, ".log") || access(hanging, F_OK)) return;
    char seen[4096];
    snprintf(seen, sizeof seen, "%s.%d", hanging, (int)gettid());
    close(real(seen, O_CREAT | O_WRONLY, 0600));
    while (!access(hanging, F_OK)) usleep(5000);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    if (!(flags & (O_WRONLY | O_RDWR))) hang(path);
    return real(path, flags, mode);
}
