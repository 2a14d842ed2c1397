/* The transformer, told a layout: what must not depend on how a layout was made, what a run may not do, adapters that fail. */
#include "unit/dit/dit_test.h"

#include "dit/flux_weights.h"

enum { ROWS = 8, COLS = 8 }; /* base cells of most cases: 128 x 128 pixels */

/* A run with its two latents in backend memory. */
typedef struct tiny_run {
    tiny_model *m;
    dd_flux_run *run;
    dd_layout layout;
    dd_grid grid;
    size_t count; /* values of a latent */
    float *latent, *velocity;
} tiny_run;

static ddit_status open_run(tiny_run *r, tiny_model *m, dd_grid grid, int text, int trimmed, ddit_err *err) {
    static const float times[2] = {800.0f, 300.0f};
    int h = grid.rows * grid.patch, w = grid.cols * grid.patch;
    *r = (tiny_run){.m = m, .grid = grid, .count = 16 * (size_t)h * (size_t)w};
    dd_flux_run_params params = {.grid = grid, .text_tokens = text, .branches = 1, .guidance = 3.5f, .times = times,
                                 .time_count = 2, .trimmed_text = trimmed};
    DD_TRY(dd_flux_run_create(&r->run, m->dit, &params, err));
    DD_TRY(dd_flux_run_condition(r->run, 0, m->text[0], m->pooled[0], err));
    DD_TRY(dd_layout_init(&r->layout, &m->memory.allocator, grid, err));
    DD_TRY(dd_op_alloc(m->b, (void **)&r->latent, r->count * sizeof(float), "a latent", err));
    DD_TRY(dd_op_alloc(m->b, (void **)&r->velocity, r->count * sizeof(float), "a velocity", err));
    float *noise = tiny_noise(h, w, 5);
    ddit_status status = dd_op_upload(m->b, r->latent, noise, r->count * sizeof(float), err);
    free(noise);
    return status;
}

static void close_run(tiny_run *r) {
    dd_op_free(r->m->b, r->latent);
    dd_op_free(r->m->b, r->velocity);
    dd_layout_deinit(&r->layout);
    dd_flux_run_free(r->run);
}

/* The velocity at r->layout, into `out` [count] unless NULL. */
static ddit_status velocity(tiny_run *r, int time, float *out, ddit_err *err) {
    int64_t h = r->grid.rows * r->grid.patch, w = r->grid.cols * r->grid.patch;
    memset(r->velocity, 0xff, r->count * sizeof(float)); /* NaN: every pixel must be written */
    DD_TRY(dd_flux_run_velocity(r->run, 0, time, 0.8f, &r->layout, dd_tensor_3d(r->latent, DD_DTYPE_F32, 16, h, w),
                                dd_tensor_3d(r->velocity, DD_DTYPE_F32, 16, h, w), err));
    return out ? dd_op_download(r->m->b, out, r->velocity, r->count * sizeof(float), err) : DDIT_OK;
}

static bool all_finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* A case over every backend with the full adapter, or `adapter`. */
static void on_all(dd_test *t, const char *adapter, void (*check)(dd_test *t, tiny_model *m, tiny_kind kind)) {
    for (int k = 0; k < TINY_KINDS; k++) {
        tiny_model m;
        if (!tiny_can_run(tiny_kinds[k])) continue;
        ddit_status status = tiny_open(&m, tiny_kinds[k], adapter, &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK) check(t, &m, tiny_kinds[k]);
        DD_CHECK(t, tiny_close(&m));
    }
}

/* ---------------------------------------------------------------------------------------------- layouts */

static void check_strings(dd_test *t, tiny_model *m, tiny_kind kind) {
    static const struct { int factor; const char *text; } forms[] = {
        {1, "(1111)(1111)(1111)(1111)"}, {2, "(2222)(2222)(2222)(2222)"}, {4, "4444"}};
    tiny_run r;
    (void)kind;
    DD_NEED_OK(t, open_run(&r, m, (dd_grid){ROWS, COLS, 2}, TINY_TEXT, 0, &t->err));
    float *a = malloc(r.count * sizeof *a), *b = malloc(r.count * sizeof *b);
    for (int i = 0; i < 3; i++) {
        dd_layout_set_uniform(&r.layout, forms[i].factor);
        DD_OK(t, velocity(&r, 0, a, &t->err));
        DD_CHECK(t, all_finite(a, r.count));
        DD_OK(t, dd_layout_set_string(&r.layout, "4(1212)(2222)(1111)", &t->err)); /* another layout between the two */
        DD_OK(t, velocity(&r, 0, b, &t->err));
        DD_CHECK(t, all_finite(b, r.count) && memcmp(a, b, r.count * sizeof *a) != 0);
        DD_OK(t, dd_layout_set_string(&r.layout, forms[i].text, &t->err));
        DD_OK(t, velocity(&r, 0, b, &t->err));
        DD_CHECK(t, memcmp(a, b, r.count * sizeof *a) == 0);
        DD_OK(t, velocity(&r, 1, b, &t->err)); /* another time is another velocity */
        DD_CHECK(t, memcmp(a, b, r.count * sizeof *a) != 0);
    }
    free(a);
    free(b);
    close_run(&r);
}

