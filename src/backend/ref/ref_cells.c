/* Between the latent and its cells, the policy's statistic, and the free coarse step. Latents are [C, h, w] F32 views. */
#include <math.h>

#include "backend/ref/ref_state.h"

static int64_t clamped(int64_t i, int64_t size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

/* Index of a latent pixel; outside, the nearest one inside. */
static int64_t pixel(const dd_tensor *t, int64_t c, int64_t row, int64_t col) {
    return (c * t->shape[1] + clamped(row, t->shape[1])) * t->ld + clamped(col, t->shape[2]);
}

/* ------------------------------------------------------------------------------------------------ cells */

ddit_status dd_ref_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err) {
    (void)b, (void)err;
    const int32_t *origin = a->origin.data;
    int64_t n = a->n;
    for (int64_t m = 0; m < a->y.shape[0]; m++) {
        int64_t top = origin[m * a->origin.ld], left = origin[m * a->origin.ld + 1];
        for (int64_t c = 0; c < a->latent.shape[0]; c++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++)
                    ref_put(&a->y, m * a->y.ld + (c * n + i) * n + j,
                            ref_at(&a->latent, pixel(&a->latent, c, top + i, left + j)));
    }
    return DDIT_OK;
}

/* pixel_weight[c, :] . z[:, row, col] + pixel_bias[c] */
static double pixel_linear(const dd_cells_scatter_args *a, int64_t c, int64_t row, int64_t col) {
    double sum = a->pixel_bias ? ref_at(a->pixel_bias, c) : 0;
    for (int64_t d = 0; d < a->z->shape[0]; d++)
        sum += (double)ref_at(a->pixel_weight, c * a->pixel_weight->ld + d) * ref_at(a->z, pixel(a->z, d, row, col));
    return sum;
}

/* Value (i, j) of z - P z P^T of one cell and channel; PzP^T[i, j] = sum_uv P[i, u] z[u, v] P[j, v]. */
static double high_frequency(const dd_cells_scatter_args *a, int64_t c, int64_t top, int64_t left, int64_t i, int64_t j) {
    double low = 0;
    for (int64_t u = 0; u < a->n; u++) {
        double row = 0;
        for (int64_t v = 0; v < a->n; v++)
            row += (double)ref_at(a->projection, j * a->projection->ld + v) * ref_at(a->z, pixel(a->z, c, top + u, left + v));
        low += ref_at(a->projection, i * a->projection->ld + u) * row;
    }
    return ref_at(a->z, pixel(a->z, c, top + i, left + j)) - low;
}

ddit_status dd_ref_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err) {
    (void)b, (void)err;
    const int32_t *origin = a->origin.data;
    int64_t n = a->n, height = a->velocity.shape[1], width = a->velocity.shape[2];
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        int64_t top = origin[m * a->origin.ld], left = origin[m * a->origin.ld + 1];
        for (int64_t c = 0; c < a->velocity.shape[0]; c++) {
            for (int64_t i = 0; i < n; i++) {
                for (int64_t j = 0; j < n; j++) {
                    int64_t row = top + i, col = left + j;
                    if (row < 0 || row >= height || col < 0 || col >= width) continue;
                    double v = ref_at(&a->x, m * a->x.ld + (c * n + i) * n + j);
                    if (a->pixel_weight) v += pixel_linear(a, c, row, col);
                    if (a->projection) v += a->hf_gain * high_frequency(a, c, top, left, i, j);
                    ref_put(&a->velocity, pixel(&a->velocity, c, row, col), (float)v);
                }
            }
        }
    }
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ statistic */

/* One value of the difference, in float32 and in this order: the definition that other implementations can repeat exactly. */
static float difference(const dd_patch_stats_args *a, int64_t i) {
    float z0 = ref_at(a->latents[0], i), z1 = ref_at(a->latents[1], i);
    if (a->order == 1) return z0 - z1;
    float z2 = ref_at(a->latents[2], i);
    if (a->order == 2) return z0 - 2 * z1 + z2;
    return z0 - 3 * z1 + 3 * z2 - ref_at(a->latents[3], i);
}

