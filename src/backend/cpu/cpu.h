/* The cpu backend: our own kernels and oneDNN. */
#ifndef DD_BACKEND_CPU_CPU_H
#define DD_BACKEND_CPU_CPU_H

#include "op/op.h"

typedef struct dd_cpu_options {
    dd_dtype activation;  /* BF16 or F32 */
    int threads;          /* >= 1 */
    bool only_onednn;     /* every matrix product by oneDNN, for tests */
} dd_cpu_options;

ddit_status dd_cpu_open(dd_backend **out, const dd_allocator *a, const dd_cpu_options *options, ddit_err *err);

/* True if this processor multiplies bf16 in hardware (AVX512-BF16 or AMX-BF16). */
bool dd_cpu_has_bf16(void);

#endif
