/* Steps of the transformer by the clock, and the best large matrix product beside them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "pipeline/bench.h"

enum { GEMM = 4096, KINDS = 5 };
#define TIME 500.0f
#define SIGMA 0.5f

/* Everything a measurement holds. */
typedef struct bench {
    const dd_bench_case *c;
    dd_backend *b;        /* the timer */
    dd_flux_run *run;
    dd_layout layout[DD_FACTOR_COUNT];
    bool present[DD_FACTOR_COUNT];
    dd_tensor latent, velocity; /* owned, backend */
    double *numbers;      /* owned [factors][seconds, linear, attention, rest, share of the step at factor 1][repeats] */
    void *gemm_bytes;     /* owned, host: the matrix as bf16, kept because a weight may be a view of it */
    dd_weight *gemm;      /* owned */
    void *gemm_x, *gemm_y; /* owned, backend */
    double gemm_best;     /* seconds */
} bench;

static double *numbers_of(const bench *s, int factor_index, int kind) {
    return s->numbers + (size_t)(factor_index * KINDS + kind) * (size_t)s->c->repeats;
}

/* ---------------------------------------------------------------------------------------------- preparing */

static ddit_status prepare_latent(bench *s, ddit_err *err) {
    const dd_bench_case *c = s->c;
    const dd_flux_config *config = dd_flux_dit_config(c->dit);
    const dd_allocator *a = s->b->allocator;
    int64_t h = (int64_t)c->grid.rows * c->grid.patch, w = (int64_t)c->grid.cols * c->grid.patch;
    int64_t channels = config->latent_channels;
    size_t values = (size_t)(channels * h * w), bytes = values * sizeof(float);
    float *noise;
    s->latent = dd_tensor_3d(NULL, DD_DTYPE_F32, channels, h, w);
    s->velocity = s->latent;
    DD_TRY(dd_op_alloc(s->b, &s->latent.data, bytes, "the latent", err));
    DD_TRY(dd_op_alloc(s->b, &s->velocity.data, bytes, "the velocity", err));
    DD_TRY(dd_alloc_raw(a, &noise, values, sizeof *noise, "the noise", err));
    ddit_status status = dd_randn_torch(0, values, noise, err);
    if (status == DDIT_OK) status = dd_op_upload(s->b, s->latent.data, noise, bytes, err);
    dd_free(a, noise);
    return status;
}

/* Prompt embeddings of the right size, filled with noise. */
static ddit_status condition(bench *s, ddit_err *err) {
    const dd_flux_config *config = dd_flux_dit_config(s->c->dit);
    const dd_allocator *a = s->b->allocator;
    size_t text = (size_t)s->c->text_tokens * (size_t)config->joint_attention_dim;
    size_t pooled = (size_t)config->pooled_projection_dim;
    float *values;
    DD_TRY(dd_alloc_raw(a, &values, text + pooled + 16, sizeof *values, "the text", err));
    ddit_status status = dd_randn_torch(1, text + pooled + 16, values, err);
    if (status == DDIT_OK) status = dd_flux_run_condition(s->run, 0, values, values + text, err);
    dd_free(a, values);
    return status;
}

static ddit_status prepare_gemm(bench *s, ddit_err *err) {
    const dd_allocator *a = s->b->allocator;
    size_t values = (size_t)GEMM * GEMM, size = s->b->activation == DD_DTYPE_F32 ? 4 : 2;
    DD_TRY(dd_alloc_raw(a, &s->gemm_bytes, values, sizeof(uint16_t), "a large matrix", err));
    uint16_t *random = s->gemm_bytes;
    uint32_t state = 1;
    for (size_t i = 0; i < values; i++) {
        state = state * 1664525u + 1013904223u;
        random[i] = (uint16_t)(0x3C00 | (state >> 16 & 0x807F)); /* +-(1/128 to 1/64) as bf16 */
    }
    dd_weight_desc desc = {.name = "a large matrix", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_BF16, .out = GEMM, .in = GEMM,
                           .data = random};
    DD_TRY(dd_op_weight_prepare(s->b, &s->gemm, &desc, err));
    DD_TRY(dd_op_alloc(s->b, &s->gemm_x, values * size, "a large matrix", err));
    DD_TRY(dd_op_alloc(s->b, &s->gemm_y, values * size, "a large matrix", err));
    if (size == 2) return dd_op_upload(s->b, s->gemm_x, random, values * size, err);
    float *wide;
    DD_TRY(dd_alloc_raw(a, &wide, values, sizeof *wide, "a large matrix", err));
    ddit_status status = dd_to_f32(wide, random, DD_DTYPE_BF16, values, err);
    if (status == DDIT_OK) status = dd_op_upload(s->b, s->gemm_x, wide, values * size, err);
    dd_free(a, wide);
    return status;
}

