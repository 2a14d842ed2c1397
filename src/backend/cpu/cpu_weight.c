/* Linear weights laid out for the engine that multiplies with them, plans per depth, and the scratch memory of calls. */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/cpu_grad.h"

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

static void at_least(size_t *have, size_t need) {
    if (need > *have) *have = need;
}

static size_t converted_bytes(const dd_cpu_weight *w) {
    return (size_t)w->engine->cols * (size_t)w->info.in * value_size(w->engine->dtype);
}

/* What a thread needs for every call that this weight takes part in. */
static size_t weight_scratch(const dd_cpu_weight *w, bool gradients) {
    size_t bytes = dd_cpu_linear_scratch(w->engine, w->info.in, DD_CPU_LORA_RESERVE);
    if (w->uses & DD_WEIGHT_UPDATES) at_least(&bytes, converted_bytes(w));
    if (gradients && w->transposed) at_least(&bytes, dd_cpu_linear_scratch(w->engine, w->info.out, 0));
    return bytes;
}

/* What backward passes need beyond their weights. The row ops sum over values of the residual stream, whose width is the
 * smaller side of the weights around it. */
static ddit_status grad_scratch(dd_cpu *cpu, const dd_reserve *r, size_t *per_thread, size_t *shared, ddit_err *err) {
    int64_t width = 0;
    for (int i = 0; i < r->weight_count; i++) {
        const dd_weight_info *w = (const dd_weight_info *)r->weights[i];
        int64_t side = w->in < w->out ? w->in : w->out;
        if (side > width) width = side;
    }
    size_t slice, common;
    at_least(shared, dd_cpu_row_sums_bytes(r->gradient_rows, 2 * width));
    DD_TRY(dd_cpu_weight_grad_prepare(cpu, r->gradient_rows, &slice, &common, err));
    at_least(per_thread, slice);
    at_least(shared, common);
    if (r->attention_heads == 0 || r->attention_head_size == 0) return DDIT_OK;
    DD_TRY(dd_cpu_attention_grad_prepare(cpu, r->attention_queries, r->attention_keys, r->attention_heads,
                                         r->attention_head_size, &slice, &common, err));
    at_least(per_thread, slice);
    at_least(shared, common);
    return DDIT_OK;
}

ddit_status dd_cpu_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    size_t per_thread = 0, shared = 0;
    for (int i = 0; i < r->weight_count; i++) {
        const dd_cpu_weight *w = (const dd_cpu_weight *)r->weights[i];
        if (w->info.kind == DD_WEIGHT_LINEAR) at_least(&per_thread, weight_scratch(w, r->gradient_rows > 0));
    }
    if (r->attention_heads > 0 && r->attention_head_size > 0) {
        size_t slice;
        DD_TRY(dd_cpu_attention_prepare(cpu, r->attention_queries, r->attention_keys, r->attention_heads,
                                        r->attention_head_size, &slice, &shared, err));
        at_least(&per_thread, slice);
    }
    if (r->gradient_rows > 0) DD_TRY(grad_scratch(cpu, r, &per_thread, &shared, err));
    return dd_cpu_scratch(cpu, per_thread, shared, err);
}

/* ------------------------------------------------------------------------------------------------ weights */

/* Lays out rows [first, first + rows) of W, `from` in the engine's dtype, in both operands. */
static void lay_out(dd_cpu_weight *w, const void *from, int64_t first, int64_t rows) {
    const dd_gemm_engine *e = w->engine;
    int64_t in = w->info.in;
    e->pack_b((void *)dd_gemm_b_block(e, w->packed, first, in), from, in, rows, in);
    if (w->transposed) e->pack_b_rows(w->transposed->packed, from, in, in, w->info.out, first, rows);
}

static bool lies_as_needed(const dd_gemm_engine *e, const dd_weight_desc *d) {
    return d->dtype == e->dtype && (uintptr_t)d->data % value_size(e->dtype) == 0;
}

/* The float32 values of an update, rounded like those of a file, much faster. */
static bool rounds_fast(const dd_gemm_engine *e, const dd_weight_desc *d) {
    return d->dtype == DD_DTYPE_F32 && e->dtype == DD_DTYPE_BF16 && (uintptr_t)d->data % sizeof(float) == 0;
}

/* All rows of desc, e->cols at a time by way of `copy` (converted_bytes), which is not used where none need conversion. */
static ddit_status lay_out_all(const dd_cpu *cpu, dd_cpu_weight *w, const dd_weight_desc *d, void *copy, ddit_err *err) {
    const dd_gemm_engine *e = w->engine;
    uint64_t row_bytes;
    if (!dd_dtype_bytes(d->dtype, (uint64_t)d->in, &row_bytes))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: rows of %lld values cannot be stored as %s", d->name, (long long)d->in,
                       dd_dtype_name(d->dtype));
    for (int64_t first = 0; first < w->info.out; first += e->cols) {
        int64_t rows = w->info.out - first < e->cols ? w->info.out - first : e->cols, count = rows * w->info.in;
        const char *from = (const char *)d->data + (size_t)first * row_bytes;
        if (lies_as_needed(e, d)) {
            lay_out(w, from, first, rows);
            continue;
        }
        if (rounds_fast(e, d)) cpu->tiles->scaled(copy, true, count, (const float *)(const void *)from, count, 1, count, 1.0f);
        else if (e->dtype == DD_DTYPE_BF16) DD_TRY(dd_to_bf16(copy, from, d->dtype, (size_t)count, err));
        else DD_TRY(dd_to_f32(copy, from, d->dtype, (size_t)count, err));
        lay_out(w, copy, first, rows);
    }
    return DDIT_OK;
}

