/* Cells, the policy's statistic and the free coarse step of every backend against ref. */
#include "ops/op_suite.h"

enum { MAX_CELLS = 600 };

typedef struct cells_param {
    int64_t channels, height, width, gap;
    int n;
    bool y_f32, pixel, high_frequency;
} cells_param;

/* Every n x n cell of the latent, those over the edge included, in an order of its own. */
static dd_tensor *origins(op_run *r, const cells_param *p, int64_t *count) {
    int32_t origin[2 * MAX_CELLS];
    int64_t m = 0;
    for (int64_t col = 0; col < p->width; col += p->n)
        for (int64_t row = 0; row < p->height; row += p->n, m++) origin[2 * m] = (int32_t)row, origin[2 * m + 1] = (int32_t)col;
    *count = m;
    return op_ints(r, 2, m, 2, origin);
}

static void gather_case(op_run *r, const void *param) {
    const cells_param *p = param;
    r->gap = p->gap;
    int64_t count;
    dd_tensor *origin = origins(r, p, &count), *latent = op_in3(r, p->channels, p->height, p->width);
    dd_tensor *y = op_out2(r, p->y_f32 ? OP_F32 : OP_ACT, count, p->channels * p->n * p->n);
    op_ok(r, dd_op_cells_gather(r->b, &(dd_cells_gather_args){.y = *y, .latent = *latent, .origin = *origin, .n = p->n},
                                &r->err));
}

static void scatter_case(op_run *r, const void *param) {
    const cells_param *p = param;
    r->gap = p->gap;
    int64_t count;
    dd_tensor *origin = origins(r, p, &count), *x = op_in2(r, OP_F32, count, p->channels * p->n * p->n);
    dd_tensor *velocity = op_out3(r, p->channels, p->height, p->width);
    dd_cells_scatter_args a = {.velocity = *velocity, .x = *x, .origin = *origin, .n = p->n, .hf_gain = 1.75f};
    if (p->pixel || p->high_frequency) a.z = op_in3(r, p->channels, p->height, p->width);
    r->gap = 0;
    if (p->pixel) a.pixel_weight = op_in2(r, OP_F32, p->channels, p->channels), a.pixel_bias = op_in1(r, p->channels);
    if (p->high_frequency) a.projection = op_in2(r, OP_F32, p->n, p->n);
    op_ok(r, dd_op_cells_scatter(r->b, &a, &r->err));
}

static void cells(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {16, 32, 32}, {16, 34, 50}, {4, 9, 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int n = 1; n <= 8; n *= 2) {
            if (sizes[i][1] * sizes[i][2] > (int64_t)n * n * 500) continue;
            for (int k = 0; k < 4; k++) {
                cells_param p = {.channels = sizes[i][0], .height = sizes[i][1], .width = sizes[i][2], .n = n, .gap = k,
                                 .y_f32 = k & 1, .pixel = k & 1, .high_frequency = k & 2};
                char label[80];
                snprintf(label, sizeof label, "%lldx%lldx%lld n %d variant %d", (long long)p.channels, (long long)p.height,
                         (long long)p.width, n, k);
                op_compare(t, c, label, gather_case, &p, op_bounds_usual);
                op_compare(t, c, label, scatter_case, &p, (op_bounds){.f32 = 1e-11, .bf16 = 1e-11}); /* F32 on every backend */
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------ statistic */

typedef struct stats_param {
    int64_t channels, height, width, gap;
    int n, order;
} stats_param;

static void stats_case(op_run *r, const void *param) {
    const stats_param *p = param;
    float stds[MAX_CELLS];
    dd_patch_stats_args a = {.order = p->order, .n = p->n, .stds = stds};
    r->gap = p->gap;
    for (int i = 0; i <= p->order; i++) a.latents[i] = op_in3(r, p->channels, p->height, p->width);
    op_ok(r, dd_op_patch_stats(r->b, &a, &r->err));
    op_result(r, stds, (size_t)((p->height / p->n) * (p->width / p->n)));
}

static void patch_stats(dd_test *t, const op_choice *c) {
    static const stats_param params[] = {{1, 4, 4, 0, 2, 1},   {16, 32, 32, 0, 4, 3}, {16, 32, 32, 0, 8, 3},
                                         {16, 34, 50, 0, 4, 2},
                                         {16, 34, 50, 0, 8, 1}, {3, 7, 9, 2, 4, 3},   {4, 20, 24, 5, 8, 2}, {2, 3, 3, 0, 1, 2}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        char label[64];
        snprintf(label, sizeof label, "stats case %zu", i);
        /* D in float32, sums in float64: all but equal */
        op_compare(t, c, label, stats_case, &params[i], (op_bounds){.f32 = 1e-13, .bf16 = 1e-13});
    }
}

/* ------------------------------------------------------------------------------------------------ free coarse step */

typedef struct lift_param {
    int64_t channels, height, width, gap; /* of the small latent */
    int k;
    float gain;
} lift_param;

static void pool_case(op_run *r, const void *param) {
    const lift_param *p = param;
    r->gap = p->gap;
    dd_tensor *x = op_in3(r, p->channels, p->height * p->k, p->width * p->k), *y = op_out3(r, p->channels, p->height, p->width);
    op_ok(r, dd_op_pool_mean(r->b, *y, *x, p->k, 1.375f, &r->err));
}

static void lift_case(op_run *r, const void *param) {
    const lift_param *p = param;
    r->gap = p->gap;
    int64_t height = p->height * p->k, width = p->width * p->k;
    dd_coarse_lift_args a = {.velocity = *op_out3(r, p->channels, height, width), .z = *op_in3(r, p->channels, height, width),
                             .z_small = *op_in3(r, p->channels, p->height, p->width),
                             .v_small = *op_in3(r, p->channels, p->height, p->width),
                             .k = p->k, .a = 0.625f, .sigma = 0.7f, .sigma_small = 0.55f, .gain = p->gain};
    op_ok(r, dd_op_coarse_lift(r->b, &a, &r->err));
}

static void coarse_step(dd_test *t, const op_choice *c) {
    static const lift_param params[] = {{1, 1, 1, 0, 2, 0}, {16, 16, 16, 0, 2, 0.3f}, {16, 8, 8, 0, 4, 0.3f},
                                        {3, 5, 7, 1, 4, 0},
                                        {2, 1, 9, 3, 2, 0.8f}, {2, 9, 1, 0, 4, 0.8f}, {2, 3, 5, 0, 3, 0.1f}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        op_compare(t, c, "pool_mean", pool_case, &params[i], (op_bounds){.f32 = 1e-12, .bf16 = 1e-12});
        op_compare(t, c, "coarse_lift", lift_case, &params[i], (op_bounds){.f32 = 1e-12, .bf16 = 1e-12});
    }
}

OP_FAMILY(cells)
OP_FAMILY(patch_stats)
OP_FAMILY(coarse_step)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(cells), OP_FAMILY_CASES(patch_stats), OP_FAMILY_CASES(coarse_step)};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
