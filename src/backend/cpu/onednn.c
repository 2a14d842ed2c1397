#include "backend/cpu/onednn.h"

#include <omp.h>

static const char *reason(dnnl_status_t s) {
    switch (s) {
    case dnnl_success: return "no failure";
    case dnnl_out_of_memory: return "out of memory";
    case dnnl_invalid_arguments: return "invalid arguments";
    case dnnl_unimplemented: return "not implemented for this processor";
    case dnnl_iterator_ends: return "no implementation left";
    case dnnl_runtime_error: return "runtime error";
    case dnnl_not_required: return "not required";
    }
    return "unknown failure";
}

ddit_status dd_onednn_check(dnnl_status_t s, const char *what, ddit_err *err) {
    if (s == dnnl_success) return DDIT_OK;
    ddit_status code = DDIT_ERR_BACKEND;
    if (s == dnnl_out_of_memory) code = DDIT_ERR_NO_MEMORY;
    if (s == dnnl_unimplemented) code = DDIT_ERR_UNSUPPORTED;
    return dd_fail(err, code, "oneDNN could not %s: %s", what, reason(s));
}

dnnl_data_type_t dd_onednn_type(dd_dtype dtype) {
    switch (dtype) {
    case DD_DTYPE_F32: return dnnl_f32;
    case DD_DTYPE_BF16: return dnnl_bf16;
    case DD_DTYPE_F16: return dnnl_f16;
    case DD_DTYPE_I32: return dnnl_s32;
    case DD_DTYPE_I8: return dnnl_s8;
    case DD_DTYPE_U8: return dnnl_u8;
    default: return dnnl_data_type_undef;
    }
}

int dd_onednn_one_thread_begin(void) {
    int old = omp_get_max_threads();
    omp_set_num_threads(1);
    return old;
}

void dd_onednn_one_thread_end(int old) { omp_set_num_threads(old); }

void dd_onednn_one_thread(void) { omp_set_num_threads(1); }

ddit_status dd_onednn_reorder(dnnl_engine_t engine, dnnl_stream_t stream, const dnnl_memory_desc_t *to_desc, void *to,
                              const dnnl_memory_desc_t *from_desc, const void *from, ddit_err *err) {
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t source = NULL, target = NULL;
    int threads = dd_onednn_one_thread_begin();
    dnnl_status_t s = dnnl_memory_create(&source, from_desc, engine, (void *)from);
    if (!s) s = dnnl_memory_create(&target, to_desc, engine, to);
    if (!s) s = dnnl_reorder_primitive_desc_create(&desc, from_desc, engine, to_desc, engine, NULL);
    if (!s) s = dnnl_primitive_create(&primitive, desc);
    if (!s) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}};
        s = dnnl_primitive_execute(primitive, stream, 2, args);
    }
    if (!s) s = dnnl_stream_wait(stream);
    dd_onednn_one_thread_end(threads);
    if (primitive) dnnl_primitive_destroy(primitive);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (source) dnnl_memory_destroy(source);
    if (target) dnnl_memory_destroy(target);
    return dd_onednn_check(s, "reorder a weight", err);
}
