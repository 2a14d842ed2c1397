/* A small test runner. A test program is a table of cases:
 *
 *     static void adds(dd_test *t) { DD_CHECK(t, 1 + 1 == 2); }
 *     int main(int argc, char **argv) {
 *         static const dd_test_case cases[] = {{"adds", adds}};
 *         return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
 *     }
 *
 * Options: --list, --filter TEXT. Programs run in the project's root folder. Exit: 0 all passed, 1 a case failed, 77 every case
 * was skipped. The last line is "N passed, N failed, N skipped".
 */
#ifndef DD_TEST_HARNESS_H
#define DD_TEST_HARNESS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

typedef struct dd_test {
    const char *name;
    int failures;
    bool skipped;
    ddit_err err; /* scratch for calls under test */
} dd_test;

typedef struct dd_test_case {
    const char *name;
    void (*run)(dd_test *t);
} dd_test_case;

int dd_test_main(int argc, char **argv, const dd_test_case *cases, size_t count);

/* Record a failure with the place and a formatted text; the case goes on. */
__attribute__((format(printf, 4, 5))) void dd_test_fail(dd_test *t, const char *file, int line, const char *format, ...);

/* Marks the case as skipped, with the reason; the caller returns. */
__attribute__((format(printf, 2, 3))) void dd_test_skip(dd_test *t, const char *format, ...);

#define DD_CHECK(t, condition) \
    do { if (!(condition)) dd_test_fail(t, __FILE__, __LINE__, "%s", #condition); } while (0)

/* For what the rest of the case needs: leaves the case function when it does not hold. */
#define DD_NEED(t, condition) \
    do { if (!(condition)) { dd_test_fail(t, __FILE__, __LINE__, "%s", #condition); return; } } while (0)

/* The call must return DDIT_OK; otherwise the error sentence is shown. Calls take &t->err. */
#define DD_OK(t, call)                                                                                                         \
    do {                                                                                                                       \
        ddit_status s_ = (call);                                                                                               \
        if (s_ != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s -> %d: %s", #call, (int)s_, (t)->err.text);                 \
    } while (0)
#define DD_NEED_OK(t, call)                                                                                                    \
    do {                                                                                                                       \
        ddit_status s_ = (call);                                                                                               \
        if (s_ != DDIT_OK) {                                                                                                   \
            dd_test_fail(t, __FILE__, __LINE__, "%s -> %d: %s", #call, (int)s_, (t)->err.text);                                \
            return;                                                                                                            \
        }                                                                                                                      \
    } while (0)

/* The call must fail with `code` and a sentence that contains `part` (NULL: any). */
#define DD_FAILS(t, call, code_, part)                                                                                         \
    do {                                                                                                                       \
        (t)->err = (ddit_err){0};                                                                                              \
        ddit_status s_ = (call);                                                                                               \
        const char *part_ = (part);                                                                                            \
        if (s_ != (code_))                                                                                                     \
            dd_test_fail(t, __FILE__, __LINE__, "%s -> %d (%s), expected %d", #call, (int)s_, (t)->err.text, (int)(code_));    \
        else if (part_ && !strstr((t)->err.text, part_))                                                                       \
            dd_test_fail(t, __FILE__, __LINE__, "\"%s\" does not contain \"%s\"", (t)->err.text, part_);                       \
    } while (0)

/* Distance measures over n floats: ||a-b|| / ||b|| (0 if both are 0), and max |a-b|. */
double dd_test_rel_l2(const float *a, const float *b, size_t n);
double dd_test_max_abs(const float *a, const float *b, size_t n);

/* An allocator that counts: `live` blocks, `total` allocations; allocation number `fail_at` (1-based, 0 = never) and, if
 * `fail_on`, all later ones return NULL. */
typedef struct dd_test_allocator {
    dd_allocator allocator;
    size_t live, total, fail_at;
    bool fail_on;
} dd_test_allocator;
void dd_test_allocator_init(dd_test_allocator *a);

/* Small deterministic generator for test data: uniform in [-1, 1). */
float dd_test_random(uint64_t *state);
uint32_t dd_test_random_u32(uint64_t *state);

#endif
