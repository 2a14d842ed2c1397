/* Decisions and quantiles against torch and plain Python (tests/golden/schedule, made by tools/make_schedule_goldens.py). */
#include <jansson.h>

#include "harness.h"
#include "schedule/patch_policy.h"

static float from_bits(const char *hex) {
    uint32_t bits = (uint32_t)strtoul(hex, NULL, 16);
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Uniform in [0, scale), the same numbers as Random.array of the tool. */
static void fill(uint64_t *state, float scale, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = scale * ((float)(dd_test_random_u32(state) >> 8) * 0x1p-24f);
}

static void quantile_equals_torch(dd_test *t) {
    json_t *root = json_load_file("tests/golden/schedule/quantile.json", 0, NULL);
    DD_NEED(t, root);
    size_t i;
    json_t *c;
    int equal = 0;
    json_array_foreach(root, i, c) {
        uint64_t state = (uint64_t)json_integer_value(json_array_get(c, 0));
        size_t count = (size_t)json_integer_value(json_array_get(c, 1));
        float rho = (float)json_number_value(json_array_get(c, 2));
        float expected = from_bits(json_string_value(json_array_get(c, 3)));
        float values[3000];
        fill(&state, 0.01f, values, count);
        float s = dd_quantile(values, count, rho);
        equal += s == expected;
        if (fabsf(s - expected) > 1e-7f * expected)
            dd_test_fail(t, __FILE__, __LINE__, "case %zu: %.9g, torch %.9g", i, s, expected);
    }
    DD_CHECK(t, equal == (int)json_array_size(root)); /* holds for torch on processors with FMA */
    json_decref(root);
}

static void quantile_edges(dd_test *t) {
    float one[] = {3}, nan[] = {1, NAN, 2}, ties[] = {2, 1, 2, 2, 1, 2}, falling[] = {5, 4, 3, 2, 1};
    DD_CHECK(t, isnan(dd_quantile(one, 0, 0.4f)));
    DD_CHECK(t, dd_quantile(one, 1, 0.4f) == 3);
    DD_CHECK(t, isnan(dd_quantile(nan, 3, 0.4f)));
    DD_CHECK(t, dd_quantile(ties, 6, 0.4f) == 2 && dd_quantile(ties, 6, 0) == 1);
    DD_CHECK(t, dd_quantile(falling, 5, 1) == 5 && dd_quantile(falling, 5, 0) == 1 && dd_quantile(falling, 5, 0.5f) == 3);
    DD_CHECK(t, fabsf(dd_quantile(falling, 5, 0.4f) - 2.6f) < 1e-6f);
}

static dd_patch_policy read_policy(const json_t *c) {
    dd_patch_policy p = dd_patch_policy_default();
    p.kind = strcmp(json_string_value(json_array_get(c, 3)), "auto") == 0 ? DD_PATCH_AUTO : DD_PATCH_REGION;
    p.order = (int)json_integer_value(json_array_get(c, 6));
    p.rho = json_number_value(json_array_get(c, 7));
    p.tau = json_number_value(json_array_get(c, 8));
    p.tau_by_hand = json_integer_value(json_array_get(c, 9)) != 0;
    p.tau_steps = json_number_value(json_array_get(c, 10));
    for (size_t i = 1; i < DD_FACTOR_COUNT; i++) {
        p.sigma_min[i] = json_number_value(json_array_get(json_array_get(c, 13), i - 1));
        p.allowed[i] = json_integer_value(json_array_get(json_array_get(c, 14), i - 1)) != 0;
    }
    return p;
}

/* One case of policy.json; see the tool for the order of its fields. */
static void check_case(dd_test *t, size_t number, const json_t *c) {
    uint64_t state = (uint64_t)json_integer_value(json_array_get(c, 0));
    dd_grid grid = {(int)json_integer_value(json_array_get(c, 1)), (int)json_integer_value(json_array_get(c, 2)), 2};
    dd_patch_policy policy = read_policy(c);
    dd_test_allocator counter;
    dd_test_allocator_init(&counter);
    dd_patch_decider decider;
    dd_layout layout;
    DD_NEED_OK(t, dd_patch_decider_init(&decider, &counter.allocator, &policy, (int)json_integer_value(json_array_get(c, 4)),
                                        grid, &t->err));
    DD_NEED_OK(t, dd_layout_init(&layout, &counter.allocator, grid, &t->err));
    double effective = json_number_value(json_array_get(c, 11));
    DD_CHECK(t, fabs(decider.tau_effective - effective) <= 1e-14 * effective);

    dd_patch_step step = {.index = (int)json_integer_value(json_array_get(c, 5)),
                          .sigma = from_bits(json_string_value(json_array_get(c, 12)))};
    float stds[DD_FACTOR_COUNT][128], stat[DD_FACTOR_COUNT];
    const json_t *expected = json_array_get(c, 15);
    for (int i = 1; i < DD_FACTOR_COUNT; i++) {
        int k = dd_factor_at(i), rows = grid.rows / k, cols = grid.cols / k;
        fill(&state, 0.01f, stds[i], (size_t)(rows * cols));
        bool needed = dd_patch_needs_stats(&decider, step.index, k, false);
        DD_CHECK(t, needed == json_is_string(json_array_get(expected, (size_t)i - 1)));
        if (needed) step.stats[i] = (dd_patch_stats){stds[i], rows, cols};
    }
    size_t allocations = counter.total;
    DD_OK(t, dd_patch_decide(&decider, &step, &layout, stat, &t->err));
    DD_CHECK(t, counter.total == allocations);
    DD_CHECK(t, isnan(stat[0]));
    for (int i = 1; i < DD_FACTOR_COUNT; i++) {
        const char *hex = json_string_value(json_array_get(expected, (size_t)i - 1));
        DD_CHECK(t, hex ? stat[i] == from_bits(hex) : isnan(stat[i]));
    }
    bool right = true;
    for (size_t i = 0; i < DD_FACTOR_COUNT; i++)
        right = right && layout.cell_count[i] == json_integer_value(json_array_get(json_array_get(c, 17), i));
    char text[256] = "";
    if (policy.kind == DD_PATCH_REGION) dd_layout_to_string(&layout, text);
    if (!right || strcmp(text, json_string_value(json_array_get(c, 16))) != 0)
        dd_test_fail(t, __FILE__, __LINE__, "case %zu: cells %d %d %d, layout %s", number, layout.cell_count[0],
                     layout.cell_count[1], layout.cell_count[2], text);
    dd_layout_deinit(&layout);
    dd_patch_decider_deinit(&decider);
    DD_CHECK(t, counter.live == 0);
}

static void decisions_equal_python(dd_test *t) {
    json_t *root = json_load_file("tests/golden/schedule/policy.json", 0, NULL);
    DD_NEED(t, root && json_array_size(root) >= 200);
    size_t i;
    json_t *c;
    json_array_foreach(root, i, c) check_case(t, i, c);
    json_decref(root);
}

static const dd_grid small = {8, 8, 2};

/* A decider for the small grid, and a step with every std of factor 2 and 4 given. */
typedef struct bench {
    dd_patch_decider decider;
    dd_layout layout;
    float two[16], four[4], stat[DD_FACTOR_COUNT];
    dd_patch_step step;
} bench;

static ddit_status bench_init(bench *b, const dd_patch_policy *policy, ddit_err *err) {
    *b = (bench){.step = {.index = 10, .sigma = 0.5f}};
    for (int i = 0; i < 16; i++) b->two[i] = 0.01f;
    for (int i = 0; i < 4; i++) b->four[i] = 0.01f;
    b->step.stats[1] = (dd_patch_stats){b->two, 4, 4};
    b->step.stats[2] = (dd_patch_stats){b->four, 2, 2};
    DD_TRY(dd_layout_init(&b->layout, &dd_allocator_libc, small, err));
    return dd_patch_decider_init(&b->decider, &dd_allocator_libc, policy, 50, small, err);
}

static void bench_deinit(bench *b) {
    dd_layout_deinit(&b->layout);
    dd_patch_decider_deinit(&b->decider);
}

static dd_patch_policy policy_of(dd_patch_kind kind) {
    dd_patch_policy p = dd_patch_policy_default();
    p.kind = kind;
    p.allowed[1] = p.allowed[2] = true;
    return p;
}

static int decided(dd_test *t, bench *b) {
    DD_OK(t, dd_patch_decide(&b->decider, &b->step, &b->layout, b->stat, &t->err));
    return dd_layout_uniform_factor(&b->layout);
}

static void auto_boundaries(dd_test *t) {
    dd_patch_policy p = policy_of(DD_PATCH_AUTO);
    p.tau = 0.01f; /* exactly the stds: "below" must not hold */
    p.tau_by_hand = true;
    p.sigma_min[2] = 0.5;
    bench b;
    DD_NEED_OK(t, bench_init(&b, &p, &t->err));
    DD_CHECK(t, decided(t, &b) == 1 && b.stat[1] == 0.01f && b.stat[2] == 0.01f);
    for (int i = 0; i < 4; i++) b.four[i] = 0.009f;
    DD_CHECK(t, decided(t, &b) == 4); /* sigma equal to the floor counts */
    b.step.sigma = 0.49999997f;
    DD_CHECK(t, decided(t, &b) == 1);
    for (int i = 0; i < 16; i++) b.two[i] = 0.009f;
    DD_CHECK(t, decided(t, &b) == 2);
    b.step.index = 2; /* before `order` */
    DD_CHECK(t, decided(t, &b) == 1);
    b.step.index = 3;
    DD_CHECK(t, decided(t, &b) == 2);
    b.step.stats[1].std = NULL;
    DD_CHECK(t, decided(t, &b) == 1 && isnan(b.stat[1]));
    b.step.stats[2].rows = 3;
    DD_FAILS(t, dd_patch_decide(&b.decider, &b.step, &b.layout, b.stat, &t->err), DDIT_ERR_INTERNAL, "3 x 2 cells");
    bench_deinit(&b);
}

static void nan_is_never_still(dd_test *t) {
    for (int kind = DD_PATCH_AUTO; kind <= DD_PATCH_REGION; kind++) {
        dd_patch_policy p = policy_of((dd_patch_kind)kind);
        bench b;
        DD_NEED_OK(t, bench_init(&b, &p, &t->err));
        for (int i = 0; i < 16; i++) b.two[i] = NAN;
        for (int i = 0; i < 4; i++) b.four[i] = NAN;
        DD_CHECK(t, decided(t, &b) == 1 && isnan(b.stat[2]));
        bench_deinit(&b);
    }
}

static void region_by_hand(dd_test *t) {
    dd_patch_policy p = policy_of(DD_PATCH_REGION);
    bench b;
    char text[32];
    DD_NEED_OK(t, bench_init(&b, &p, &t->err));
    b.four[0] = 0.0005f;
    b.two[0] = 0.9f;     /* top down: not looked at under a still block */
    b.two[2] = 0.0005f;  /* row 0, col 2: first quadrant of block 1 */
    b.two[13] = 0.0005f; /* row 3, col 1: last quadrant of block 2 */
    decided(t, &b);
    dd_layout_to_string(&b.layout, text);
    DD_CHECK(t, strcmp(text, "4(2111)(1112)(1111)") == 0);
    b.decider.tau_effective = 0.0005f; /* equal is not below */
    DD_CHECK(t, decided(t, &b) == 1);
    bench_deinit(&b);
}

static void off_and_schedule(dd_test *t) {
    dd_patch_policy p = policy_of(DD_PATCH_OFF);
    bench b;
    DD_NEED_OK(t, bench_init(&b, &p, &t->err));
    DD_CHECK(t, !dd_patch_needs_stats(&b.decider, 10, 2, false) && dd_patch_needs_stats(&b.decider, 10, 2, true));
    DD_CHECK(t, !dd_patch_needs_stats(&b.decider, 2, 2, true) && !dd_patch_needs_stats(&b.decider, 10, 1, true));
    for (int i = 0; i < 4; i++) b.four[i] = 0;
    DD_CHECK(t, decided(t, &b) == 1);
    bench_deinit(&b);

    dd_patch_schedule schedule;
    DD_NEED_OK(t, dd_patch_schedule_parse(&schedule, &dd_allocator_libc, "1x10,4x1,2x39", &t->err));
    p = policy_of(DD_PATCH_SCHEDULE);
    p.schedule = &schedule;
    DD_NEED_OK(t, bench_init(&b, &p, &t->err));
    DD_CHECK(t, decided(t, &b) == 4); /* whatever the statistics */
    b.step.index = 11;
    DD_CHECK(t, decided(t, &b) == 2);
    b.step.index = 0;
    b.step.stats[1].std = b.step.stats[2].std = NULL;
    DD_CHECK(t, decided(t, &b) == 1);
    bench_deinit(&b);
    dd_patch_decider d;
    DD_FAILS(t, dd_patch_decider_init(&d, &dd_allocator_libc, &p, 49, small, &t->err), DDIT_ERR_ARGUMENT,
             "50 steps and the run 49");
    DD_CHECK(t, !d.allocator);
    p.allowed[2] = false;
    DD_FAILS(t, dd_patch_decider_init(&d, &dd_allocator_libc, &p, 50, small, &t->err), DDIT_ERR_ARGUMENT, "wants factor 4");
    dd_patch_schedule_deinit(&schedule);
}

static void tau_scales(dd_test *t) {
    dd_patch_policy p = policy_of(DD_PATCH_AUTO);
    DD_CHECK(t, dd_patch_policy_tau(&p, 50) == 0.001);
    DD_CHECK(t, fabs(dd_patch_policy_tau(&p, 25) - 0.008) < 1e-15);
    p.order = 1;
    DD_CHECK(t, fabs(dd_patch_policy_tau(&p, 25) - 0.002) < 1e-15);
    p.tau_by_hand = true;
    DD_CHECK(t, dd_patch_policy_tau(&p, 25) == 0.001);
}

static void refusals(dd_test *t) {
    dd_patch_decider d;
#define REFUSED(change, part)                                                                                              \
    do {                                                                                                                   \
        dd_patch_policy p = policy_of(DD_PATCH_AUTO);                                                                      \
        int steps = 50;                                                                                                    \
        change;                                                                                                            \
        DD_FAILS(t, dd_patch_decider_init(&d, &dd_allocator_libc, &p, steps, small, &t->err), DDIT_ERR_ARGUMENT, part);    \
        DD_CHECK(t, !d.allocator);                                                                                         \
    } while (0)
    REFUSED(p.order = 0, "order 0");
    REFUSED(p.order = 4, "order 4");
    REFUSED(p.rho = -0.1, "rho -0.1");
    REFUSED(p.rho = NAN, "rho nan");
    REFUSED(p.rho = 1.5, "quantile");
    REFUSED(p.tau = 0, "tau 0");
    REFUSED(p.tau = NAN, "tau nan");
    REFUSED(p.tau = INFINITY, "tau inf");
    REFUSED(p.tau_steps = 0, "tau_steps 0");
    REFUSED(p.sigma_min[1] = -1, "factor 2");
    REFUSED(p.sigma_min[2] = NAN, "factor 4");
    REFUSED(steps = 0, "0 steps");
    REFUSED(steps = 1001, "1 to 1000");
#undef REFUSED
    dd_patch_policy p = policy_of(DD_PATCH_REGION);
    DD_FAILS(t, dd_patch_decider_init(&d, &dd_allocator_libc, &p, 50, (dd_grid){0, 4, 2}, &t->err), DDIT_ERR_ARGUMENT, "cells");
    for (size_t n = 1; n <= 6; n++) {
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        counter.fail_at = n;
        DD_FAILS(t, dd_patch_decider_init(&d, &counter.allocator, &p, 50, small, &t->err), DDIT_ERR_NO_MEMORY, NULL);
        DD_CHECK(t, counter.live == 0);
    }
}

/* A grid with no whole cell of a factor needs and gets no statistics of it. */
static void narrow_grid(dd_test *t) {
    dd_patch_policy p = policy_of(DD_PATCH_AUTO);
    dd_patch_decider d;
    DD_NEED_OK(t, dd_patch_decider_init(&d, &dd_allocator_libc, &p, 50, (dd_grid){3, 9, 2}, &t->err));
    DD_CHECK(t, !dd_patch_needs_stats(&d, 10, 4, true) && dd_patch_needs_stats(&d, 10, 2, true));
    dd_patch_decider_deinit(&d);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"quantile_equals_torch", quantile_equals_torch},
        {"quantile_edges", quantile_edges},
        {"decisions_equal_python", decisions_equal_python},
        {"auto_boundaries", auto_boundaries},
        {"nan_is_never_still", nan_is_never_still},
        {"region_by_hand", region_by_hand},
        {"off_and_schedule", off_and_schedule},
        {"tau_scales", tau_scales},
        {"refusals", refusals},
        {"narrow_grid", narrow_grid},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
