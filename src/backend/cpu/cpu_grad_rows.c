/* Backward passes of the row ops. Sums over rows (gradients of what all rows share) are taken over blocks of SUM_ROWS rows, each
 * by one thread, and the blocks' sums are added in their order, in float64: the same bytes for any number of threads. */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/cpu_grad.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

enum { SUM_ROWS = 64 };

/* ------------------------------------------------------------------------------------------------ sums over rows */

/* Rows [begin, end) of the op; their sums are written to sums [width]. */
typedef void (*sums_fn)(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end);

typedef struct sums_job {
    const dd_cpu_kernels *kernels;
    const void *args;
    sums_fn fn;
    int64_t rows, width;
    float *sums; /* [blocks, width], or NULL: none are wanted */
} sums_job;

static int64_t block_count(int64_t rows) { return (rows + SUM_ROWS - 1) / SUM_ROWS; }

size_t dd_cpu_row_sums_bytes(int64_t rows, int64_t width) { return (size_t)block_count(rows) * (size_t)width * sizeof(float); }

static void sum_blocks(const void *job, int64_t begin, int64_t end) {
    const sums_job *j = job;
    for (int64_t i = begin; i < end; i++) {
        int64_t first = i * SUM_ROWS, last = first + SUM_ROWS < j->rows ? first + SUM_ROWS : j->rows;
        j->fn(j->kernels, j->args, j->sums + i * j->width, first, last);
    }
}

static void plain_rows(const void *job, int64_t begin, int64_t end) {
    const sums_job *j = job;
    j->fn(j->kernels, j->args, NULL, begin, end);
}

/* Runs fn over all rows, with sums of `width` values if wanted; `work` as for dd_cpu_for_rows. */
static ddit_status run_rows(dd_backend *b, sums_job *j, bool sums, int64_t work, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    j->kernels = cpu->kernels;
    if (!sums) {
        dd_cpu_for_rows(b, j->rows, work, plain_rows, j);
        return DDIT_OK;
    }
    DD_TRY(dd_cpu_scratch(cpu, 0, dd_cpu_row_sums_bytes(j->rows, j->width), err));
    j->sums = cpu->shared;
    dd_cpu_for_rows(b, block_count(j->rows), work, sum_blocks, j);
    return DDIT_OK;
}

/* to[0 … count) += the blocks' sums from column `first` on. */
static void add_sums(float *to, const sums_job *j, int64_t first, int64_t count) {
    enum { STRIP = 64 };
    for (int64_t at = 0; at < count; at += STRIP) {
        int64_t n = count - at < STRIP ? count - at : STRIP;
        double total[STRIP];
        for (int64_t i = 0; i < n; i++) total[i] = to[at + i];
        for (int64_t block = 0; block < block_count(j->rows); block++) {
            const float *sums = j->sums + block * j->width + first + at;
            for (int64_t i = 0; i < n; i++) total[i] += sums[i];
        }
        for (int64_t i = 0; i < n; i++) to[at + i] = (float)total[i];
    }
}

/* ------------------------------------------------------------------------------------------------ norms */

static void norm_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    const dd_norm_grad_args *g = args;
    float *shift = sums && g->dscale ? sums + dd_tensor_row_size(&g->x) : sums;
    kernels->norm_grad(g, g->dscale ? sums : NULL, g->dshift ? shift : NULL, begin, end);
}

ddit_status dd_cpu_norm_grad(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->x), size = dd_tensor_row_size(&g->x);
    sums_job j = {.args = g, .fn = norm_rows, .rows = rows, .width = size * ((g->dscale != NULL) + (g->dshift != NULL))};
    DD_TRY(run_rows(b, &j, j.width > 0, 2 * rows * size, err));
    if (g->dscale) add_sums(g->dscale->data, &j, 0, size);
    if (g->dshift) add_sums(g->dshift->data, &j, g->dscale ? size : 0, size);
    return DDIT_OK;
}

static void qk_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    kernels->qk_norm_rope_grad(args, sums, begin, end);
}

ddit_status dd_cpu_qk_norm_rope_grad(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->x), head_size = dd_tensor_row_size(&g->x) / g->heads;
    if (head_size > DD_CPU_MAX_HEAD)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the heads are %lld values wide; the cpu backend normalises heads up to %d",
                       (long long)head_size, DD_CPU_MAX_HEAD);
    sums_job j = {.args = g, .fn = qk_rows, .rows = rows, .width = head_size};
    DD_TRY(run_rows(b, &j, g->dweight != NULL, 2 * rows * dd_tensor_row_size(&g->x), err));
    if (g->dweight) add_sums(g->dweight->data, &j, 0, head_size);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ elementwise */

static void activation_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    (void)sums;
    kernels->activation_grad(args, begin, end);
}

ddit_status dd_cpu_activation_grad(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->x);
    sums_job j = {.args = g, .fn = activation_rows, .rows = rows};
    return run_rows(b, &j, false, rows * dd_tensor_row_size(&g->x), err);
}

static void gate_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    kernels->gate_grad(args, sums, begin, end);
}

