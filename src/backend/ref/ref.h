/* The reference backend: plain C loops, one file per op family; the truth for tests. Tensors are F32, sums float64. Weights
 * stay views of the file in any float dtype, Q8_0 blocks too. Has the backward passes. One thread; a call may allocate rows of
 * scratch, whatever dd_op_reserve was told. */
#ifndef DD_BACKEND_REF_REF_H
#define DD_BACKEND_REF_REF_H

#include "op/op.h"

ddit_status dd_ref_open(dd_backend **out, const dd_allocator *a, ddit_err *err);

/* The table, for backends that take over slots they do not override. Those slots work for F32 and BF16 tensors. */
extern const dd_backend_ops dd_ref_ops;

#endif
