/* Row kernels: the memory-bound passes, compiled once per instruction set from kernels/ (see src/cpu_kernels.cmake); the table
 * of the best set is taken when the backend opens. Every kernel computes in float32, works on one thread, allocates nothing and
 * gives each row the same bytes whatever range it is called for, so that the caller may cut the rows as it likes. Kernels
 * whose arguments come from op/op.h keep those contracts. Tensors are F32 or BF16. Private to the room.
 */
#ifndef DD_BACKEND_CPU_KERNELS_H
#define DD_BACKEND_CPU_KERNELS_H

#include "op/op_grad.h"

/* y = activation(ax * x + bz * z), [M, N] each; z may be NULL, y may be x or *z. Dtypes may all differ. */
typedef struct dd_cpu_affine_args {
    dd_tensor y, x;
    const dd_tensor *z;
    float ax, bz;
    dd_activation activation;
} dd_cpu_affine_args;

/* y = activation((x - mean[c]) * gain[c] + bias[c]) on rows = pixels; y may be x. */
typedef struct dd_cpu_channel_affine_args {
    dd_tensor y, x;          /* [H*W, C] */
    const float *mean;       /* [C] each */
    const float *gain, *bias;
    dd_activation activation;
} dd_cpu_channel_affine_args;

enum { DD_CPU_MAX_HEAD = 512 }; /* largest head that qk_norm_rope has room for; T5, CLIP and FLUX have 64 to 128 */

typedef struct dd_cpu_kernels {
    const char *name; /* "baseline", "avx2", "avx512" */

    /* Rows [begin, end) of the op. */
    void (*norm)(const dd_norm_args *a, int64_t begin, int64_t end);
    void (*qk_norm_rope)(const dd_qk_norm_rope_args *a, int64_t begin, int64_t end);
    void (*affine)(const dd_cpu_affine_args *a, int64_t begin, int64_t end);
    void (*channel_affine)(const dd_cpu_channel_affine_args *a, int64_t begin, int64_t end);

    /* The same backwards (op_grad.h). Sums over the range's rows go to [N] float32 arrays, which are written, in an order that
     * depends on the range; NULL = not wanted. The caller adds them to the tensors of the arguments. */
    void (*norm_grad)(const dd_norm_grad_args *g, float *dscale, float *dshift, int64_t begin, int64_t end);
    void (*qk_norm_rope_grad)(const dd_qk_norm_rope_grad_args *g, float *dweight, int64_t begin, int64_t end);
    void (*activation_grad)(const dd_activation_grad_args *g, int64_t begin, int64_t end);
    void (*gate_grad)(const dd_gate_grad_args *g, float *dgate, int64_t begin, int64_t end);
    /* weight[c, e] += sum over p of x[c, p] * z[e, p] and bias[c] += sum over p of x[c, p] for c, e < channels, p < count; x
     * and z have rows ld apart, weight is [channels, channels]. Weight (then z is not read) and bias may be NULL. */
    void (*channel_products)(float *weight, float *bias, const float *x, const float *z, int64_t channels, int64_t ld,
                             int64_t count);

    /* Mean and sum of squared deviations of each column over rows [begin, end) of x [M, C]; mean and m2 [C] are written. */
    void (*column_stats)(double *mean, double *m2, const dd_tensor *x, int64_t begin, int64_t end);

    /* Runs of consecutive values; y may be x where the types allow it. to_bf16 rounds to nearest even and keeps NaN. */
    void (*activate)(float *y, const float *x, size_t count, dd_activation activation);
    void (*to_bf16)(uint16_t *y, const float *x, size_t count);
    void (*from_bf16)(float *y, const uint16_t *x, size_t count);
} dd_cpu_kernels;

extern const dd_cpu_kernels dd_cpu_kernels_baseline; /* x86-64 as it was in 2003: SSE2 */
extern const dd_cpu_kernels dd_cpu_kernels_avx2;     /* AVX2, FMA, F16C */
extern const dd_cpu_kernels dd_cpu_kernels_avx512;   /* AVX-512 F, BW, DQ, VL */

/* The table for this processor. */
const dd_cpu_kernels *dd_cpu_kernels_best(void);

#endif