ddit_status dd_cpu_gate_grad(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->dx), size = dd_tensor_row_size(&g->dx);
    sums_job j = {.args = g, .fn = gate_rows, .rows = rows, .width = size};
    DD_TRY(run_rows(b, &j, g->dgate != NULL, rows * size, err));
    if (g->dgate) add_sums(g->dgate->data, &j, 0, size);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ cells */

enum { RUN = 32, LANE = 16 }; /* pixels of a run, channels of z at once */

static const float *latent_row(const dd_tensor *t, int64_t c, int64_t row) {
    return (const float *)t->data + (c * t->shape[1] + row) * t->ld;
}

/* dx of one cell, of which rows x cols pixels lie inside the latent. */
static void gather_cell(const dd_cells_scatter_grad_args *g, int64_t m, int64_t top, int64_t left, int64_t rows, int64_t cols) {
    int64_t n = g->n;
    for (int64_t r = 0; r < g->dvelocity.shape[0] * n; r++) {
        int64_t inside = r % n < rows ? cols : 0, to = m * g->dx.ld + r * n;
        const float *from = inside ? latent_row(&g->dvelocity, r / n, top + r % n) + left : NULL;
        for (int64_t i = 0; i < n; i++) {
            float v = i < inside ? from[i] : 0.0f;
            if (g->dx.dtype == DD_DTYPE_F32) ((float *)g->dx.data)[to + i] = v;
            else ((uint16_t *)g->dx.data)[to + i] = dd_bf16_from_f32(v);
        }
    }
}

/* sums[c, first + e] += dvelocity[c] z[first + e] over `count` pixels of a latent row, for e < LANE. Channels of z go along the
 * vectors, so a run of them is turned first. */
static void add_run(const dd_cells_scatter_grad_args *g, float *sums, int64_t first, int64_t row, int64_t col, int64_t count) {
    float turned[RUN][LANE] = {{0}};
    int64_t channels = g->dvelocity.shape[0], lanes = channels - first < LANE ? channels - first : LANE;
    for (int64_t e = 0; e < lanes; e++) {
        const float *z = latent_row(g->z, first + e, row) + col;
        for (int64_t i = 0; i < count; i++) turned[i][e] = z[i];
    }
    for (int64_t c = 0; c < channels; c++) {
        const float *dv = latent_row(&g->dvelocity, c, row) + col;
        float *to = sums + c * channels + first, sum[LANE] = {0};
        for (int64_t i = 0; i < count; i++)
            for (int e = 0; e < LANE; e++) sum[e] += dv[i] * turned[i][e];
        for (int64_t e = 0; e < lanes; e++) to[e] += sum[e];
    }
}

/* sums: [C, C] for the weight, then [C] for the bias. */
static void add_pixels(const dd_cells_scatter_grad_args *g, float *sums, int64_t row, int64_t left, int64_t cols) {
    int64_t channels = g->dvelocity.shape[0];
    for (int64_t at = 0; at < cols; at += RUN) {
        int64_t count = cols - at < RUN ? cols - at : RUN;
        for (int64_t first = 0; g->dpixel_weight && first < channels; first += LANE)
            add_run(g, sums, first, row, left + at, count);
    }
    for (int64_t c = 0; g->dpixel_bias && c < channels; c++) {
        const float *dv = latent_row(&g->dvelocity, c, row) + left;
        float sum = 0;
        for (int64_t i = 0; i < cols; i++) sum += dv[i];
        sums[channels * channels + c] += sum;
    }
}

static void cell_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    (void)kernels;
    const dd_cells_scatter_grad_args *g = args;
    int64_t channels = g->dvelocity.shape[0];
    if (sums) memset(sums, 0, (size_t)(channels * (channels + 1)) * sizeof *sums);
    for (int64_t m = begin; m < end; m++) {
        const int32_t *origin = (const int32_t *)g->origin.data + m * g->origin.ld;
        int64_t rows = g->dvelocity.shape[1] - origin[0], cols = g->dvelocity.shape[2] - origin[1];
        rows = rows < 0 ? 0 : rows < g->n ? rows : g->n;
        cols = cols < 0 ? 0 : cols < g->n ? cols : g->n;
        gather_cell(g, m, origin[0], origin[1], rows, cols);
        for (int64_t i = 0; sums && i < rows; i++) add_pixels(g, sums, origin[0] + i, origin[1], cols);
    }
}

ddit_status dd_cpu_cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->dx), channels = g->dvelocity.shape[0];
    bool sums = g->dpixel_weight || g->dpixel_bias;
    sums_job j = {.args = g, .fn = cell_rows, .rows = rows, .width = channels * (channels + 1)};
    int64_t per_value = 1 + (g->dpixel_weight ? channels / 4 : 0);
    DD_TRY(run_rows(b, &j, sums, rows * dd_tensor_row_size(&g->dx) * per_value, err));
    for (int64_t c = 0; g->dpixel_weight && c < channels; c++)
        add_sums((float *)g->dpixel_weight->data + c * g->dpixel_weight->ld, &j, c * channels, channels);
    if (g->dpixel_bias) add_sums(g->dpixel_bias->data, &j, channels * channels, channels);
    return DDIT_OK;
}
