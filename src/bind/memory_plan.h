/* Laying tensors out in one block of backend memory: run once without a base to learn the size, then again with the block. */
#ifndef DD_BIND_MEMORY_PLAN_H
#define DD_BIND_MEMORY_PLAN_H

#include "tensor/tensor.h"

/* Set base and zero the rest. Setting `used` back to an earlier value lets later tensors share memory with earlier ones. */
typedef struct dd_memory_plan {
    uint8_t *base;    /* NULL: only sizes are wanted */
    uint64_t used;    /* where the next tensor begins */
    uint64_t largest; /* bytes of the block */
} dd_memory_plan;

/* The next rows x cols values, on a boundary of 64 bytes; data is NULL without a base. */
static inline dd_tensor dd_plan_take(dd_memory_plan *plan, dd_dtype dtype, int64_t rows, int64_t cols) {
    uint64_t bytes = 0;
    dd_dtype_bytes(dtype, (uint64_t)rows * (uint64_t)cols, &bytes);
    dd_tensor t = dd_tensor_2d(plan->base ? plan->base + plan->used : NULL, dtype, rows, cols);
    plan->used += (bytes + 63) / 64 * 64;
    if (plan->used > plan->largest) plan->largest = plan->used;
    return t;
}

#endif