static void one_factor_as_a_string_equals_uniform(dd_test *t) { on_all(t, "adapter", check_strings); }

static void swap_cells(dd_layout *layout, int x, int y) {
    for (int i = 0; i < 2; i++) {
        int32_t origin = layout->origin[2 * x + i];
        float position = layout->position[2 * x + i];
        layout->origin[2 * x + i] = layout->origin[2 * y + i];
        layout->origin[2 * y + i] = origin;
        layout->position[2 * x + i] = layout->position[2 * y + i];
        layout->position[2 * y + i] = position;
    }
}

static void check_order(dd_test *t, tiny_model *m, tiny_kind kind) {
    if (kind.precision == DD_PRECISION_BF16) return; /* sums in another order round differently there */
    tiny_run r;
    uint64_t state = 3;
    DD_NEED_OK(t, open_run(&r, m, (dd_grid){ROWS, COLS, 2}, TINY_TEXT, 0, &t->err));
    float *a = malloc(r.count * sizeof *a), *b = malloc(r.count * sizeof *b);
    DD_OK(t, dd_layout_set_string(&r.layout, "(1212)(2222)(1122)4", &t->err));
    DD_OK(t, velocity(&r, 0, a, &t->err));
    double largest = 0;
    for (size_t i = 0; i < r.count; i++) largest = fmax(largest, fabs((double)a[i]));
    for (int round = 0; round < 5; round++) {
        for (int f = 0; f < DD_FACTOR_COUNT; f++)
            for (int i = r.layout.cell_count[f] - 1; i > 0; i--) {
                int j = (int)(dd_test_random_u32(&state) % (uint32_t)(i + 1));
                swap_cells(&r.layout, r.layout.cell_begin[f] + i, r.layout.cell_begin[f] + j);
            }
        DD_OK(t, velocity(&r, 0, b, &t->err));
        double off = dd_test_rel_l2(b, a, r.count), worst = dd_test_max_abs(a, b, r.count) / largest;
        if (!(off < 1e-6 && worst < 1e-6))
            dd_test_fail(t, __FILE__, __LINE__, "%s: another order of cells changes velocities by %.2e (worst %.2e)",
                         kind.name, off, worst);
    }
    free(a);
    free(b);
    close_run(&r);
}

static void order_of_cells_does_not_matter(dd_test *t) { on_all(t, "adapter", check_order); }

/* A random tree over the grid: blocks and quadrants that hang over the edge are split, as region does. */
static void random_layout(dd_layout *layout, uint64_t *state) {
    uint8_t choice[16], quad[64];
    int rows = layout->grid.rows, cols = layout->grid.cols, across = (cols + 3) / 4, down = (rows + 3) / 4;
    uint32_t bias = dd_test_random_u32(state) % 5;
    for (int b = 0; b < across * down; b++) {
        int row = b / across * 4, col = b % across * 4;
        choice[b] = row + 4 <= rows && col + 4 <= cols && dd_test_random_u32(state) % 4 < bias ? 4 : 0;
        for (int q = 0; q < 4; q++) {
            bool whole = row + q / 2 * 2 + 2 <= rows && col + q % 2 * 2 + 2 <= cols;
            quad[4 * b + q] = whole && dd_test_random_u32(state) % 2 ? 2 : 1;
        }
    }
    dd_layout_set_choices(layout, choice, quad);
}

