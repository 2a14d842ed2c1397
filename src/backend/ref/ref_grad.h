/* The slots of op_grad.h in plain C: float64 sums, every result rounded once. Tensors may be F32 or BF16, so a backend that
 * lacks one of the slots that take no weight may use it from here. They may allocate rows of scratch.
 */
#ifndef DD_BACKEND_REF_REF_GRAD_H
#define DD_BACKEND_REF_REF_GRAD_H

#include "backend/ref/ref_state.h"
#include "op/op_grad.h"

/* t[i] += value, rounded once. */
static inline void ref_add(const dd_tensor *t, int64_t i, double value) { ref_put(t, i, (float)(ref_at(t, i) + value)); }

/* ref_grad.c */
ddit_status dd_ref_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err);
ddit_status dd_ref_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err);
ddit_status dd_ref_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err);

#endif
