/* The reference backend: plain C loops in float32, one file per op family; the truth for tests. Also runs Q8_0 weights and has the
 * backward passes. */
#ifndef DD_BACKEND_REF_REF_H
#define DD_BACKEND_REF_REF_H

#include "op/op.h"

ddit_status dd_ref_open(dd_backend **out, const dd_allocator *a, ddit_err *err);

/* The table, for backends that take over slots they do not override. Those slots work for F32 and BF16 tensors. */
extern const dd_backend_ops dd_ref_ops;

#endif