static void check_trees(dd_test *t, tiny_model *m, tiny_kind kind) {
    static const dd_grid grids[] = {{ROWS, COLS, 2}, {7, 6, 2}};
    uint64_t state = 11;
    for (size_t g = 0; g < 2; g++) {
        tiny_run r;
        DD_NEED_OK(t, open_run(&r, m, grids[g], TINY_TEXT, 9, &t->err));
        size_t before = m->memory.total;
        bool finite = true;
        int layouts = strcmp(kind.name, "ref") == 0 ? 8 : 100;
        for (int i = 0; i < layouts; i++) {
            if (i % 10 == 9) dd_layout_set_uniform(&r.layout, dd_factor_at(i / 10 % 3)); /* cells over the edge too */
            else random_layout(&r.layout, &state);
            DD_OK(t, velocity(&r, i % 2, NULL, &t->err));
            finite = finite && all_finite(r.velocity, r.count);
        }
        DD_CHECK(t, finite);
        if (m->memory.total != before && strcmp(kind.name, "ref") != 0) /* ref is for being right, not for being frugal */
            dd_test_fail(t, __FILE__, __LINE__, "%s: 100 layouts made %zu allocations", kind.name, m->memory.total - before);
        close_run(&r);
    }
}

static void layouts_allocate_nothing(dd_test *t) { on_all(t, "adapter", check_trees); }

static void check_missing(dd_test *t, tiny_model *m, tiny_kind kind) {
    tiny_run r;
    (void)kind;
    DD_NEED_OK(t, open_run(&r, m, (dd_grid){ROWS, COLS, 2}, TINY_TEXT, 0, &t->err));
    bool two = m->adapter.file != NULL;
    DD_CHECK(t, dd_flux_dit_has_factor(m->dit, 1) && dd_flux_dit_has_factor(m->dit, 2) == two);
    DD_CHECK(t, !dd_flux_dit_has_factor(m->dit, 4) && !dd_flux_dit_has_factor(m->dit, 3));
    dd_layout_set_uniform(&r.layout, 4);
    DD_FAILS(t, velocity(&r, 0, NULL, &t->err), DDIT_ERR_MISMATCH, "factor 4");
    DD_OK(t, dd_layout_set_string(&r.layout, "(1111)4(1111)(1111)", &t->err));
    DD_FAILS(t, velocity(&r, 0, NULL, &t->err), DDIT_ERR_MISMATCH, "factor 4");
    dd_layout_set_uniform(&r.layout, 2);
    if (two) DD_OK(t, velocity(&r, 0, NULL, &t->err));
    else DD_FAILS(t, velocity(&r, 0, NULL, &t->err), DDIT_ERR_MISMATCH, "factor 2");
    dd_layout_set_uniform(&r.layout, 1);
    DD_OK(t, velocity(&r, 0, NULL, &t->err));
    DD_CHECK(t, all_finite(r.velocity, r.count));
    close_run(&r);
}

static void factors_that_are_not_loaded_are_refused(dd_test *t) {
    on_all(t, "adapter_linear", check_missing);
    on_all(t, NULL, check_missing);
}

/* ---------------------------------------------------------------------------------------------- text rows */

static void check_trimmed(dd_test *t, tiny_model *m, tiny_kind kind) {
    static const char *const layouts[] = {"4444", "4(2222)(2222)4", "4(2222)(2122)4"};
    enum { KEPT = 10 };
    tiny_run full, trimmed, less;
    dd_grid grid = {ROWS, COLS, 2};
    DD_NEED_OK(t, open_run(&full, m, grid, TINY_TEXT, 0, &t->err));
    DD_NEED_OK(t, open_run(&trimmed, m, grid, TINY_TEXT, KEPT, &t->err));
    DD_NEED_OK(t, open_run(&less, m, grid, KEPT, 0, &t->err)); /* reads the first rows of the same embedding */
    float *a = malloc(full.count * sizeof *a), *b = malloc(full.count * sizeof *b);
    for (int i = 0; i < 3; i++) {
        tiny_run *same = i < 2 ? &less : &full; /* a cell of factor 1 brings all text back */
        DD_OK(t, dd_layout_set_string(&trimmed.layout, layouts[i], &t->err));
        DD_OK(t, dd_layout_set_string(&same->layout, layouts[i], &t->err));
        DD_CHECK(t, dd_flux_run_text_rows(trimmed.run, &trimmed.layout) == (i < 2 ? KEPT : TINY_TEXT));
        DD_OK(t, velocity(&trimmed, 0, a, &t->err));
        DD_OK(t, velocity(same, 0, b, &t->err));
        double worst = dd_test_max_abs(a, b, full.count);
        bool ref = strcmp(kind.name, "ref") == 0;
        if (!(worst <= (ref ? 0 : kind.precision == DD_PRECISION_BF16 ? 0.02 : 1e-6)))
            dd_test_fail(t, __FILE__, __LINE__, "%s: trimmed text at %s is off by %.2e", kind.name, layouts[i], worst);
    }
    free(a);
    free(b);
    close_run(&less);
    close_run(&trimmed);
    close_run(&full);
}

