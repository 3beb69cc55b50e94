/* Preloaded into a hive: files that are being fetched, and kinds that are being unpacked, are on a disk that is full
 * after DISK_STUB_BYTES, until the file DISK_STUB_ROOM is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long long written;

static int is_full(int fd, size_t count) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *ending = strrchr(path, '.');
    int is_fetched = ending && !strcmp(ending, ".incomplete");
    int is_unpacked = strstr(path, "/kinds/.new-") && strstr(path, "/files/");
    if (!is_fetched && !is_unpacked) return 0;
    const char *most = getenv("DISK_STUB_BYTES"), *room = getenv("DISK_STUB_ROOM");
    if (!most || (room && !access(room, F_OK))) return 0;
    return __sync_add_and_fetch(&written, (long long)count) > atoll(most);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (is_full(fd, count)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, count, offset);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (is_full(fd, count)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, count);
}
