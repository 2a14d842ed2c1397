/* Linear weights laid out for the engine that multiplies with them, plans per depth, and the scratch memory of calls. */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"

enum { ALIGN = 64 };

static size_t value_size(dd_dtype dtype) { return dtype == DD_DTYPE_BF16 ? 2 : 4; }

/* ------------------------------------------------------------------------------------------------ plans */

struct dd_cpu_plan {
    dd_cpu_plan *next; /* owned */
    const dd_gemm_engine *engine;
    dd_gemm_kind kind;
    int m, n;
    int64_t k;
    dd_gemm_plan *plan; /* owned; NULL if the engine needs none */
};

ddit_status dd_cpu_plan_get(dd_cpu *cpu, const dd_gemm_engine *engine, dd_gemm_kind kind, int m, int n, int64_t k,
                            const dd_gemm_plan **out, ddit_err *err) {
    *out = NULL;
    if (!engine->plan_make) return DDIT_OK;
    for (const dd_cpu_plan *p = cpu->plans; p; p = p->next) {
        if (p->engine == engine && p->kind == kind && p->m == m && p->n == n && p->k == k) {
            *out = p->plan;
            return DDIT_OK;
        }
    }
    const dd_allocator *a = cpu->base.allocator;
    dd_cpu_plan *p = NULL;
    DD_TRY(dd_alloc(a, &p, 1, sizeof *p, "a plan of matrix products", err));
    *p = (dd_cpu_plan){.engine = engine, .kind = kind, .m = m, .n = n, .k = k};
    ddit_status status = engine->plan_make(&p->plan, a, cpu->base.threads, kind, m, n, k, err);
    if (status) {
        dd_free(a, p);
        return status;
    }
    p->next = cpu->plans;
    cpu->plans = p;
    cpu->base.scratch_bytes += engine->plan_bytes(p->plan);
    *out = p->plan;
    return DDIT_OK;
}

void dd_cpu_plans_free(dd_cpu *cpu) {
    while (cpu->plans) {
        dd_cpu_plan *p = cpu->plans;
        cpu->plans = p->next;
        p->engine->plan_free(cpu->base.allocator, p->plan);
        dd_free(cpu->base.allocator, p);
    }
}

/* ------------------------------------------------------------------------------------------------ scratch */

/* Replaces *memory by at least `bytes`, whose contents are lost. */
static ddit_status grow(dd_cpu *cpu, void **memory, size_t *have, size_t bytes, const char *what, ddit_err *err) {
    if (bytes <= *have) return DDIT_OK;
    dd_free(cpu->base.allocator, *memory);
    cpu->base.scratch_bytes -= *have;
    *memory = NULL;
    *have = 0;
    DD_TRY(dd_alloc_raw(cpu->base.allocator, memory, 1, bytes, what, err));
    cpu->base.scratch_bytes += bytes;
    *have = bytes;
    return DDIT_OK;
}

ddit_status dd_cpu_scratch(dd_cpu *cpu, size_t per_thread, size_t shared, ddit_err *err) {
    if (per_thread > cpu->scratch_per_thread) {
        /* An odd number of lines between slices keeps the threads' slices out of each other's cache sets. */
        size_t slice = (per_thread + ALIGN - 1) / ALIGN * ALIGN + ALIGN, bytes;
        if (__builtin_mul_overflow(slice, (size_t)cpu->base.threads, &bytes))
            return dd_fail(err, DDIT_ERR_NO_MEMORY, "the scratch memory of %d threads has no representable size",
                           cpu->base.threads);
        cpu->scratch_per_thread = 0;
        DD_TRY(grow(cpu, &cpu->scratch, &cpu->scratch_size, bytes, "scratch memory of the threads", err));
        cpu->scratch_per_thread = slice;
    }
    return grow(cpu, &cpu->shared, &cpu->shared_size, shared, "scratch memory of attention", err);
}

ddit_status dd_cpu_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    size_t per_thread = 0, shared = 0;
    for (int i = 0; i < r->weight_count; i++) {
        const dd_cpu_weight *w = (const dd_cpu_weight *)r->weights[i];
        if (w->info.kind != DD_WEIGHT_LINEAR) continue;
        size_t need = dd_cpu_linear_scratch(w->engine, w->info.in, DD_CPU_LORA_RESERVE);
        if (need > per_thread) per_thread = need;
    }
    if (r->attention_heads > 0 && r->attention_head_size > 0) {
        size_t need = 0;
        DD_TRY(dd_cpu_attention_prepare(cpu, r->attention_queries, r->attention_keys, r->attention_heads,
                                        r->attention_head_size, &need, &shared, err));
        if (need > per_thread) per_thread = need;
    }
    return dd_cpu_scratch(cpu, per_thread, shared, err);
}

