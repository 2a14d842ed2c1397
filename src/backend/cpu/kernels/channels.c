/* Passes over pixels x channels: statistics of each channel, and the affine map that group norm comes down to. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"

/* Pixels whose mean and squared deviations are taken in float32 before they join the float64 totals. */
enum { PIXELS = 32 };

INLINE vf load_channels(const void *x, bool bf16, int64_t i, int64_t n) {
    return n < LANES ? load_part(x, bf16, i, n) : load(x, bf16, i);
}

/* Adds `count` pixels to the running mean and m2 of n channels that already stand for `before` pixels (Chan, Golub, LeVeque 1979). */
INLINE void merge(double *mean, double *m2, vf block_mean, vf block_m2, double before, double count, int64_t n) {
    double share = count / (before + count);
    for (int64_t j = 0; j < n; j++) {
        double delta = (double)block_mean[j] - mean[j];
        mean[j] += delta * share;
        m2[j] += (double)block_m2[j] + delta * delta * before * share;
    }
}

/* Two accumulators each, so that the additions of neighbouring pixels overlap. */
INLINE void block_stats(vf *mean, vf *m2, const void *x, bool bf16, int64_t ld, int64_t channel, int64_t n, int64_t count) {
    vf sum[2] = {{0}}, square[2] = {{0}};
    for (int64_t p = 0; p < count; p++) sum[p & 1] += load_channels(x, bf16, p * ld + channel, n);
    *mean = (sum[0] + sum[1]) * (1.0f / (float)count);
    for (int64_t p = 0; p < count; p++) {
        vf d = load_channels(x, bf16, p * ld + channel, n) - *mean;
        square[p & 1] += d * d;
    }
    *m2 = square[0] + square[1];
}

INLINE void stats_of_type(double *mean, double *m2, const dd_tensor *x, bool bf16, int64_t begin, int64_t end) {
    int64_t channels = dd_tensor_row_size(x);
    memset(mean, 0, (size_t)channels * sizeof *mean);
    memset(m2, 0, (size_t)channels * sizeof *m2);
    for (int64_t p = begin; p < end; p += PIXELS) {
        int64_t count = end - p < PIXELS ? end - p : PIXELS;
        const void *rows = (const char *)x->data + (size_t)(p * x->ld) * (bf16 ? 2 : 4);
        double before = (double)(p - begin);
        vf block_mean, block_m2;
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES) {
            if (count == PIXELS) block_stats(&block_mean, &block_m2, rows, bf16, x->ld, c, LANES, PIXELS);
            else block_stats(&block_mean, &block_m2, rows, bf16, x->ld, c, LANES, count);
            merge(mean + c, m2 + c, block_mean, block_m2, before, (double)count, LANES);
        }
        if (c < channels) {
            block_stats(&block_mean, &block_m2, rows, bf16, x->ld, c, channels - c, count);
            merge(mean + c, m2 + c, block_mean, block_m2, before, (double)count, channels - c);
        }
    }
}

void DD_ISA_NAME(dd_kernel_column_stats)(double *mean, double *m2, const dd_tensor *x, int64_t begin, int64_t end) {
    if (x->dtype == DD_DTYPE_BF16) stats_of_type(mean, m2, x, true, begin, end);
    else stats_of_type(mean, m2, x, false, begin, end);
}

INLINE vf map_channels(const dd_cpu_channel_affine_args *a, vf v, bool silu, int64_t c, int64_t n) {
    v = (v - load_channels(a->mean, false, c, n)) * load_channels(a->gain, false, c, n) + load_channels(a->bias, false, c, n);
    return silu ? vf_silu(v) : v;
}

INLINE void map_rows(const dd_cpu_channel_affine_args *a, bool y_bf16, bool x_bf16, bool silu, int64_t begin, int64_t end) {
    int64_t channels = dd_tensor_row_size(&a->x);
    for (int64_t p = begin; p < end; p++) {
        const void *x = (const char *)a->x.data + (size_t)(p * a->x.ld) * (x_bf16 ? 2 : 4);
        void *y = (char *)a->y.data + (size_t)(p * a->y.ld) * (y_bf16 ? 2 : 4);
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES) store(y, y_bf16, c, map_channels(a, load(x, x_bf16, c), silu, c, LANES));
        int64_t n = channels - c;
        if (n) store_part(y, y_bf16, c, map_channels(a, load_part(x, x_bf16, c, n), silu, c, n), n);
    }
}

void DD_ISA_NAME(dd_kernel_channel_affine)(const dd_cpu_channel_affine_args *a, int64_t begin, int64_t end) {
    bool y_bf16 = a->y.dtype == DD_DTYPE_BF16;
    bool x_bf16 = a->x.dtype == DD_DTYPE_BF16;
    if (a->activation == DD_ACTIVATION_SILU) {
        if (y_bf16 && x_bf16) map_rows(a, true, true, true, begin, end);
        else if (!y_bf16 && !x_bf16) map_rows(a, false, false, true, begin, end);
        else map_rows(a, y_bf16, x_bf16, true, begin, end);
    } else {
        map_rows(a, y_bf16, x_bf16, false, begin, end);
    }
}
