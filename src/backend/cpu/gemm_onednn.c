/* The engines over oneDNN's matmul: AMX, and processors without our own kernels.
 *
 * oneDNN's fast path (brgemm) wants dense operands of sizes known beforehand, so a plan holds primitives for row counts 128,
 * 64, 32 and 16 and for one number of columns; operands are copied dense and padded with zeros. Every primitive is made and
 * run on one thread, with scratch of ours. Memory objects are made with the plan, so a product allocates nothing.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/onednn.h"

enum {
    ROWS = 128,
    ROW_STEP = 16,
    COLS = 128,
    QUERIES = 64,
    SIZES = 4, /* row counts of a LINEAR plan: ROWS, ROWS / 2 … */
};

typedef struct plan_thread {
    dnnl_stream_t stream;
    dnnl_memory_t a[SIZES], b, c[SIZES], scratch[SIZES]; /* handles are set for every product */
    void *memory;                                        /* owned; what scratch points to */
} plan_thread;

struct dd_gemm_plan {
    dd_dtype dtype;
    dd_gemm_kind kind;
    int sizes; /* primitives */
    int m[SIZES], n;
    int64_t k;
    dnnl_engine_t engine;
    dnnl_primitive_t primitives[SIZES];
    size_t scratch_bytes; /* of a thread */
    int thread_count;
    plan_thread *threads; /* owned */
};

static size_t value_size(dd_dtype dtype) { return dtype == DD_DTYPE_BF16 ? 2 : 4; }

/* ------------------------------------------------------------------------------------------------ layouts */

static int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

/* rows rows of k values, one after the other, then zeros up to `padded` rows. */
static void copy_dense(char *to, const char *from, size_t from_bytes, size_t row_bytes, int64_t rows, int64_t padded) {
    for (int64_t i = 0; i < rows; i++) memcpy(to + (size_t)i * row_bytes, from + (size_t)i * from_bytes, row_bytes);
    if (padded > rows) memset(to + (size_t)rows * row_bytes, 0, (size_t)(padded - rows) * row_bytes);
}

/* to[j, i] = from[i, j] for i < rows and j < cols, in squares that stay in the L1 cache; distances in values. */
static void transpose(char *to, int64_t to_ld, const char *from, int64_t from_ld, int64_t rows, int64_t cols, size_t size) {
    enum { SQUARE = 32 };
    for (int64_t i0 = 0; i0 < rows; i0 += SQUARE) {
        int64_t i_end = rows - i0 < SQUARE ? rows : i0 + SQUARE;
        for (int64_t j0 = 0; j0 < cols; j0 += SQUARE) {
            int64_t j_end = cols - j0 < SQUARE ? cols : j0 + SQUARE;
            for (int64_t j = j0; j < j_end; j++)
                for (int64_t i = i0; i < i_end; i++)
                    memcpy(to + (size_t)(j * to_ld + i) * size, from + (size_t)(i * from_ld + j) * size, size);
        }
    }
}

/* An A block from its transpose: `depth` values a row, padded in number like others. */
static void transpose_dense(char *to, const char *from, int64_t ld, int m, int64_t k, int64_t depth, size_t size) {
    transpose(to, depth, from, ld, k, m, size);
    for (int i = 0; k < depth && i < m; i++) memset(to + (size_t)(i * depth + k) * size, 0, (size_t)(depth - k) * size);
    memset(to + (size_t)(m * depth) * size, 0, (size_t)((round_up(m, ROW_STEP) - m) * depth) * size);
}

/* pack_b keeps the rows of the transpose, so rows of B become columns; columns of B past n are zeros like there. */
static void transpose_rows(char *to, const char *from, int64_t ld, int64_t n, int64_t k, int64_t begin, int64_t count,
                           size_t size) {
    transpose(to + (size_t)begin * size, k, from, ld, count, n, size);
    for (int64_t j = n; j < round_up(n, COLS); j++) memset(to + (size_t)(j * k + begin) * size, 0, (size_t)count * size);
}