/* The parts of a weight: plan, operand and what is needed of the transpose. */
static ddit_status make_parts(dd_cpu *cpu, dd_cpu_weight *w, const dd_weight_desc *d, ddit_err *err) {
    const dd_allocator *a = cpu->base.allocator;
    DD_TRY(dd_cpu_plan_get(cpu, w->engine, DD_GEMM_LINEAR, 0, 0, w->info.in, &w->plan, err));
    w->info.bytes = w->engine->b_bytes(w->info.out, w->info.in);
    DD_TRY(dd_alloc_raw(a, &w->packed, 1, w->info.bytes, d->name, err));
    if (d->bias) {
        DD_TRY(dd_alloc_raw(a, &w->bias, (size_t)d->out, sizeof *w->bias, d->name, err));
        w->info.bytes += (size_t)d->out * sizeof *w->bias;
    }
    if (!(w->uses & DD_WEIGHT_INPUT_GRADIENT)) return DDIT_OK;
    DD_TRY(dd_alloc(a, &w->transposed, 1, sizeof *w->transposed, d->name, err));
    dd_cpu_weight *t = w->transposed;
    t->engine = w->engine;
    t->info = w->info;
    t->info.out = w->info.in;
    t->info.in = w->info.out;
    t->info.bytes = t->engine->b_bytes(t->info.out, t->info.in);
    DD_TRY(dd_cpu_plan_get(cpu, t->engine, DD_GEMM_LINEAR, 0, 0, t->info.in, &t->plan, err));
    DD_TRY(dd_alloc_raw(a, &t->packed, 1, t->info.bytes, d->name, err));
    w->info.bytes += t->info.bytes;
    return DDIT_OK;
}

static ddit_status fill_parts(dd_cpu *cpu, dd_cpu_weight *w, const dd_weight_desc *d, ddit_err *err) {
    void *copy = NULL;
    if (!lies_as_needed(w->engine, d))
        DD_TRY(dd_alloc_raw(cpu->base.allocator, &copy, 1, converted_bytes(w), "rows of a weight", err));
    ddit_status status = lay_out_all(cpu, w, d, copy, err);
    dd_free(cpu->base.allocator, copy);
    if (!status && d->bias) status = dd_to_f32(w->bias, d->bias, d->bias_dtype, (size_t)d->out, err);
    return status;
}

ddit_status dd_cpu_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *d, ddit_err *err) {
    *out = NULL;
    if (d->kind == DD_WEIGHT_CONV2D) return dd_cpu_conv_weight_prepare(b, out, d, err);
    dd_cpu *cpu = dd_cpu_of(b);
    dd_cpu_weight *w = NULL;
    DD_TRY(dd_alloc(b->allocator, &w, 1, sizeof *w, d->name, err));
    w->engine = d->full_precision ? cpu->engine_f32 : cpu->engine;
    w->uses = d->uses;
    w->info = (dd_weight_info){.out = d->out, .in = d->in, .kh = 1, .kw = 1, .kind = DD_WEIGHT_LINEAR,
                               .input_dtype = w->engine->dtype};
    ddit_status status = make_parts(cpu, w, d, err);
    if (!status) status = fill_parts(cpu, w, d, err);
    if (status) {
        dd_cpu_weight_free(b, (dd_weight *)w);
        return status;
    }
    *out = (dd_weight *)w;
    return DDIT_OK;
}

ddit_status dd_cpu_weight_update(dd_backend *b, dd_weight *weight, const dd_weight_desc *d, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    dd_cpu_weight *w = (dd_cpu_weight *)weight;
    if (w->info.kind != DD_WEIGHT_LINEAR || !(w->uses & DD_WEIGHT_UPDATES))
        return dd_fail(err, DDIT_ERR_INTERNAL, "weight_update: weight %s [%lld, %lld] was not prepared for new values", d->name,
                       (long long)w->info.out, (long long)w->info.in);
    if (!w->bias != !d->bias)
        return dd_fail(err, DDIT_ERR_INTERNAL, "weight_update: weight %s has %s bias, its new values have %s", d->name,
                       w->bias ? "a" : "no", d->bias ? "one" : "none");
    DD_TRY(dd_cpu_scratch(cpu, converted_bytes(w), 0, err));
    DD_TRY(lay_out_all(cpu, w, d, dd_cpu_slice(cpu, 0), err));
    return d->bias ? dd_to_f32(w->bias, d->bias, d->bias_dtype, (size_t)d->out, err) : DDIT_OK;
}

static void free_parts(const dd_allocator *a, dd_cpu_weight *w) {
    dd_free(a, w->packed);
    dd_free(a, w->bias);
    dd_free(a, w);
}

void dd_cpu_weight_free(dd_backend *b, dd_weight *weight) {
    if (!weight) return;
    if (((const dd_weight_info *)weight)->kind == DD_WEIGHT_CONV2D) {
        dd_cpu_conv_weight_free(b, weight);
        return;
    }
    dd_cpu_weight *w = (dd_cpu_weight *)weight;
    if (w->transposed) free_parts(b->allocator, w->transposed);
    free_parts(b->allocator, w);
}

dd_weight_info dd_cpu_weight_info(const dd_weight *w) { return *(const dd_weight_info *)w; }
