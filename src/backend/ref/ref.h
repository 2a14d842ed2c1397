/* The reference backend: plain C loops, one file per op family; the truth for tests. Tensors are F32, sums float64. Weights
 * stay views of the file in any float dtype, Q8_0 blocks too; those made with DD_WEIGHT_UPDATES own their values as float32.
 * Has all backward passes. One thread, so one lane; a call may allocate rows of scratch, whatever dd_op_reserve was told. */
#ifndef DD_BACKEND_REF_REF_H
#define DD_BACKEND_REF_REF_H

#include "op/op.h"

ddit_status dd_ref_open(dd_backend **out, const dd_allocator *a, ddit_err *err);

/* The table, for backends that take over slots they do not override. Those slots work for F32 and BF16 tensors. The same for
 * the backward passes; those that take a weight (input) are for ref's own weights only, as weight_update and lane_open are. */
extern const dd_backend_ops dd_ref_ops;
extern const dd_grad_ops dd_ref_grad_ops;

#endif