#define LAYOUTS(name, size)                                                                                                  \
    static size_t a_bytes_##name(int m, int64_t k) { return (size_t)(round_up(m, ROW_STEP) * k) * (size); }                 \
    static size_t b_bytes_##name(int64_t n, int64_t k) { return (size_t)(round_up(n, COLS) * k) * (size); }                 \
    static void pack_a_##name(void *to, const void *from, int64_t ld, int m, int64_t k) {                                    \
        copy_dense(to, from, (size_t)ld * (size), (size_t)k * (size), m, round_up(m, ROW_STEP));                             \
    }                                                                                                                        \
    static void pack_a_transposed_##name(void *to, const void *from, int64_t ld, int m, int64_t k) {                         \
        transpose_dense(to, from, ld, m, k, DD_GEMM_KEYS, size); /* values of attention: whole blocks of keys */            \
    }                                                                                                                        \
    static void pack_a_columns_##name(void *to, const void *from, int64_t ld, int m, int64_t k, int64_t depth) {             \
        transpose_dense(to, from, ld, m, k, depth, size);                                                                    \
    }                                                                                                                        \
    static void pack_b_##name(void *to, const void *from, int64_t ld, int64_t n, int64_t k) {                                \
        copy_dense(to, from, (size_t)ld * (size), (size_t)k * (size), n, round_up(n, COLS));                                 \
    }                                                                                                                        \
    static void pack_b_rows_##name(void *to, const void *from, int64_t ld, int64_t n, int64_t k, int64_t begin,              \
                                   int64_t count) {                                                                          \
        transpose_rows(to, from, ld, n, k, begin, count, size);                                                              \
    }

LAYOUTS(bf16, 2)
LAYOUTS(f32, 4)

/* ------------------------------------------------------------------------------------------------ products */

static dnnl_status_t execute(const dd_gemm_plan *p, int thread, int size, float *c, const void *a, const void *b) {
    const plan_thread *t = &p->threads[thread];
    dnnl_status_t s = dnnl_memory_set_data_handle_v2(t->a[size], (void *)a, t->stream);
    if (!s) s = dnnl_memory_set_data_handle_v2(t->b, (void *)b, t->stream);
    if (!s) s = dnnl_memory_set_data_handle_v2(t->c[size], c, t->stream);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, t->a[size]},
                                    {DNNL_ARG_WEIGHTS, t->b},
                                    {DNNL_ARG_DST, t->c[size]},
                                    {DNNL_ARG_SCRATCHPAD, t->scratch[size]}};
    return s ? s : dnnl_primitive_execute(p->primitives[size], t->stream, 4, args);
}

/* All rows of A by as few primitives as possible. */
static dnnl_status_t execute_rows(const dd_gemm_plan *p, int thread, float *c, const char *a, int m, const void *b) {
    size_t row_bytes = (size_t)p->k * value_size(p->dtype);
    int row = 0, size = 0;
    dnnl_status_t s = dnnl_success;
    while (!s && row < m) {
        while (size + 1 < p->sizes && p->m[size] > round_up(m - row, ROW_STEP)) size++;
        s = execute(p, thread, size, c + (int64_t)row * p->n, a + (size_t)row * row_bytes, b);
        row += p->m[size];
    }
    return s;
}

static void product(const dd_gemm_plan *p, int thread, float *c, const void *a, int m, const void *b, int n, int64_t k,
                    bool add, bool ahead) {
    (void)k, (void)ahead;
    int64_t rows = p->kind == DD_GEMM_LINEAR ? ROWS : p->m[0];
    float *to = add ? c + rows * p->n : c;
    int old = dd_onednn_one_thread_begin();
    dnnl_status_t s = execute_rows(p, thread, to, a, p->kind == DD_GEMM_LINEAR ? m : p->m[0], b);
    dd_onednn_one_thread_end(old);
    /* A product cannot fail with a sentence; it can only run out of memory inside oneDNN. Then nothing must look right. */
    if (s) {
        for (int64_t i = 0; i < (int64_t)m * p->n; i++) c[i] = NAN;
        return;
    }
    if (!add) return;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) c[i * p->n + j] += to[i * p->n + j];
}

