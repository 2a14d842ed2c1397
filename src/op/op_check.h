/* The checks from which op.c, op_latent.c and op_grad.c are made. Private to the room. */
#ifndef DD_OP_OP_CHECK_H
#define DD_OP_OP_CHECK_H

#include "op/op.h"

enum { DD_CELL_MAX = 64 }; /* latent pixels along a cell's side, or a pooling factor: far above anything real */

/* Sets of dtypes. */
enum {
    DD_SET_F32 = 1 << DD_DTYPE_F32,
    DD_SET_I32 = 1 << DD_DTYPE_I32,
    DD_SET_FLOATS = 1 << DD_DTYPE_F32 | 1 << DD_DTYPE_BF16 | 1 << DD_DTYPE_F16 | 1 << DD_DTYPE_F64 | 1 << DD_DTYPE_F8_E4M3 |
                    1 << DD_DTYPE_F8_E5M2 | 1 << DD_DTYPE_Q8_0,
};

/* One op call under check. */
typedef struct dd_op_check {
    const char *op;  /* named in every sentence */
    unsigned act;    /* the set that holds the backend's activation dtype */
    unsigned either; /* F32 or act */
    ddit_err *err;
} dd_op_check;

dd_op_check dd_op_check_begin(const dd_backend *b, const char *op, ddit_err *err);

/* t must have rank 1, 2 or 3, a dtype of the set, this shape (an extent of -1 fits anything from 0), ld >= row size, and memory
 * unless it is empty. Sentence: `linear: x is [3, 4] F32, expected [3, 8] BF16`. */
ddit_status dd_op_want(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes, int rank, int64_t d0,
                       int64_t d1, int64_t d2);

static inline ddit_status dd_op_want_1d(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes,
                                        int64_t n) {
    return dd_op_want(c, name, t, dtypes, 1, n, 0, 0);
}
static inline ddit_status dd_op_want_2d(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes,
                                        int64_t rows, int64_t cols) {
    return dd_op_want(c, name, t, dtypes, 2, rows, cols, 0);
}
static inline ddit_status dd_op_want_3d(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes, int64_t d0,
                                        int64_t d1, int64_t d2) {
    return dd_op_want(c, name, t, dtypes, 3, d0, d1, d2);
}
/* The same for [D] F32 vectors that may be NULL. */
ddit_status dd_op_want_optional_vector(const dd_op_check *c, const char *name, const dd_tensor *t, int64_t n);

/* Columns of attention: heads > 0 and a whole number of values each. */
ddit_status dd_op_want_heads(const dd_op_check *c, int64_t width, int heads);

/* a condition that is not a shape: `op: ` and the formatted sentence. */
__attribute__((format(printf, 3, 4))) ddit_status dd_op_require(const dd_op_check *c, bool holds, const char *format, ...);

/* y must not share memory with x (NULL: not given). Column ranges of one matrix do not share memory. */
ddit_status dd_op_apart(const dd_op_check *c, const char *y_name, const dd_tensor *y, const char *x_name, const dd_tensor *x);

/* y may be exactly x (same memory, dtype and ld) or must not share memory with it. */
ddit_status dd_op_apart_or_same(const dd_op_check *c, const char *y_name, const dd_tensor *y, const char *x_name,
                                const dd_tensor *x);

/* DDIT_ERR_UNSUPPORTED naming the backend and op unless the slot is there. */
ddit_status dd_op_slot(const dd_backend *b, bool filled, const char *op, ddit_err *err);

#endif
