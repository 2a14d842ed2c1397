/* Backward passes of the row ops. Sums over rows (gradients of what all rows share) are taken over blocks of SUM_ROWS rows,
 * each by one thread, and the blocks' sums are added in their order, in float64: the same bytes for any number of threads. */
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

enum {
    MAX_CELL = 32,  /* latent pixels along a cell's side, as in cpu_cells.c */
    GATHERED = 2048 /* values of the pixels that are summed at once */
};

/* A task's sums over pixels: those gathered so far, [C, room] each, and what they are added to. */
typedef struct pixel_sums {
    const dd_cpu_kernels *kernels;
    const dd_cells_scatter_grad_args *g;
    int64_t room, used;
    float dv[GATHERED], z[GATHERED];
    float *sums; /* [C, C] for the weight, then [C] for the bias */
} pixel_sums;

static const float *latent_row(const dd_tensor *t, int64_t c, int64_t row) {
    return (const float *)t->data + (c * t->shape[1] + row) * t->ld;
}

/* dx of one cell, of which rows x cols pixels lie inside the latent; a few channels at a time. */
static void gather_cell(const dd_cpu_kernels *kernels, const dd_cells_scatter_grad_args *g, int64_t m, int64_t top,
                        int64_t left, int64_t rows, int64_t cols) {
    float values[MAX_CELL * MAX_CELL] = {0};
    int64_t channels = g->dvelocity.shape[0], n = g->n, count = n * n, most = MAX_CELL * MAX_CELL / count, some;
    for (int64_t first = 0; first < channels; first += some) {
        some = channels - first < most ? channels - first : most;
        for (int64_t c = 0; c < some; c++)
            for (int64_t i = 0; i < rows; i++) {
                const float *from = latent_row(&g->dvelocity, first + c, top + i) + left;
                for (int64_t j = 0; j < cols; j++) values[c * count + i * n + j] = from[j];
            }
        int64_t to = m * g->dx.ld + first * count, size = some * count;
        if (g->dx.dtype == DD_DTYPE_F32) memcpy((float *)g->dx.data + to, values, (size_t)size * sizeof *values);
        else kernels->to_bf16((uint16_t *)g->dx.data + to, values, (size_t)size);
    }
}

static void add_gathered(pixel_sums *p) {
    const dd_cells_scatter_grad_args *g = p->g;
    int64_t channels = g->dvelocity.shape[0];
    if (p->used > 0)
        p->kernels->channel_products(g->dpixel_weight ? p->sums : NULL, g->dpixel_bias ? p->sums + channels * channels : NULL,
                                     p->dv, p->z, channels, p->room, p->used);
    p->used = 0;
}

static void add_run(pixel_sums *p, int64_t row, int64_t left, int64_t cols) {
    const dd_cells_scatter_grad_args *g = p->g;
    for (int64_t col = left, n; col < left + cols; col += n) {
        if (p->used == p->room) add_gathered(p);
        n = left + cols - col < p->room - p->used ? left + cols - col : p->room - p->used;
        for (int64_t c = 0; c < g->dvelocity.shape[0]; c++) {
            float *dv = p->dv + c * p->room + p->used, *z = p->z + c * p->room + p->used;
            const float *dv_from = latent_row(&g->dvelocity, c, row) + col;
            const float *z_from = g->dpixel_weight ? latent_row(g->z, c, row) + col : NULL;
            for (int64_t i = 0; i < n; i++) dv[i] = dv_from[i];
            for (int64_t i = 0; z_from && i < n; i++) z[i] = z_from[i];
        }
        p->used += n;
    }
}

static void cell_rows(const dd_cpu_kernels *kernels, const void *args, float *sums, int64_t begin, int64_t end) {
    const dd_cells_scatter_grad_args *g = args;
    int64_t channels = g->dvelocity.shape[0];
    pixel_sums p = {.kernels = kernels, .g = g, .room = channels > 0 ? GATHERED / channels : 0, .sums = sums};
    if (sums) memset(sums, 0, (size_t)(channels * (channels + 1)) * sizeof *sums);
    for (int64_t m = begin; m < end; m++) {
        const int32_t *origin = (const int32_t *)g->origin.data + m * g->origin.ld;
        int64_t rows = g->dvelocity.shape[1] - origin[0], cols = g->dvelocity.shape[2] - origin[1];
        rows = rows < 0 ? 0 : rows < g->n ? rows : g->n;
        cols = cols < 0 ? 0 : cols < g->n ? cols : g->n;
        gather_cell(kernels, g, m, origin[0], origin[1], rows, cols);
        for (int64_t i = 0; sums && i < rows; i++) add_run(&p, origin[0] + i, origin[1], cols);
    }
    if (sums) add_gathered(&p);
}

ddit_status dd_cpu_cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&g->dx), channels = g->dvelocity.shape[0];
    bool sums = g->dpixel_weight || g->dpixel_bias;
    if (g->n > MAX_CELL || (sums && channels > GATHERED))
        return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                       "cells of %d latent pixels and %lld channels; the cpu backend handles up to %d and %d", g->n,
                       (long long)channels, MAX_CELL, GATHERED);
    sums_job j = {.args = g, .fn = cell_rows, .rows = rows, .width = channels * (channels + 1)};
    int64_t per_value = 1 + (g->dpixel_weight ? channels / 4 : 0);
    DD_TRY(run_rows(b, &j, sums, rows * dd_tensor_row_size(&g->dx) * per_value, err));
    for (int64_t c = 0; g->dpixel_weight && c < channels; c++)
        add_sums((float *)g->dpixel_weight->data + c * g->dpixel_weight->ld, &j, c * channels, channels);
    if (g->dpixel_bias) add_sums(g->dpixel_bias->data, &j, channels * channels, channels);
    return DDIT_OK;
}
