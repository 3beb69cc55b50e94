/* Preloaded into a program that must start no thread. */
#include <pthread.h>
#include <stdlib.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg) {
    (void)thread, (void)attr, (void)start, (void)arg;
    abort();
}
