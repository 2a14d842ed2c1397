#include "harness.h"

#include <stdarg.h>

static bool listed_only(int argc, char **argv, const dd_test_case *cases, size_t count, const char **filter) {
    *filter = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) {
            for (size_t k = 0; k < count; k++) puts(cases[k].name);
            return true;
        }
        if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) *filter = argv[++i];
    }
    return false;
}

int dd_test_main(int argc, char **argv, const dd_test_case *cases, size_t count) {
    const char *filter;
    if (listed_only(argc, argv, cases, count, &filter)) return 0;
    int passed = 0, failed = 0, skipped = 0;
    for (size_t k = 0; k < count; k++) {
        if (filter && !strstr(cases[k].name, filter)) continue;
        dd_test t = {.name = cases[k].name};
        cases[k].run(&t);
        if (t.failures) failed++;
        else if (t.skipped) skipped++;
        else passed++;
        if (t.failures || !t.skipped) printf("%s %s\n", t.failures ? "FAIL" : "ok  ", cases[k].name);
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    if (failed) return 1;
    return passed == 0 && skipped > 0 ? 77 : 0;
}

void dd_test_fail(dd_test *t, const char *file, int line, const char *format, ...) {
    t->failures++;
    if (t->failures > 20) return; /* the first ones tell enough */
    printf("  %s:%d: ", file, line);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void dd_test_skip(dd_test *t, const char *format, ...) {
    t->skipped = true;
    printf("SKIP %s: ", t->name);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

double dd_test_rel_l2(const float *a, const float *b, size_t n) {
    double difference = 0, reference = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        difference += d * d;
        reference += (double)b[i] * b[i];
    }
    if (difference == 0) return 0;
    return reference > 0 ? sqrt(difference / reference) : INFINITY;
}

double dd_test_max_abs(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst)) worst = d; /* NaN is kept */
    }
    return worst;
}

static void *counting_alloc(void *user, size_t size) {
    dd_test_allocator *a = user;
    a->total++;
    if (a->fail_at && (a->total == a->fail_at || (a->fail_on && a->total > a->fail_at))) return NULL;
    void *memory = dd_allocator_libc.alloc(NULL, size);
    if (memory) a->live++;
    return memory;
}

static void counting_free(void *user, void *memory) {
    dd_test_allocator *a = user;
    if (!memory) return;
    a->live--;
    dd_allocator_libc.free(NULL, memory);
}

void dd_test_allocator_init(dd_test_allocator *a) {
    *a = (dd_test_allocator){.allocator = {counting_alloc, counting_free, a}};
}

uint32_t dd_test_random_u32(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint32_t x = (uint32_t)((*state >> 33) ^ (*state >> 18));
    return x * 2654435761u;
}

float dd_test_random(uint64_t *state) { return (float)(dd_test_random_u32(state) >> 8) * 0x1p-23f - 1.0f; }
