/* Opens a backend by name: the only place that names them. */
#ifndef DD_BACKEND_REGISTRY_H
#define DD_BACKEND_REGISTRY_H

#include "op/op.h"

typedef enum dd_precision {
    DD_PRECISION_AUTO, /* bf16 where the processor computes it (AVX512-BF16, AMX), else f32 */
    DD_PRECISION_F32,
    DD_PRECISION_BF16,
} dd_precision;

/* name: "cpu" (default when NULL), "ref" (plain C, the truth for tests; float32 only), "cpu-onednn" (cpu with oneDNN doing
 * every matrix product, for tests). threads: 0 = one per core this process may use. Errors: DDIT_ERR_UNSUPPORTED for an unknown
 * name or a precision it lacks; DDIT_ERR_BACKEND. Closed by dd_backend_close. */
ddit_status dd_backend_open(dd_backend **out, const char *name, dd_precision precision, int threads, const dd_allocator *a,
                            ddit_err *err);
void dd_backend_close(dd_backend *b); /* NULL accepted; weights and memory made by it must be freed first */

#endif
