/* Between the latent and its cells, and the policy's statistic. These passes touch the latent once per step (1 MB at
 * 1024 x 1024), so plain loops do; only rows of cells are shared out among threads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/rows.h"

enum { MAX_CELL = 32 }; /* latent pixels along a cell's side that the high-frequency part has room for */

static int64_t at_most(int64_t i, int64_t last) { return i < last ? i : last; }

static const float *latent_row(const dd_tensor *t, int64_t c, int64_t row) {
    return (const float *)t->data + (c * t->shape[1] + row) * t->ld;
}

/* n values of a latent row from column `left` on; past the edge the last one repeats. */
static void read_run(float *out, const dd_tensor *t, int64_t c, int64_t row, int64_t left, int64_t n) {
    const float *from = latent_row(t, c, at_most(row, t->shape[1] - 1));
    int64_t width = t->shape[2];
    for (int64_t j = 0; j < n; j++) out[j] = from[at_most(left + j, width - 1)];
}

/* ------------------------------------------------------------------------------------------------ gather */

static void gather_cells(const void *job, int64_t begin, int64_t end) {
    const dd_cells_gather_args *a = job;
    int64_t n = a->n, channels = a->latent.shape[0];
    for (int64_t m = begin; m < end; m++) {
        const int32_t *origin = (const int32_t *)a->origin.data + m * a->origin.ld;
        for (int64_t r = 0; r < channels * n; r++) {
            int64_t to = m * a->y.ld + r * n;
            if (a->y.dtype == DD_DTYPE_F32) {
                read_run((float *)a->y.data + to, &a->latent, r / n, origin[0] + r % n, origin[1], n);
            } else {
                const float *from = latent_row(&a->latent, r / n, at_most(origin[0] + r % n, a->latent.shape[1] - 1));
                for (int64_t j = 0; j < n; j++)
                    ((uint16_t *)a->y.data)[to + j] = dd_bf16_from_f32(from[at_most(origin[1] + j, a->latent.shape[2] - 1)]);
            }
        }
    }
}

ddit_status dd_cpu_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err) {
    (void)err;
    int64_t rows = dd_tensor_row_count(&a->y);
    dd_cpu_for_rows(b, rows, rows * dd_tensor_row_size(&a->y), gather_cells, a);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ scatter */

#define INLINE static inline __attribute__((always_inline))

/* One scatter call as the cells see it: the projection dense, and its transpose, so that inner loops run along rows. */
typedef struct scatter_job {
    const dd_cells_scatter_args *a;
    float p[MAX_CELL * MAX_CELL], pt[MAX_CELL * MAX_CELL];
} scatter_job;

/* y = a b for n x n matrices; n is a constant where this is inlined for the usual cells. */
INLINE void square_product(float *y, const float *a, const float *b, const int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float row[MAX_CELL] = {0};
        for (int64_t k = 0; k < n; k++)
            for (int64_t j = 0; j < n; j++) row[j] += a[i * n + k] * b[k * n + j];
        for (int64_t j = 0; j < n; j++) y[i * n + j] = row[j];
    }
}

/* out += gain * (z - P z P^T) of one cell and channel. */
INLINE void add_high_frequency(float *out, const scatter_job *job, int64_t c, int64_t top, int64_t left, const int64_t n) {
    float z[MAX_CELL * MAX_CELL], across[MAX_CELL * MAX_CELL], low[MAX_CELL * MAX_CELL];
    for (int64_t u = 0; u < n; u++) read_run(z + u * n, job->a->z, c, top + u, left, n);
    square_product(across, z, job->pt, n);
    square_product(low, job->p, across, n);
    for (int64_t i = 0; i < n * n; i++) out[i] += job->a->hf_gain * (z[i] - low[i]);
}

/* out[i, j] += pixel_weight[c, :] . z[:, top + i, left + j] + pixel_bias[c] for the part of the cell inside the latent. */
INLINE void add_pixel_linear(float *out, const dd_cells_scatter_args *a, int64_t c, int64_t top, int64_t left, int64_t rows,
                             const int64_t cols, const int64_t n) {
    const float *weight = (const float *)a->pixel_weight->data + c * a->pixel_weight->ld;
    float bias = a->pixel_bias ? ((const float *)a->pixel_bias->data)[c] : 0.0f;
    for (int64_t i = 0; i < rows; i++) {
        float sum[MAX_CELL];
        for (int64_t j = 0; j < cols; j++) sum[j] = bias;
        for (int64_t d = 0; d < a->z->shape[0]; d++) {
            const float *from = latent_row(a->z, d, top + i) + left;
            for (int64_t j = 0; j < cols; j++) sum[j] += weight[d] * from[j];
        }
        for (int64_t j = 0; j < cols; j++) out[i * n + j] += sum[j];
    }
}