/* ------------------------------------------------------------------------------------------------ plans */

static void plan_free(const dd_allocator *a, dd_gemm_plan *p) {
    if (!p) return;
    for (int i = 0; p->threads && i < p->thread_count; i++) {
        plan_thread *t = &p->threads[i];
        for (int s = 0; s < SIZES; s++) {
            if (t->a[s]) dnnl_memory_destroy(t->a[s]);
            if (t->c[s]) dnnl_memory_destroy(t->c[s]);
            if (t->scratch[s]) dnnl_memory_destroy(t->scratch[s]);
        }
        if (t->b) dnnl_memory_destroy(t->b);
        if (t->stream) dnnl_stream_destroy(t->stream);
        dd_free(a, t->memory);
    }
    dd_free(a, p->threads);
    for (int s = 0; s < SIZES; s++)
        if (p->primitives[s]) dnnl_primitive_destroy(p->primitives[s]);
    if (p->engine) dnnl_engine_destroy(p->engine);
    dd_free(a, p);
}

static size_t plan_bytes(const dd_gemm_plan *p) { return p->scratch_bytes * (size_t)p->thread_count; }

typedef struct plan_descs {
    dnnl_memory_desc_t a[SIZES], b, c[SIZES], scratch[SIZES];
} plan_descs;

static dnnl_status_t describe(const dd_gemm_plan *p, plan_descs *d) {
    dnnl_data_type_t type = dd_onednn_type(p->dtype);
    dnnl_dims_t b = {p->k, p->n};
    /* pack_b keeps the rows of the transpose; softmax leaves B as it is */
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&d->b, 2, b, type, p->kind == DD_GEMM_VALUES ? dnnl_ab : dnnl_ba);
    for (int i = 0; i < p->sizes && !s; i++) {
        dnnl_dims_t a = {p->m[i], p->k}, c = {p->m[i], p->n};
        s = dnnl_memory_desc_init_by_tag(&d->a[i], 2, a, type, dnnl_ab);
        if (!s) s = dnnl_memory_desc_init_by_tag(&d->c[i], 2, c, dnnl_f32, dnnl_ab);
    }
    return s;
}

static dnnl_status_t make_primitive(dd_gemm_plan *p, plan_descs *d, int size) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_matmul_desc_t matmul;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s) s = dnnl_matmul_desc_init(&matmul, &d->a[size], &d->b, NULL, &d->c[size]);
    if (!s) s = dnnl_primitive_desc_create(&desc, &matmul, attr, p->engine, NULL);
    if (!s) {
        d->scratch[size] = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
        size_t bytes = dnnl_memory_desc_get_size(&d->scratch[size]);
        if (bytes > p->scratch_bytes) p->scratch_bytes = bytes;
        s = dnnl_primitive_create(&p->primitives[size], desc);
    }
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

static dnnl_status_t make_thread(const dd_gemm_plan *p, const plan_descs *d, plan_thread *t) {
    dnnl_status_t s = dnnl_stream_create(&t->stream, p->engine, dnnl_stream_default_flags);
    if (!s) s = dnnl_memory_create(&t->b, &d->b, p->engine, DNNL_MEMORY_NONE);
    for (int i = 0; i < p->sizes && !s; i++) {
        s = dnnl_memory_create(&t->a[i], &d->a[i], p->engine, DNNL_MEMORY_NONE);
        if (!s) s = dnnl_memory_create(&t->c[i], &d->c[i], p->engine, DNNL_MEMORY_NONE);
        if (!s) s = dnnl_memory_create(&t->scratch[i], &d->scratch[i], p->engine, t->memory);
    }
    return s;
}

