/* Preloaded into a hive, and so into its workers: disks that fail.
 *
 * Files that are being fetched, and kinds that are being unpacked, are on a disk that is full after DISK_STUB_BYTES,
 * until the file DISK_STUB_ROOM is there.
 *
 * While the file DISK_STUB_FAULT is there, which holds the number of an error and a part of a path, what would change a
 * file with that part in its path fails with that error. On a full disk (ENOSPC) that is what needs room. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name)                   \
    static __typeof__(&name) real; \
    if (!real) real = dlsym(RTLD_NEXT, #name)

static long long written;

/* The error with which a change of `path` fails, or 0. */
static int fault(const char *path, int needs_room) {
    const char *control = getenv("DISK_STUB_FAULT");
    if (!control || !path) return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[256], part[200];
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    int error;
    if (sscanf(text, "%d %199s", &error, part) != 2 || !strstr(path, part)) return 0;
    return error == ENOSPC && !needs_room ? 0 : error;
}

static int fails(const char *path, int needs_room) {
    int error = fault(path, needs_room);
    if (error) errno = error;
    return error;
}

/* What a descriptor leads to; NULL if that is no path. */
static const char *path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return path;
}

static int is_full(int fd, size_t count) {
    char buffer[4096];
    const char *most = getenv("DISK_STUB_BYTES"), *room = getenv("DISK_STUB_ROOM");
    if (!most && !getenv("DISK_STUB_FAULT")) return 0;
    const char *path = path_of(fd, buffer, sizeof buffer);
    if (!path) return 0;
    if (fails(path, 1)) return 1;
    const char *ending = strrchr(path, '.');
    int is_fetched = ending && !strcmp(ending, ".incomplete");
    int is_unpacked = strstr(path, "/kinds/.new-") && strstr(path, "/files/");
    if (!is_fetched && !is_unpacked) return 0;
    if (!most || (room && !access(room, F_OK))) return 0;
    if (__sync_add_and_fetch(&written, (long long)count) <= atoll(most)) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    REAL(pwrite64);
    return is_full(fd, count) ? -1 : real(fd, bytes, count, offset);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    return is_full(fd, count) ? -1 : real(fd, bytes, count);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    int needs_room = (flags & O_CREAT) && access(path, F_OK);
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path, needs_room)) return -1;
    return real(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails(path, 1) ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    return fails(path, 0) ? -1 : real(path);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails(from, 0) || fails(to, 0) ? -1 : real(from, to);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    char path[4096];
    return fails(path_of(fd, path, sizeof path), 0) ? -1 : real(fd, length);
}
