#include <stdio.h>
#include <string.h>

#include "pipeline/pipeline.h"

const char *ddit_version(void) { return DDIT_VERSION; }

const char *ddit_status_text(ddit_status status) {
    switch (status) {
#define DDIT_STATUS_CASE(name, value, text) case DDIT_##name: return text;
        DDIT_STATUS_MAP(DDIT_STATUS_CASE)
#undef DDIT_STATUS_CASE
    }
    return "unknown status";
}

ddit_context_params ddit_context_params_init(void) {
    return (ddit_context_params){.struct_size = sizeof(ddit_context_params)};
}

static ddit_status parse_precision(const char *name, dd_precision *out, ddit_err *err) {
    static const struct { const char *name; dd_precision value; } table[] = {
        {"auto", DD_PRECISION_AUTO}, {"f32", DD_PRECISION_F32}, {"bf16", DD_PRECISION_BF16}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!name || strcmp(name, table[i].name) == 0) {
            *out = table[i].value;
            return DDIT_OK;
        }
    return dd_fail(err, DDIT_ERR_ARGUMENT, "precision \"%s\": expected auto, f32 or bf16", name);
}

enum { MAX_THREADS = 1024 };

ddit_status ddit_context_create(ddit_context **out, const ddit_context_params *params, ddit_err *err) {
    *out = NULL;
    ddit_context_params p = params ? *params : ddit_context_params_init();
    if (p.struct_size != sizeof p)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "context parameters of %zu bytes, expected %zu: call ddit_context_params_init",
                       p.struct_size, sizeof p);
    if (!p.alloc != !p.free) return dd_fail(err, DDIT_ERR_ARGUMENT, "alloc and free come together: one of them is missing");
    if (p.threads < 0 || p.threads > MAX_THREADS)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "threads is %d, expected 0 (all cores) to %d", p.threads, MAX_THREADS);
    dd_precision precision = DD_PRECISION_AUTO;
    DD_TRY(parse_precision(p.precision, &precision, err));
    dd_allocator a = p.alloc ? (dd_allocator){p.alloc, p.free, p.user} : dd_allocator_libc;
    ddit_context *context;
    DD_TRY(dd_alloc(&a, &context, 1, sizeof *context, "the context", err));
    context->allocator = a;
    ddit_status status = dd_backend_open(&context->backend, p.backend, precision, p.threads, &context->allocator, err);
    if (status != DDIT_OK) {
        dd_free(&a, context);
        return status;
    }
    snprintf(context->device, sizeof context->device, "%s, %s", context->backend->device,
             context->backend->activation == DD_DTYPE_F32 ? "f32" : "bf16");
    *out = context;
    return DDIT_OK;
}

void ddit_context_free(ddit_context *context) {
    if (!context || context->children > 0) return;
    dd_allocator a = context->allocator;
    dd_backend_close(context->backend);
    dd_free(&a, context);
}

const char *ddit_context_device(const ddit_context *context) { return context->device; }

void ddit_text_free(ddit_context *context, char *text) {
    if (context) dd_free(&context->allocator, text);
}