static ddit_status prepare(bench *s, ddit_err *err) {
    const dd_bench_case *c = s->c;
    static const float times[] = {TIME};
    dd_flux_run_params params = {.grid = c->grid, .text_tokens = c->text_tokens, .branches = 1, .guidance = 3.5f,
                                 .times = times, .time_count = 1, .trimmed_text = c->trimmed_text};
    DD_TRY(dd_alloc(s->b->allocator, &s->numbers, (size_t)(DD_FACTOR_COUNT * KINDS) * (size_t)c->repeats, sizeof *s->numbers,
                    "the measurements", err));
    DD_TRY(dd_flux_run_create(&s->run, c->dit, &params, err));
    DD_TRY(condition(s, err));
    DD_TRY(prepare_latent(s, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        s->present[f] = dd_flux_dit_has_factor(c->dit, dd_factor_at(f));
        DD_TRY(dd_layout_init(&s->layout[f], s->b->allocator, c->grid, err));
        dd_layout_set_uniform(&s->layout[f], dd_factor_at(f));
    }
    return prepare_gemm(s, err);
}

static void release(bench *s) {
    dd_flux_run_free(s->run);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) dd_layout_deinit(&s->layout[f]);
    dd_op_free(s->b, s->latent.data);
    dd_op_free(s->b, s->velocity.data);
    dd_op_weight_free(s->b, s->gemm);
    dd_free(s->b->allocator, s->gemm_bytes);
    dd_op_free(s->b, s->gemm_x);
    dd_op_free(s->b, s->gemm_y);
    dd_free(s->b->allocator, s->numbers);
}

/* ---------------------------------------------------------------------------------------------- measuring */

static ddit_status tell(const bench *s, const char *what, ddit_err *err) {
    const ddit_bench_params *p = s->c->callbacks;
    if (p->progress && p->progress(p->user, what)) return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled");
    return DDIT_OK;
}

static ddit_status one_gemm(bench *s, ddit_err *err) {
    dd_tensor x = dd_tensor_2d(s->gemm_x, s->b->activation, GEMM, GEMM);
    dd_tensor y = dd_tensor_2d(s->gemm_y, s->b->activation, GEMM, GEMM);
    double begin = dd_seconds();
    DD_TRY(dd_op_linear(s->b, &(dd_linear_args){.y = y, .x = x, .w = s->gemm}, err));
    double seconds = dd_seconds() - begin;
    if (s->gemm_best == 0 || seconds < s->gemm_best) s->gemm_best = seconds;
    return DDIT_OK;
}

static ddit_status one_step(bench *s, int f, int repeat, dd_bench_result *result, ddit_err *err) {
    dd_bench_split *split = &s->c->timer->split;
    *split = (dd_bench_split){0};
    double begin = dd_seconds();
    DD_TRY(dd_flux_run_velocity(s->run, 0, 0, SIGMA, &s->layout[f], s->latent, s->velocity, err));
    double seconds = dd_seconds() - begin;
    if (repeat < 0) return DDIT_OK;
    numbers_of(s, f, 0)[repeat] = seconds;
    numbers_of(s, f, 1)[repeat] = split->linear;
    numbers_of(s, f, 2)[repeat] = split->attention;
    numbers_of(s, f, 3)[repeat] = seconds - split->linear - split->attention;
    numbers_of(s, f, 4)[repeat] = seconds / numbers_of(s, 0, 0)[repeat];
    result->flops = split->flops;
    return DDIT_OK;
}

static ddit_status one_round(bench *s, int repeat, dd_bench_result results[DD_FACTOR_COUNT], ddit_err *err) {
    char what[64];
    snprintf(what, sizeof what, repeat < 0 ? "warming up" : "round %d of %d", repeat + 1, s->c->repeats);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        DD_TRY(tell(s, what, err));
        if (s->present[f]) DD_TRY(one_step(s, f, repeat, &results[f], err));
    }
    DD_TRY(tell(s, what, err));
    return repeat < 0 ? DDIT_OK : one_gemm(s, err);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Reorders the values. */
static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void summarise(const bench *s, int f, dd_bench_result *r) {
    int n = s->c->repeats;
    r->measured = s->present[f];
    r->image_tokens = s->layout[f].cell_total;
    r->text_tokens = dd_flux_run_text_rows(s->run, &s->layout[f]);
    r->seconds = median(numbers_of(s, f, 0), n);
    r->best = numbers_of(s, f, 0)[0];
    r->linear = median(numbers_of(s, f, 1), n);
    r->attention = median(numbers_of(s, f, 2), n);
    r->rest = median(numbers_of(s, f, 3), n);
    r->cost_share = median(numbers_of(s, f, 4), n);
}

ddit_status dd_bench_measure(const dd_bench_case *c, dd_bench_result results[DD_FACTOR_COUNT], double *gemm_flops,
                             ddit_err *err) {
    bench s = {.c = c, .b = &c->timer->base};
    memset(results, 0, DD_FACTOR_COUNT * sizeof *results);
    ddit_status status;
    DD_GO(prepare(&s, err));
    for (int repeat = -1; repeat < c->repeats; repeat++) DD_GO(one_round(&s, repeat, results, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) summarise(&s, f, &results[f]);
    *gemm_flops = 2.0 * GEMM * GEMM * GEMM / s.gemm_best;
done:
    release(&s);
    return status;
}