/* ------------------------------------------------------------------------------------------------ weights */

/* Converts and lays out `rows` rows, a multiple of the engine's columns except at the end. */
static ddit_status pack_rows(dd_cpu_weight *w, const dd_weight_desc *d, size_t row_bytes, int64_t first, int64_t rows,
                             void *rows_copy, ddit_err *err) {
    const dd_gemm_engine *e = w->engine;
    const char *from = (const char *)d->data + (size_t)first * row_bytes;
    void *to = (void *)dd_gemm_b_block(e, w->packed, first, w->info.in);
    if (d->dtype == e->dtype && (uintptr_t)from % value_size(e->dtype) == 0) {
        e->pack_b(to, from, w->info.in, rows, w->info.in);
        return DDIT_OK;
    }
    size_t count = (size_t)w->info.in;
    for (int64_t i = 0; i < rows; i++) {
        const char *row = from + (size_t)i * row_bytes;
        if (e->dtype == DD_DTYPE_BF16) DD_TRY(dd_to_bf16((uint16_t *)rows_copy + (size_t)i * count, row, d->dtype, count, err));
        else DD_TRY(dd_to_f32((float *)rows_copy + (size_t)i * count, row, d->dtype, count, err));
    }
    e->pack_b(to, rows_copy, w->info.in, rows, w->info.in);
    return DDIT_OK;
}

static ddit_status pack(dd_backend *b, dd_cpu_weight *w, const dd_weight_desc *d, ddit_err *err) {
    const dd_gemm_engine *e = w->engine;
    const dd_allocator *a = b->allocator;
    ddit_status status = DDIT_OK;
    void *rows_copy = NULL;
    uint64_t row_bytes;
    if (!dd_dtype_bytes(d->dtype, (uint64_t)d->in, &row_bytes))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: rows of %lld values cannot be stored as %s", d->name, (long long)d->in,
                       dd_dtype_name(d->dtype));
    w->info.bytes = e->b_bytes(w->info.out, w->info.in);
    DD_GO(dd_alloc_raw(a, &w->packed, 1, w->info.bytes, d->name, err));
    DD_GO(dd_alloc_raw(a, &rows_copy, (size_t)e->cols * (size_t)d->in, value_size(e->dtype), "rows of a weight", err));
    for (int64_t first = 0; first < w->info.out; first += e->cols) {
        int64_t rows = w->info.out - first < e->cols ? w->info.out - first : e->cols;
        DD_GO(pack_rows(w, d, row_bytes, first, rows, rows_copy, err));
    }
    if (d->bias) {
        DD_GO(dd_alloc_raw(a, &w->bias, (size_t)d->out, sizeof *w->bias, d->name, err));
        DD_GO(dd_to_f32(w->bias, d->bias, d->bias_dtype, (size_t)d->out, err));
        w->info.bytes += (size_t)d->out * sizeof *w->bias;
    }
done:
    dd_free(a, rows_copy);
    return status;
}

ddit_status dd_cpu_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *d, ddit_err *err) {
    *out = NULL;
    if (d->kind == DD_WEIGHT_CONV2D) return dd_cpu_conv_weight_prepare(b, out, d, err);
    if (d->uses & ~(unsigned)DD_WEIGHT_FORWARD)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: the cpu backend has no backward passes; use the reference backend",
                       d->name);
    dd_cpu *cpu = dd_cpu_of(b);
    dd_cpu_weight *w = NULL;
    DD_TRY(dd_alloc(b->allocator, &w, 1, sizeof *w, d->name, err));
    w->engine = d->full_precision ? cpu->engine_f32 : cpu->engine;
    w->info = (dd_weight_info){.out = d->out, .in = d->in, .kh = 1, .kw = 1, .kind = DD_WEIGHT_LINEAR,
                               .input_dtype = w->engine->dtype};
    ddit_status status = dd_cpu_plan_get(cpu, w->engine, DD_GEMM_LINEAR, 0, 0, d->in, &w->plan, err);
    if (!status) status = pack(b, w, d, err);
    if (status) {
        dd_cpu_weight_free(b, (dd_weight *)w);
        return status;
    }
    *out = (dd_weight *)w;
    return DDIT_OK;
}

void dd_cpu_weight_free(dd_backend *b, dd_weight *weight) {
    if (!weight) return;
    if (((const dd_weight_info *)weight)->kind == DD_WEIGHT_CONV2D) {
        dd_cpu_conv_weight_free(b, weight);
        return;
    }
    dd_cpu_weight *w = (dd_cpu_weight *)weight;
    dd_free(b->allocator, w->packed);
    dd_free(b->allocator, w->bias);
    dd_free(b->allocator, w);
}

dd_weight_info dd_cpu_weight_info(const dd_weight *w) { return *(const dd_weight_info *)w; }
