/* What the files that call oneDNN share: failures, number formats, running on one thread. oneDNN 2.6 C API. Private to the
 * room. */
#ifndef DD_BACKEND_CPU_ONEDNN_H
#define DD_BACKEND_CPU_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>

#include "tensor/tensor.h"

/* DDIT_OK, or a failure that says "oneDNN could not WHAT: REASON": NO_MEMORY, UNSUPPORTED (no implementation), else BACKEND. */
ddit_status dd_onednn_check(dnnl_status_t s, const char *what, ddit_err *err);

/* F32, BF16, I32, I8, U8 and F16; dnnl_data_type_undef for the rest. */
dnnl_data_type_t dd_onednn_type(dd_dtype dtype);

/* oneDNN divides work by the number of OpenMP threads that the calling thread would get; results then depend on it. _begin sets
 * that number to one for the calling thread and returns the old one, which _end puts back: around making a primitive and around
 * running one (dd_cpu_run does so for its tasks). */
int dd_onednn_one_thread_begin(void);
void dd_onednn_one_thread_end(int old);

/* The same for good: how the backend's own threads start. */
void dd_onednn_one_thread(void);

/* Copies between layouts on one thread. */
ddit_status dd_onednn_reorder(dnnl_engine_t engine, dnnl_stream_t stream, const dnnl_memory_desc_t *to_desc, void *to,
                              const dnnl_memory_desc_t *from_desc, const void *from, ddit_err *err);

#endif