static void trimmed_text_equals_a_shorter_run(dd_test *t) { on_all(t, "adapter", check_trimmed); }

/* ---------------------------------------------------------------------------------------------- adapters that fail */

static void check_failing_adapter(dd_test *t, tiny_model *m, tiny_kind kind) {
    tiny_run r;
    dd_test_allocator *memory = &m->memory;
    (void)kind;
    DD_NEED_OK(t, open_run(&r, m, (dd_grid){4, 4, 2}, TINY_TEXT, 0, &t->err));
    float *before = malloc(r.count * sizeof *before), *after = malloc(r.count * sizeof *after);
    DD_OK(t, velocity(&r, 0, before, &t->err));
    DD_OK(t, dd_adapter_open(&m->adapter, &dd_allocator_libc, "tests/golden/adapter/adapter.safetensors", &t->err));
    uint64_t bytes = dd_flux_dit_weight_bytes(m->dit);
    size_t live = memory->live;
    int failures = 0, prepared = m->dit->prepared_count;
    for (size_t n = 1; n < 10000; n++) {
        memory->total = 0;
        memory->fail_at = n;
        memory->fail_on = n % 2 == 0;
        ddit_status status = dd_flux_dit_add_adapter(m->dit, &m->adapter, &t->err);
        memory->fail_at = 0;
        if (status == DDIT_OK) break;
        failures++;
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
        DD_CHECK(t, dd_flux_dit_weight_bytes(m->dit) == bytes && m->dit->prepared_count == prepared);
        DD_CHECK(t, !dd_flux_dit_has_factor(m->dit, 2) && !dd_flux_dit_has_factor(m->dit, 4));
        DD_CHECK(t, memory->live == live); /* the list of weights may have grown, in place of the old one */
        if (n % 8 != 1) continue;
        DD_OK(t, velocity(&r, 0, after, &t->err));
        DD_CHECK(t, memcmp(before, after, r.count * sizeof *before) == 0);
    }
    DD_CHECK(t, failures > 20 && dd_flux_dit_has_factor(m->dit, 4) && dd_flux_dit_weight_bytes(m->dit) > bytes);
    DD_OK(t, velocity(&r, 0, after, &t->err)); /* factor 1 does not see the adapter */
    DD_CHECK(t, memcmp(before, after, r.count * sizeof *before) == 0);
    free(before);
    free(after);
    close_run(&r);
}

static void an_adapter_that_fails_leaves_the_model_as_it_was(dd_test *t) { on_all(t, NULL, check_failing_adapter); }

/* The price told beforehand is the price paid. */
static void check_measure(dd_test *t, tiny_model *m, tiny_kind kind) {
    static const float times[3] = {900.0f, 500.0f, 100.0f};
    dd_flux_run_params params = {.grid = {7, 6, 2}, .text_tokens = TINY_TEXT, .branches = 2, .times = times, .time_count = 3};
    dd_flux_run_bytes bytes = dd_flux_run_measure(&m->config.transformer, m->b->activation, &params);
    int64_t d = m->config.transformer.hidden, rows = TINY_TEXT + 42, act = kind.precision == DD_PRECISION_BF16 ? 2 : 4;
    /* residual stream, one row of every activation the two kinds of blocks hold at the same time */
    uint64_t by_hand = (uint64_t)(rows * d * (4 + act * (1 + 3 + 5)));
    DD_CHECK(t, bytes.activations >= by_hand && bytes.activations <= 2 * by_hand);
    dd_flux_run *run;
    DD_NEED_OK(t, dd_flux_run_create(&run, m->dit, &params, &t->err));
    dd_flux_run_free(run);
}

static void activations_are_within_twice_a_count_by_hand(dd_test *t) { on_all(t, NULL, check_measure); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"one_factor_as_a_string_equals_uniform", one_factor_as_a_string_equals_uniform},
        {"order_of_cells_does_not_matter", order_of_cells_does_not_matter},
        {"layouts_allocate_nothing", layouts_allocate_nothing},
        {"factors_that_are_not_loaded_are_refused", factors_that_are_not_loaded_are_refused},
        {"trimmed_text_equals_a_shorter_run", trimmed_text_equals_a_shorter_run},
        {"an_adapter_that_fails_leaves_the_model_as_it_was", an_adapter_that_fails_leaves_the_model_as_it_was},
        {"activations_are_within_twice_a_count_by_hand", activations_are_within_twice_a_count_by_hand},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