/* One cell, n x n, of which rows x cols lie inside the latent. */
INLINE void scatter_cell(const scatter_job *job, int64_t m, int64_t top, int64_t left, int64_t rows, const int64_t cols,
                         const int64_t n) {
    const dd_cells_scatter_args *a = job->a;
    float cell[MAX_CELL * MAX_CELL];
    for (int64_t c = 0; c < a->velocity.shape[0]; c++) {
        memcpy(cell, (const float *)a->x.data + m * a->x.ld + c * n * n, (size_t)(n * n) * sizeof *cell);
        if (a->pixel_weight) add_pixel_linear(cell, a, c, top, left, rows, cols, n);
        if (a->projection) add_high_frequency(cell, job, c, top, left, n);
        for (int64_t i = 0; i < rows; i++)
            memcpy((float *)latent_row(&a->velocity, c, top + i) + left, cell + i * n, (size_t)cols * sizeof *cell);
    }
}

static void scatter_cells(const void *job, int64_t begin, int64_t end) {
    const scatter_job *j = job;
    const dd_cells_scatter_args *a = j->a;
    int64_t n = a->n;
    for (int64_t m = begin; m < end; m++) {
        const int32_t *origin = (const int32_t *)a->origin.data + m * a->origin.ld;
        int64_t top = origin[0], left = origin[1];
        int64_t rows = at_most(n, a->velocity.shape[1] - top), cols = at_most(n, a->velocity.shape[2] - left);
        if (rows <= 0 || cols <= 0) continue;
        if (n == 4 && cols == 4) scatter_cell(j, m, top, left, rows, 4, 4);
        else if (n == 8 && cols == 8) scatter_cell(j, m, top, left, rows, 8, 8);
        else scatter_cell(j, m, top, left, rows, cols, n);
    }
}

ddit_status dd_cpu_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err) {
    if (a->n > MAX_CELL)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "a cell is %d latent pixels wide; the cpu backend handles up to %d", a->n,
                       MAX_CELL);
    int64_t rows = dd_tensor_row_count(&a->x);
    int64_t per_value = 1 + (a->pixel_weight ? a->velocity.shape[0] / 4 : 0) + (a->projection ? a->n / 2 : 0);
    scatter_job job = {.a = a};
    for (int64_t i = 0; a->projection && i < (int64_t)a->n * a->n; i++) {
        job.p[i] = ((const float *)a->projection->data)[i / a->n * a->projection->ld + i % a->n];
        job.pt[i % a->n * a->n + i / a->n] = job.p[i];
    }
    dd_cpu_for_rows(b, rows, rows * dd_tensor_row_size(&a->x) * per_value, scatter_cells, &job);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ statistic */

/* n values of D from (c, row, left) on: float32, in the order of the definition, so that its value can be repeated exactly. */
static void difference_run(float *out, const dd_patch_stats_args *a, int64_t c, int64_t row, int64_t left) {
    const float *z0 = latent_row(a->latents[0], c, row) + left, *z1 = latent_row(a->latents[1], c, row) + left;
    if (a->order == 1) {
        for (int j = 0; j < a->n; j++) out[j] = z0[j] - z1[j];
        return;
    }
    const float *z2 = latent_row(a->latents[2], c, row) + left;
    if (a->order == 2) {
        for (int j = 0; j < a->n; j++) out[j] = z0[j] - 2.0f * z1[j] + z2[j];
        return;
    }
    const float *z3 = latent_row(a->latents[3], c, row) + left;
    for (int j = 0; j < a->n; j++) out[j] = z0[j] - 3.0f * z1[j] + 3.0f * z2[j] - z3[j];
}

/* Sum of (D - mean) or of its square over one block. */
static double block_sum(const dd_patch_stats_args *a, int64_t top, int64_t left, double mean, bool squared) {
    float run[MAX_CELL];
    double sum = 0.0;
    for (int64_t c = 0; c < a->latents[0]->shape[0]; c++)
        for (int64_t i = 0; i < a->n; i++) {
            difference_run(run, a, c, top + i, left);
            for (int j = 0; j < a->n; j++) {
                double d = run[j] - mean;
                sum += squared ? d * d : d;
            }
        }
    return sum;
}

static void stats_blocks(const void *job, int64_t begin, int64_t end) {
    const dd_patch_stats_args *a = job;
    int64_t cols = a->latents[0]->shape[2] / a->n;
    double count = (double)(a->latents[0]->shape[0] * a->n * a->n);
    for (int64_t k = begin; k < end; k++) {
        int64_t top = k / cols * a->n, left = k % cols * a->n;
        double mean = block_sum(a, top, left, 0.0, false) / count;
        a->stds[k] = (float)sqrt(block_sum(a, top, left, mean, true) / (count - 1.0));
    }
}

ddit_status dd_cpu_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err) {
    if (a->n > MAX_CELL)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "a block is %d latent pixels wide; the cpu backend handles up to %d", a->n,
                       MAX_CELL);
    const dd_tensor *z = a->latents[0];
    int64_t blocks = (z->shape[1] / a->n) * (z->shape[2] / a->n);
    dd_cpu_for_rows(b, blocks, 4 * z->shape[0] * z->shape[1] * z->shape[2], stats_blocks, a);
    return DDIT_OK;
}