/* Sum over the block at (top, left) of (D - mean)^power, power 1 (mean 0) or 2. */
static double block_sum(const dd_patch_stats_args *a, int64_t top, int64_t left, double mean, bool squared) {
    const dd_tensor *z = a->latents[0];
    double sum = 0;
    for (int64_t c = 0; c < z->shape[0]; c++)
        for (int64_t i = 0; i < a->n; i++)
            for (int64_t j = 0; j < a->n; j++) {
                double d = difference(a, pixel(z, c, top + i, left + j)) - mean;
                sum += squared ? d * d : d;
            }
    return sum;
}

ddit_status dd_ref_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err) {
    (void)b, (void)err;
    const dd_tensor *z = a->latents[0];
    int64_t rows = z->shape[1] / a->n, cols = z->shape[2] / a->n;
    double count = (double)(z->shape[0] * a->n * a->n);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            double mean = block_sum(a, r * a->n, c * a->n, 0, false) / count;
            a->stds[r * cols + c] = (float)sqrt(block_sum(a, r * a->n, c * a->n, mean, true) / (count - 1));
        }
    }
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ free coarse step */

ddit_status dd_ref_pool_mean(dd_backend *b, dd_tensor y, dd_tensor x, int k, float factor, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t c = 0; c < y.shape[0]; c++) {
        for (int64_t row = 0; row < y.shape[1]; row++) {
            for (int64_t col = 0; col < y.shape[2]; col++) {
                double sum = 0;
                for (int i = 0; i < k; i++)
                    for (int j = 0; j < k; j++) sum += ref_at(&x, pixel(&x, c, row * k + i, col * k + j));
                ref_put(&y, pixel(&y, c, row, col), (float)(factor * (sum / ((double)k * k))));
            }
        }
    }
    return DDIT_OK;
}

/* Where pixel i of the large picture lies in the small one (half-pixel centres, clamped): index below, weight of the next. */
static int64_t lift_position(int64_t i, int k, int64_t size, double *weight) {
    double position = ((double)i + 0.5) / k - 0.5;
    if (position < 0) position = 0;
    int64_t below = (int64_t)position;
    *weight = position - (double)below;
    return below < size ? below : size - 1;
}

/* x0' = z' - sigma_small v' at a small pixel, edges clamped. */
static double small_x0(const dd_coarse_lift_args *a, int64_t c, int64_t row, int64_t col) {
    return ref_at(&a->z_small, pixel(&a->z_small, c, row, col)) -
           (double)a->sigma_small * ref_at(&a->v_small, pixel(&a->v_small, c, row, col));
}

ddit_status dd_ref_coarse_lift(dd_backend *b, const dd_coarse_lift_args *a, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t c = 0; c < a->z.shape[0]; c++) {
        for (int64_t row = 0; row < a->z.shape[1]; row++) {
            double wr;
            int64_t r = lift_position(row, a->k, a->z_small.shape[1], &wr);
            for (int64_t col = 0; col < a->z.shape[2]; col++) {
                double wc;
                int64_t s = lift_position(col, a->k, a->z_small.shape[2], &wc);
                double above = small_x0(a, c, r, s) * (1 - wc) + small_x0(a, c, r, s + 1) * wc;
                double below = small_x0(a, c, r + 1, s) * (1 - wc) + small_x0(a, c, r + 1, s + 1) * wc;
                double z = ref_at(&a->z, pixel(&a->z, c, row, col));
                double pooled = (double)a->a * ref_at(&a->z_small, pixel(&a->z_small, c, row / a->k, col / a->k));
                double x0 = above * (1 - wr) + below * wr + a->gain * (z - pooled);
                ref_put(&a->velocity, pixel(&a->velocity, c, row, col), (float)((z - x0) / a->sigma));
            }
        }
    }
    return DDIT_OK;
}
