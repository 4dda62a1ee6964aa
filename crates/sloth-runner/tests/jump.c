/* What a program sees as the wall clock goes by the number of seconds in the file that JUMP names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *jump;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("JUMP"), O_RDONLY);
    jump = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (jump == MAP_FAILED) abort();
}
int clock_gettime(clockid_t clock, struct timespec *to) {
    int done = syscall(SYS_clock_gettime, clock, to);
    if (jump && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) to->tv_sec += *jump;
    return done;
}
int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