static ddit_status plan_make(dd_gemm_plan *p, const dd_allocator *a, ddit_err *err) {
    static const char what[] = "plan a matrix product";
    plan_descs d;
    memset(&d, 0, sizeof d);
    DD_TRY(dd_onednn_check(dnnl_engine_create(&p->engine, dnnl_cpu, 0), what, err));
    DD_TRY(dd_onednn_check(describe(p, &d), what, err));
    int old = dd_onednn_one_thread_begin();
    dnnl_status_t s = dnnl_success;
    for (int i = 0; i < p->sizes && !s; i++) s = make_primitive(p, &d, i);
    dd_onednn_one_thread_end(old);
    DD_TRY(dd_onednn_check(s, what, err));
    for (int i = 0; i < p->thread_count; i++) {
        plan_thread *t = &p->threads[i];
        DD_TRY(dd_alloc_raw(a, &t->memory, 1, p->scratch_bytes + 64, "scratch memory of oneDNN", err));
        DD_TRY(dd_onednn_check(make_thread(p, &d, t), what, err));
    }
    return DDIT_OK;
}

static ddit_status plan_start(dd_gemm_plan **out, dd_dtype dtype, const dd_allocator *a, int threads, dd_gemm_kind kind, int m,
                              int n, int64_t k, ddit_err *err) {
    dd_gemm_plan *p = NULL;
    *out = NULL;
    DD_TRY(dd_alloc(a, &p, 1, sizeof *p, "a plan of matrix products", err));
    p->dtype = dtype;
    p->kind = kind;
    p->k = k;
    p->n = kind == DD_GEMM_LINEAR ? COLS : n;
    p->sizes = kind == DD_GEMM_LINEAR ? SIZES : 1;
    for (int i = 0; i < p->sizes; i++) p->m[i] = kind == DD_GEMM_LINEAR ? ROWS >> i : m;
    p->thread_count = threads;
    ddit_status status = dd_alloc(a, &p->threads, (size_t)threads, sizeof *p->threads, "a plan of matrix products", err);
    if (!status) status = plan_make(p, a, err);
    if (status) plan_free(a, p);
    else *out = p;
    return status;
}

static ddit_status plan_make_bf16(dd_gemm_plan **out, const dd_allocator *a, int threads, dd_gemm_kind kind, int m, int n,
                                  int64_t k, ddit_err *err) {
    return plan_start(out, DD_DTYPE_BF16, a, threads, kind, m, n, k, err);
}

static ddit_status plan_make_f32(dd_gemm_plan **out, const dd_allocator *a, int threads, dd_gemm_kind kind, int m, int n,
                                 int64_t k, ddit_err *err) {
    return plan_start(out, DD_DTYPE_F32, a, threads, kind, m, n, k, err);
}

/* ------------------------------------------------------------------------------------------------ engines */

#define ENGINE(type, text, dtype_)                                                                                           \
    const dd_gemm_engine dd_gemm_onednn_##type = {                                                                           \
        .name = text,                                                                                                        \
        .dtype = dtype_,                                                                                                     \
        .rows = ROWS,                                                                                                        \
        .row_step = ROW_STEP,                                                                                                \
        .cols = COLS,                                                                                                        \
        .adds_aside = true,                                                                                                  \
        .whole_keys = true,                                                                                                  \
        .query_cols = QUERIES,                                                                                               \
        .a_bytes = a_bytes_##type,                                                                                           \
        .b_bytes = b_bytes_##type,                                                                                           \
        .pack_a = pack_a_##type,                                                                                             \
        .pack_a_transposed = pack_a_transposed_##type,                                                                       \
        .pack_a_columns = pack_a_columns_##type,                                                                             \
        .pack_b = pack_b_##type,                                                                                             \
        .pack_b_rows = pack_b_rows_##type,                                                                                   \
        .product = product,                                                                                                  \
        .plan_make = plan_make_##type,                                                                                       \
        .plan_free = plan_free,                                                                                              \
        .plan_bytes = plan_bytes,                                                                                            \
    }

ENGINE(bf16, "oneDNN bf16", DD_DTYPE_BF16);
ENGINE(f32, "oneDNN float32", DD_DTYPE_F32);
