/* Compares the slots of every backend with ref. A case is a function that makes its tensors through an op_run and calls ops; it
 * is run once on ref and once per thread count on the backend under test, with the same values each time.
 *
 *     static void norm_case(op_run *r, const void *param) {
 *         dd_tensor *x = op_in2(r, OP_ACT, 3, 5), *y = op_out2(r, OP_ACT, 3, 5);
 *         op_ok(r, dd_op_norm(r->b, &(dd_norm_args){.y = *y, .x = *x, .eps = 1e-6f}, &r->err));
 *     }
 *     op_compare(t, choice, "3 x 5", norm_case, NULL, bounds);
 *
 * Memory around tensors and between their rows is NaN and must stay untouched, inputs too. Results must not depend on the
 * number of threads, to the bit.
 */
#ifndef DD_TEST_OP_SUITE_H
#define DD_TEST_OP_SUITE_H

#include "backend/ref/ref.h"
#include "backend/registry.h"
#include "harness.h"

/* A backend under test. */
typedef struct op_choice {
    const char *name; /* as dd_backend_open takes it; NULL: ref's own slots with BF16 tensors */
    dd_dtype activation;
} op_choice;

extern const op_choice op_ref_bf16, op_cpu_f32, op_cpu_bf16, op_onednn_f32, op_onednn_bf16;

/* Opens the backend; NULL after dd_test_skip (not on this processor) or a failure. Closed by dd_backend_close. */
dd_backend *op_open(dd_test *t, const op_choice *choice, int threads, const dd_allocator *a);

/* ROUNDED: F32 whose values are representable in the activation dtype of the backend under test, as ACT's are. */
typedef enum op_kind { OP_ACT, OP_F32, OP_ROUNDED, OP_I32 } op_kind;
typedef enum op_role { OP_IN, OP_OUT, OP_INOUT } op_role;

enum { OP_MAX_TENSORS = 24, OP_MAX_WEIGHTS = 8 };

typedef struct op_tensor {
    dd_tensor view;
    op_role role;
    uint8_t *before; /* owned: the whole memory as uploaded, guards included */
    void *memory;    /* owned, the backend's */
    size_t bytes;
} op_tensor;

typedef struct op_part {
    size_t begin, count;
    bool wide; /* F32 on the backend under test, whatever its activation dtype */
} op_part;

typedef struct op_run {
    dd_backend *b;
    ddit_err err;
    dd_test *t;
    const char *label;
    dd_dtype rounding; /* dtype of the backend under test: values of OP_ACT are representable in it, on ref too */
    int64_t gap;       /* ld - row size of the matrices made from now on */
    float amplitude;   /* of the random values made from now on; 1 at first */
    uint64_t seed;
    op_tensor tensors[OP_MAX_TENSORS];
    int tensor_count;
    dd_weight *weights[OP_MAX_WEIGHTS];
    void *weight_data[2 * OP_MAX_WEIGHTS];
    int weight_count;
    float *result; /* owned: all outputs, one after the other */
    size_t result_count;
    op_part parts[OP_MAX_TENSORS]; /* of the result, each compared for itself */
    int part_count;
} op_run;

typedef void (*op_case)(op_run *r, const void *param);

/* Largest normalised mean squared error, sum (y - ref)^2 / sum ref^2, of each output by activation dtype. wide: of F32 outputs
 * of a bf16 backend; 0 = bf16. noise: a root mean square error that is nothing, for outputs that are 0 but for rounding. */
typedef struct op_bounds {
    double f32, bf16, wide, noise;
} op_bounds;

void op_compare(dd_test *t, const op_choice *choice, const char *label, op_case run, const void *param, op_bounds bounds);

/* Tensors of random values in [-amplitude, amplitude). OUT starts as NaN. Pointers live as long as the run. */
dd_tensor *op_new(op_run *r, op_role role, op_kind kind, int rank, int64_t d0, int64_t d1, int64_t d2);
dd_tensor *op_in1(op_run *r, int64_t n); /* F32 */
dd_tensor *op_in2(op_run *r, op_kind kind, int64_t rows, int64_t cols);
dd_tensor *op_out2(op_run *r, op_kind kind, int64_t rows, int64_t cols);
dd_tensor *op_in3(op_run *r, int64_t d0, int64_t d1, int64_t d2); /* F32 */
dd_tensor *op_out3(op_run *r, int64_t d0, int64_t d1, int64_t d2);
/* Given values, dense, rounded as random ones would be. */
dd_tensor *op_given(op_run *r, op_kind kind, int rank, int64_t d0, int64_t d1, int64_t d2, const float *values);
/* The values a tensor of this run began with, dense float32. The caller's, from malloc. */
float *op_host(const op_run *r, const dd_tensor *t);
dd_tensor *op_ints(op_run *r, int rank, int64_t rows, int64_t cols, const int32_t *values);

/* A weight of random values of size about 1/sqrt(in), bias of size 1 (NULL without), desc's data and dtypes are filled in here.
 * The values are representable in BF16 when the backend under test computes in it, unless full_precision. */
dd_weight *op_weight(op_run *r, dd_weight_desc desc, bool bias);

/* OP_ACT or OP_ROUNDED: what x must be for this weight (not one of full precision: OP_F32). */
op_kind op_input(const op_run *r, const dd_weight *w);

/* Host values that are part of the result. */
void op_result(op_run *r, const float *values, size_t count);

void op_ok_at(op_run *r, ddit_status status, const char *file, int line);
#define op_ok(r, call) op_ok_at((r), (call), __FILE__, __LINE__)

/* The five test cases of a family, from a function family(dd_test *, const op_choice *). */
#define OP_FAMILY(family) \
    static void family##_ref_bf16(dd_test *t) { family(t, &op_ref_bf16); } \
    static void family##_cpu_f32(dd_test *t) { family(t, &op_cpu_f32); } \
    static void family##_cpu_bf16(dd_test *t) { family(t, &op_cpu_bf16); } \
    static void family##_onednn_f32(dd_test *t) { family(t, &op_onednn_f32); } \
    static void family##_onednn_bf16(dd_test *t) { family(t, &op_onednn_bf16); }
#define OP_FAMILY_CASES(family) \
    {#family " ref slots bf16", family##_ref_bf16}, {#family " cpu f32", family##_cpu_f32}, \
    {#family " cpu bf16", family##_cpu_bf16}, {#family " cpu-onednn f32", family##_onednn_f32}, \
    {#family " cpu-onednn bf16", family##_onednn_bf16}

/* NMSE bounds used by several families. F32: sums in another order and exponentials good to 1e-6 leave about 1e-13. BF16: one
 * rounding is a relative error of at most 2^-8 and leaves 2.6e-6 on average; one more, of an intermediate, doubles it. Outputs
 * of under 1000 values may miss the average: op_compare allows them three times as much, the worst case of one rounding. */
static const op_bounds op_bounds_usual = {.f32 = 1e-11, .bf16 = 5.5e-6};

#endif
