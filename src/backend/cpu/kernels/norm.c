/* Layer norm, RMS norm and the norm with rotation of queries and keys. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"

enum { UNROLL = 4, MAX_HEAD = DD_CPU_MAX_HEAD + LANES };

typedef struct row_affine {
    const float *weight, *bias, *scale, *shift; /* each may be NULL */
} row_affine;

INLINE const float *floats(const dd_tensor *t) { return t ? t->data : NULL; }

INLINE const char *row_of(const dd_tensor *t, int64_t i) {
    return (const char *)t->data + (size_t)(i * t->ld) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

/* Sum of (x - shift)^power over a row, power 1 or 2. */
INLINE float row_sum(const void *x, bool bf16, int64_t size, float shift, int power) {
    vf sum[UNROLL] = {{0}};
    int64_t i = 0;
    for (; i + UNROLL * LANES <= size; i += UNROLL * LANES)
        for (int u = 0; u < UNROLL; u++) {
            vf v = load(x, bf16, i + u * LANES) - shift;
            sum[u] += power == 2 ? v * v : v;
        }
    for (; i + LANES <= size; i += LANES) {
        vf v = load(x, bf16, i) - shift;
        sum[0] += power == 2 ? v * v : v;
    }
    if (i < size) {
        vf v = keep_part(load_part(x, bf16, i, size - i) - shift, size - i);
        sum[1] += power == 2 ? v * v : v;
    }
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* v * weight + bias, then * (1 + scale) + shift, for the values from i on; n < LANES: only n of them are read. */
INLINE vf affine_at(vf v, const row_affine *f, int64_t i, int64_t n) {
    bool part = n < LANES;
    if (f->weight) v *= part ? load_part(f->weight, false, i, n) : load(f->weight, false, i);
    if (f->bias) v += part ? load_part(f->bias, false, i, n) : load(f->bias, false, i);
    if (f->scale) v *= 1.0f + (part ? load_part(f->scale, false, i, n) : load(f->scale, false, i));
    if (f->shift) v += part ? load_part(f->shift, false, i, n) : load(f->shift, false, i);
    return v;
}

typedef struct row_stats {
    float mean, factor;
} row_stats;

INLINE row_stats stats_of_row(const void *x, bool bf16, int64_t size, bool rms, float eps) {
    float mean = rms ? 0.0f : row_sum(x, bf16, size, 0.0f, 1) / (float)size;
    float variance = row_sum(x, bf16, size, mean, 2) / (float)size;
    return (row_stats){mean, 1.0f / sqrtf(variance + eps)};
}

/* `ahead` is where a row lies that is read soon: it is fetched meanwhile. */
INLINE void write_row(void *y, bool y_bf16, const void *x, bool x_bf16, const char *ahead, int64_t size, row_stats s,
                      const row_affine *f) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        __builtin_prefetch(ahead + i * (x_bf16 ? 2 : 4));
        store(y, y_bf16, i, affine_at((load(x, x_bf16, i) - s.mean) * s.factor, f, i, LANES));
    }
    if (i < size) {
        vf v = (load_part(x, x_bf16, i, size - i) - s.mean) * s.factor;
        store_part(y, y_bf16, i, affine_at(v, f, i, size - i), size - i);
    }
}

/* The sums of row m + 1 are begun before row m is written: neither waits for the other, so the processor overlaps the sums'
 * long chains of additions with the writing. */
INLINE void norm_rows(const dd_norm_args *a, bool y_bf16, bool x_bf16, const row_affine *f, int64_t begin, int64_t end) {
    int64_t size = dd_tensor_row_size(&a->x);
    bool rms = a->kind == DD_NORM_RMS;
    float eps = a->eps;
    if (begin >= end) return;
    row_stats next = stats_of_row(row_of(&a->x, begin), x_bf16, size, rms, eps);
    for (int64_t m = begin; m < end; m++) {
        row_stats now = next;
        if (m + 1 < end) next = stats_of_row(row_of(&a->x, m + 1), x_bf16, size, rms, eps);
        const char *ahead = row_of(&a->x, m + 2 < end ? m + 2 : m);
        write_row((void *)row_of(&a->y, m), y_bf16, row_of(&a->x, m), x_bf16, ahead, size, now, f);
    }
}

