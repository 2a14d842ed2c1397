/* Passes over pixels x channels: statistics of each channel, and the affine map that group norm comes down to. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"

/* Pixels whose mean and squared deviations are taken in float32 before they join the float64 totals. */
enum { PIXELS = 64 };

INLINE vf load_channels(const void *x, bool bf16, int64_t i, int64_t n) {
    return n < LANES ? load_part(x, bf16, i, n) : load(x, bf16, i);
}

/* Adds `count` pixels to the running mean and m2 of n channels that already stand for `before` pixels
 * (Chan, Golub, LeVeque 1979). */
INLINE void merge(double *restrict mean, double *restrict m2, vf block_mean, vf block_m2, double before, double count,
                  int64_t n) {
    double share = count / (before + count);
    float means[LANES], m2s[LANES];
    store(means, false, 0, block_mean);
    store(m2s, false, 0, block_m2);
    for (int64_t j = 0; j < n; j++) {
        double delta = (double)means[j] - mean[j];
        mean[j] += delta * share;
        m2[j] += (double)m2s[j] + delta * delta * before * share;
    }
}

/* Of n channels over `count` pixels. Four sums each, so that the additions of neighbouring pixels overlap. */
INLINE void block_stats(vf *mean, vf *m2, const void *x, bool bf16, int64_t ld, int64_t channel, int64_t n, int64_t count) {
    vf sum[4] = {{0}}, square[4] = {{0}};
    int64_t p = 0;
    for (; p + 4 <= count; p += 4)
        for (int u = 0; u < 4; u++) sum[u] += load_channels(x, bf16, (p + u) * ld + channel, n);
    for (; p < count; p++) sum[0] += load_channels(x, bf16, p * ld + channel, n);
    *mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) * (1.0f / (float)count);
    for (p = 0; p + 4 <= count; p += 4)
        for (int u = 0; u < 4; u++) {
            vf d = load_channels(x, bf16, (p + u) * ld + channel, n) - *mean;
            square[u] += d * d;
        }
    for (; p < count; p++) {
        vf d = load_channels(x, bf16, p * ld + channel, n) - *mean;
        square[0] += d * d;
    }
    *m2 = (square[0] + square[1]) + (square[2] + square[3]);
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

INLINE vf map_channels(vf v, vf mean, vf gain, vf bias, bool silu) {
    v = (v - mean) * gain + bias;
    return silu ? vf_silu(v) : v;
}

INLINE void map_rows(const dd_cpu_channel_affine_args *a, bool y_bf16, bool x_bf16, bool silu, int64_t begin, int64_t end) {
    /* copies, because for all the compiler knows a store to y changes *a */
    const float *mean = a->mean, *gain = a->gain, *bias = a->bias;
    int64_t channels = dd_tensor_row_size(&a->x), x_ld = a->x.ld, y_ld = a->y.ld;
    const char *from = a->x.data;
    char *to = a->y.data;
    for (int64_t p = begin; p < end; p++) {
        const void *x = from + (size_t)(p * x_ld) * (x_bf16 ? 2 : 4);
        void *y = to + (size_t)(p * y_ld) * (y_bf16 ? 2 : 4);
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            store(y, y_bf16, c,
                  map_channels(load(x, x_bf16, c), load(mean, false, c), load(gain, false, c), load(bias, false, c), silu));
        int64_t n = channels - c;
        if (n > 0) {
            vf v = map_channels(load_part(x, x_bf16, c, n), load_part(mean, false, c, n), load_part(gain, false, c, n),
                                load_part(bias, false, c, n), silu);
            store_part(y, y_bf16, c, v, n);
        }
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
