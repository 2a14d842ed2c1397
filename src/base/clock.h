/* Seconds since some fixed moment, for measuring durations. */
#ifndef DD_BASE_CLOCK_H
#define DD_BASE_CLOCK_H

#include <time.h>

static inline double dd_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
