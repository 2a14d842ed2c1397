/* Elementwise passes and conversions. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"

INLINE vf activation_of(vf v, dd_activation activation) {
    switch (activation) {
    case DD_ACTIVATION_NONE: return v;
    case DD_ACTIVATION_SILU: return vf_silu(v);
    case DD_ACTIVATION_GELU_TANH: return vf_gelu_tanh(v);
    case DD_ACTIVATION_GELU_ERF: return vf_gelu_erf(v);
    case DD_ACTIVATION_QUICK_GELU: return vf_quick_gelu(v);
    }
    return v;
}

INLINE void activate_run(float *y, const float *x, int64_t count, dd_activation activation) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(y, false, i, activation_of(load(x, false, i), activation));
    if (i < count) store_part(y, false, i, activation_of(load_part(x, false, i, count - i), activation), count - i);
}

void DD_ISA_NAME(dd_kernel_activate)(float *y, const float *x, size_t count, dd_activation activation) {
    int64_t n = (int64_t)count;
    switch (activation) {
    case DD_ACTIVATION_NONE:
        if (y != x) memcpy(y, x, count * sizeof *y);
        break;
    case DD_ACTIVATION_SILU: activate_run(y, x, n, DD_ACTIVATION_SILU); break;
    case DD_ACTIVATION_GELU_TANH: activate_run(y, x, n, DD_ACTIVATION_GELU_TANH); break;
    case DD_ACTIVATION_GELU_ERF: activate_run(y, x, n, DD_ACTIVATION_GELU_ERF); break;
    case DD_ACTIVATION_QUICK_GELU: activate_run(y, x, n, DD_ACTIVATION_QUICK_GELU); break;
    }
}

INLINE void convert_run(void *y, bool y_bf16, const void *x, bool x_bf16, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(y, y_bf16, i, load(x, x_bf16, i));
    if (i < count) store_part(y, y_bf16, i, load_part(x, x_bf16, i, count - i), count - i);
}

void DD_ISA_NAME(dd_kernel_to_bf16)(uint16_t *y, const float *x, size_t count) {
    convert_run(y, true, x, false, (int64_t)count);
}

void DD_ISA_NAME(dd_kernel_from_bf16)(float *y, const uint16_t *x, size_t count) {
    convert_run(y, false, x, true, (int64_t)count);
}

static const void *at(const dd_tensor *t, int64_t row, int64_t col) {
    return (const char *)t->data + (size_t)(row * t->ld + col) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

INLINE void affine_run(float *buffer, const void *x, bool x_bf16, float ax, const void *z, bool z_bf16, float bz,
                       int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vf v = ax * load(x, x_bf16, i);
        store(buffer, false, i, z ? v + bz * load(z, z_bf16, i) : v);
    }
    if (i < count) {
        vf v = ax * load_part(x, x_bf16, i, count - i);
        store_part(buffer, false, i, z ? v + bz * load_part(z, z_bf16, i, count - i) : v, count - i);
    }
}

/* A run short enough to stay in the first-level cache goes through float32 in three steps, so that the dtypes of x, y, z and
 * the activation need no combined loops. */
static void affine_piece(const dd_cpu_affine_args *a, int64_t row, int64_t col, int64_t count) {
    enum { PIECE = 512 };
    float buffer[PIECE];
    for (int64_t end = col + count; col < end; col += PIECE) {
        int64_t n = end - col < PIECE ? end - col : PIECE;
        const void *x = at(&a->x, row, col);
        const void *z = a->z ? at(a->z, row, col) : NULL;
        bool x_bf16 = a->x.dtype == DD_DTYPE_BF16;
        bool z_bf16 = a->z && a->z->dtype == DD_DTYPE_BF16;
        if (x_bf16 && z_bf16) affine_run(buffer, x, true, a->ax, z, true, a->bz, n);
        else if (x_bf16) affine_run(buffer, x, true, a->ax, z, false, a->bz, n);
        else if (z_bf16) affine_run(buffer, x, false, a->ax, z, true, a->bz, n);
        else affine_run(buffer, x, false, a->ax, z, false, a->bz, n);
        DD_ISA_NAME(dd_kernel_activate)(buffer, buffer, (size_t)n, a->activation);
        void *y = (void *)at(&a->y, row, col);
        if (a->y.dtype == DD_DTYPE_BF16) convert_run(y, true, buffer, false, n);
        else memcpy(y, buffer, (size_t)n * sizeof(float));
    }
}

/* Plain copies and casts read and write once. */
static bool affine_is_cast(const dd_cpu_affine_args *a) {
    return !a->z && a->ax == 1.0f && a->activation == DD_ACTIVATION_NONE;
}

static void cast_row(const dd_cpu_affine_args *a, int64_t row, int64_t count) {
    void *y = (void *)at(&a->y, row, 0);
    const void *x = at(&a->x, row, 0);
    bool y_bf16 = a->y.dtype == DD_DTYPE_BF16;
    bool x_bf16 = a->x.dtype == DD_DTYPE_BF16;
    if (y_bf16 == x_bf16) memmove(y, x, (size_t)count * (y_bf16 ? 2 : 4));
    else if (y_bf16) convert_run(y, true, x, false, count);
    else convert_run(y, false, x, true, count);
}

void DD_ISA_NAME(dd_kernel_affine)(const dd_cpu_affine_args *a, int64_t begin, int64_t end) {
    int64_t size = dd_tensor_row_size(&a->x);
    bool cast = affine_is_cast(a);
    for (int64_t row = begin; row < end; row++) {
        if (cast) cast_row(a, row, size);
        else affine_piece(a, row, 0, size);
    }
}