/* The combinations of dtypes and vectors that models use get a copy of the loop without tests in it. */
INLINE void norm_of_type(const dd_norm_args *a, bool y_bf16, bool x_bf16, int64_t begin, int64_t end) {
    const row_affine f = {floats(a->weight), floats(a->bias), floats(a->scale), floats(a->shift)};
    if (!f.weight && !f.bias && f.scale && f.shift) {
        const row_affine modulation = {NULL, NULL, f.scale, f.shift};
        norm_rows(a, y_bf16, x_bf16, &modulation, begin, end);
    } else {
        norm_rows(a, y_bf16, x_bf16, &f, begin, end);
    }
}

void DD_ISA_NAME(dd_kernel_norm)(const dd_norm_args *a, int64_t begin, int64_t end) {
    bool y_bf16 = a->y.dtype == DD_DTYPE_BF16;
    bool x_bf16 = a->x.dtype == DD_DTYPE_BF16;
    if (y_bf16 && x_bf16) norm_of_type(a, true, true, begin, end);
    else if (y_bf16) norm_of_type(a, true, false, begin, end);
    else if (x_bf16) norm_of_type(a, false, true, begin, end);
    else norm_of_type(a, false, false, begin, end);
}

/* What a row's heads share. With weights u, v of a pair and its angle, (x0, x1) becomes factor times
 *   (x0 u cos - x1 v sin, x1 v cos + x0 u sin) = (x0, x1) * same + (x1, x0) * other. */
typedef struct head_map {
    float same[MAX_HEAD], other[MAX_HEAD];
} head_map;

INLINE void head_map_at(head_map *map, vf weight, vf rope, int64_t i) {
    store(map->same, false, i, weight * even_twice(rope));
    store(map->other, false, i, swap_pairs(weight) * odd_twice_signed(rope));
}

/* size is even if rope is given, so pairs never straddle two vectors. */
INLINE void head_map_make(head_map *map, int64_t size, const float *weight, const float *rope) {
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t n = size - i < LANES ? size - i : LANES;
        vf w = n < LANES ? load_part(weight, false, i, n) : load(weight, false, i);
        vf r = !rope ? even_lanes_one() : n < LANES ? load_part(rope, false, i, n) : load(rope, false, i);
        head_map_at(map, w, r, i);
    }
}

INLINE float head_factor(const void *x, bool bf16, int64_t size, float eps) {
    return 1.0f / sqrtf(row_sum(x, bf16, size, 0.0f, 2) / (float)size + eps);
}

/* One head in place. */
INLINE void write_head(void *x, bool bf16, int64_t size, const head_map *map, float factor) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        vf v = load(x, bf16, i);
        store(x, bf16, i, (v * load(map->same, false, i) + swap_pairs(v) * load(map->other, false, i)) * factor);
    }
    if (i < size) {
        vf v = load_part(x, bf16, i, size - i);
        v = (v * load(map->same, false, i) + swap_pairs(v) * load(map->other, false, i)) * factor;
        store_part(x, bf16, i, v, size - i);
    }
}

/* As in norm_rows, the sum of the next head is begun before this one is written. */
INLINE void qk_rows(const dd_qk_norm_rope_args *a, bool bf16, int64_t head_size, int64_t begin, int64_t end) {
    head_map map;
    size_t step = (size_t)head_size * (bf16 ? 2 : 4);
    int heads = a->heads;
    float eps = a->eps;
    if (!a->rope) head_map_make(&map, head_size, a->weight->data, NULL);
    for (int64_t m = begin; m < end; m++) {
        char *row = (char *)row_of(&a->x, m);
        if (a->rope) head_map_make(&map, head_size, a->weight->data, (const float *)row_of(a->rope, m));
        float next = head_factor(row, bf16, head_size, eps);
        for (int h = 0; h < heads; h++) {
            char *head = row + (size_t)h * step;
            float now = next;
            if (h + 1 < heads) next = head_factor(head + step, bf16, head_size, eps);
            write_head(head, bf16, head_size, &map, now);
        }
    }
}

/* Head sizes 64 and 128 are compiled as constants, which unrolls the loops of a head. */
INLINE void qk_of_type(const dd_qk_norm_rope_args *a, bool bf16, int64_t begin, int64_t end) {
    int64_t head_size = dd_tensor_row_size(&a->x) / a->heads;
    if (head_size == 128) qk_rows(a, bf16, 128, begin, end);
    else if (head_size == 64) qk_rows(a, bf16, 64, begin, end);
    else qk_rows(a, bf16, head_size, begin, end);
}

void DD_ISA_NAME(dd_kernel_qk_norm_rope)(const dd_qk_norm_rope_args *a, int64_t begin, int64_t end) {
    if (a->x.dtype == DD_DTYPE_BF16) qk_of_type(a, true, begin, end);
    else qk_of_type(a, false, begin, end);
}
