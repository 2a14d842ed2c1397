/* The backward passes of linear.
 *
 * input: dx = dy W is the forward product of a weight that was laid out a second time, transposed (cpu_weight.c).
 *
 * weight: dw = dy^T x. A holds the columns of dy, B those of x, and the rows of both are the inner dimension, cut into
 * chunks of at most DD_GEMM_KEYS. A piece of up to BLOCKS row blocks and CHUNKS chunks of dy^T is laid out in shared
 * scratch; then tasks of a few column blocks lay out their part of x and go over the piece. So every value is laid out
 * about once, memory does not grow with the shapes, and a value of dw is read and written once per CHUNKS chunks.
 */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/cpu_grad.h"
#include "backend/cpu/rows.h"

enum {
    KEYS = DD_GEMM_KEYS,
    BLOCKS = 8,
    CHUNKS = 4,
    GROUP_COLS = 128,         /* columns of a task, a multiple of every engine's */
    GROUPS_PER_THREAD = 4,    /* fewer: tasks are divided by rows too */
    DEPTH_STEP = 32,          /* engines with plans pad chunks to a multiple of this */
    SUM_COLS = 64,            /* columns whose sums are kept at once */
    SUM_ROWS = 128,           /* rows summed in float32 before a sum goes on in float64 */
};

ddit_status dd_cpu_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err) {
    const dd_cpu_weight *w = (const dd_cpu_weight *)g->w;
    if (!w->transposed)
        return dd_fail(err, DDIT_ERR_INTERNAL, "input_grad: the weight [%lld, %lld] was not prepared for the input gradient",
                       (long long)w->info.out, (long long)w->info.in);
    dd_linear_args a = {.y = g->dx, .x = g->dy, .w = (const dd_weight *)w->transposed};
    dd_linear_end end = {.scale = g->scale, .add = !g->replace};
    return dd_cpu_linear_ending(dd_cpu_of(b), &a, &end, err);
}

/* ------------------------------------------------------------------------------------------------ the weight's gradient */

/* dw is [n, k]; turned: dw^T = x^T dy is, a and b change places and tiles are turned when they are added. */
typedef struct weight_job {
    dd_cpu *cpu;
    const dd_gemm_engine *e;
    const dd_gemm_plan *plan;
    const dd_tensor *a, *b;   /* dy and x */
    const dd_tensor *dw;
    float scale;
    bool turned;
    int64_t n, k, m;
    int64_t keys;             /* rows of a chunk */
    int64_t block_rows;       /* rows of dw in an A block */
    int64_t group_cols;       /* columns of dw in a task */
    size_t a_bytes, b_bytes;  /* of a block and chunk as laid out */
    /* the piece at work: rows of dw, and rows of dy and x */
    int64_t row, blocks, key, chunks;
    int64_t parts; /* tasks along the blocks */
} weight_job;

/* A thread's slice, and at its head this. */
typedef struct weight_slice {
    int64_t group; /* the columns of x that are laid out, or -1 */
    float *c;
    char *cols; /* B operands: [column block][chunk] */
} weight_slice;

static int64_t at_most(int64_t x, int64_t most) { return x < most ? x : most; }

static int64_t divide_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

/* Rows of a chunk: even shares where an engine pads them. */
static int64_t rows_per_chunk(const dd_gemm_engine *e, int64_t rows) {
    if (!e->whole_keys) return at_most(rows, KEYS);
    int64_t share = divide_up(rows, divide_up(rows, KEYS));
    return divide_up(share, DEPTH_STEP) * DEPTH_STEP;
}

static size_t chunk_a_bytes(const dd_gemm_engine *e, int64_t keys) { return dd_cpu_align(e->a_bytes(e->rows, keys)); }

static size_t chunk_b_bytes(const dd_gemm_engine *e, int64_t keys) { return dd_cpu_align(e->b_bytes(e->cols, keys)); }

/* Enough for this many rows and for fewer. */
static void scratch_of(const dd_gemm_engine *e, int64_t rows, size_t *per_thread, size_t *shared) {
    size_t chunks = (size_t)at_most(divide_up(rows, KEYS), CHUNKS), col_blocks = (size_t)(GROUP_COLS / e->cols);
    int64_t keys = e->whole_keys ? KEYS : at_most(rows, KEYS);
    *shared = BLOCKS * chunks * chunk_a_bytes(e, keys);
    *per_thread = dd_cpu_align(sizeof(weight_slice)) + dd_cpu_align(dd_cpu_tile_bytes(e)) +
                  col_blocks * chunks * chunk_b_bytes(e, keys);
}

ddit_status dd_cpu_weight_grad_prepare(dd_cpu *cpu, int64_t rows, size_t *per_thread, size_t *shared, ddit_err *err) {
    const dd_gemm_engine *engines[] = {cpu->engine, cpu->engine_f32};
    *per_thread = *shared = 0;
    for (int i = 0; i < 2; i++) {
        const dd_gemm_plan *plan;
        size_t slice, common;
        for (int64_t keys = DEPTH_STEP; keys < at_most(rows, KEYS) + DEPTH_STEP; keys += DEPTH_STEP)
            DD_TRY(dd_cpu_plan_get(cpu, engines[i], DD_GEMM_LINEAR, 0, 0, keys, &plan, err));
        scratch_of(engines[i], rows, &slice, &common);
        if (slice > *per_thread) *per_thread = slice;
        if (common > *shared) *shared = common;
    }
    return DDIT_OK;
}

static weight_slice *slice_memory(const dd_cpu *cpu, int thread) { return (weight_slice *)(void *)dd_cpu_slice(cpu, thread); }

static char *a_block(const weight_job *j, int64_t block, int64_t chunk) {
    return (char *)j->cpu->shared + (size_t)(block * j->chunks + chunk) * j->a_bytes;
}

static char *b_block(const weight_job *j, const weight_slice *s, int64_t block, int64_t chunk) {
    return s->cols + (size_t)(block * j->chunks + chunk) * j->b_bytes;
}

static int64_t chunk_keys(const weight_job *j, int64_t chunk) { return at_most(j->m - j->key - chunk * j->keys, j->keys); }

static int64_t depth_of(const weight_job *j, int64_t chunk) { return j->e->whole_keys ? j->keys : chunk_keys(j, chunk); }

static int rows_of_block(const weight_job *j, int64_t block) {
    return (int)at_most(j->n - j->row - block * j->block_rows, j->block_rows);
}

static void rows_task(void *user, int64_t t, int worker) {
    const weight_job *j = user;
    (void)worker;
    int64_t block = t / j->chunks, chunk = t % j->chunks;
    const void *from = dd_cpu_at(j->a, j->key + chunk * j->keys, j->row + block * j->block_rows);
    j->e->pack_a_columns(a_block(j, block, chunk), from, j->a->ld, rows_of_block(j, block), chunk_keys(j, chunk),
                         depth_of(j, chunk));
}

static void lay_out_columns(const weight_job *j, const weight_slice *s, int64_t first, int64_t last) {
    const dd_gemm_engine *e = j->e;
    for (int64_t col = first; col < last; col += e->cols) {
        for (int64_t chunk = 0; chunk < j->chunks; chunk++) {
            char *to = b_block(j, s, (col - first) / e->cols, chunk);
            int64_t keys = chunk_keys(j, chunk), depth = depth_of(j, chunk), n = at_most(last - col, e->cols);
            if (keys < depth) memset(to, 0, j->b_bytes);
            e->pack_b_rows(to, dd_cpu_at(j->b, j->key + chunk * j->keys, col), j->b->ld, n, depth, 0, keys);
        }
    }
}

/* dw[col + c, row + r] += scale * tile[r, c] */
static void add_turned(const weight_job *j, const float *tile, int64_t row, int m, int64_t col, int n) {
    for (int c = 0; c < n; c++) {
        float *to = (float *)j->dw->data + (col + c) * j->dw->ld + row;
        for (int r = 0; r < m; r++) to[r] += j->scale * tile[r * j->e->cols + c];
    }
}

/* One tile of dw. */
static void run_tile(const weight_job *j, const weight_slice *s, int thread, int64_t block, int64_t col, int n, int64_t index) {
    const dd_gemm_engine *e = j->e;
    int m = rows_of_block(j, block);
    int64_t row = j->row + block * j->block_rows;
    if (!j->turned) dd_cpu_fetch_tile(j->dw, row, m, col, n);
    for (int64_t chunk = 0; chunk < j->chunks; chunk++)
        e->product(j->plan, thread, s->c, a_block(j, block, chunk), m, b_block(j, s, index, chunk), n, depth_of(j, chunk),
                   chunk > 0, true);
    float *to = (float *)j->dw->data + row * j->dw->ld + col;
    if (j->turned) add_turned(j, s->c, row, m, col, n);
    else j->cpu->tiles->add_scaled(to, j->dw->ld, s->c, e->cols, m, n, j->scale);
}

static void columns_task(void *user, int64_t t, int worker) {
    const weight_job *j = user;
    const dd_gemm_engine *e = j->e;
    weight_slice *s = slice_memory(j->cpu, worker);
    int64_t group = t / j->parts, part = t % j->parts;
    int64_t first = group * j->group_cols, last = at_most(first + j->group_cols, j->k);
    if (group != s->group) lay_out_columns(j, s, first, last);
    s->group = group;
    for (int64_t block = j->blocks * part / j->parts; block < j->blocks * (part + 1) / j->parts; block++)
        for (int64_t col = first; col < last; col += e->cols)
            run_tile(j, s, worker, block, col, (int)at_most(last - col, e->cols), (col - first) / e->cols);
}

static void run_piece(weight_job *j) {
    int64_t threads = j->cpu->base.threads, groups = (j->k + j->group_cols - 1) / j->group_cols;
    dd_cpu_run(j->cpu, j->blocks * j->chunks, rows_task, j);
    j->parts = threads == 1 || groups >= threads * GROUPS_PER_THREAD ? 1 : j->blocks;
    for (int i = 0; i < threads; i++) slice_memory(j->cpu, i)->group = -1;
    dd_cpu_run(j->cpu, groups * j->parts, columns_task, j);
}

static void run(weight_job *j) {
    size_t head = dd_cpu_align(sizeof(weight_slice));
    for (int i = 0; i < j->cpu->base.threads; i++) {
        char *slice = dd_cpu_slice(j->cpu, i);
        *slice_memory(j->cpu, i) = (weight_slice){.c = (float *)(void *)(slice + head),
                                                  .cols = slice + head + dd_cpu_align(dd_cpu_tile_bytes(j->e))};
    }
    int64_t all = (j->n + j->block_rows - 1) / j->block_rows;
    for (int64_t block = 0; block < all; block += BLOCKS) {
        j->row = block * j->block_rows;
        j->blocks = at_most(all - block, BLOCKS);
        for (j->key = 0; j->key < j->m; j->key += CHUNKS * j->keys) {
            j->chunks = at_most(divide_up(j->m - j->key, j->keys), CHUNKS);
            run_piece(j);
        }
    }
}

/* Rows of dw are dealt to blocks evenly, as in linear. */
static int64_t rows_per_block(const dd_gemm_engine *e, int64_t n) {
    int64_t blocks = (n + e->rows - 1) / e->rows, rows = (n + blocks - 1) / blocks;
    return (rows + e->row_step - 1) / e->row_step * e->row_step;
}

static ddit_status products(dd_cpu *cpu, const dd_weight_grad_args *g, ddit_err *err) {
    const dd_gemm_engine *e = g->dy.dtype == DD_DTYPE_F32 ? cpu->engine_f32 : cpu->engine;
    int64_t rows = g->dy.shape[0];
    size_t per_thread, shared;
    weight_job j = {.cpu = cpu, .e = e, .a = &g->dy, .b = g->x, .dw = g->dw, .scale = g->scale, .m = rows,
                    .keys = rows_per_chunk(e, rows), .group_cols = GROUP_COLS};
    /* B blocks are padded to whole columns, A blocks hardly: the narrow side should be rows */
    if (e->whole_keys && j.b->shape[1] <= e->cols / 2 && j.b->shape[1] < j.a->shape[1]) {
        j.a = g->x, j.b = &g->dy;
        j.turned = true;
    }
    j.n = j.a->shape[1], j.k = j.b->shape[1];
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_LINEAR, 0, 0, j.keys, &j.plan, err));
    scratch_of(e, j.m, &per_thread, &shared);
    DD_TRY(dd_cpu_scratch(cpu, per_thread, shared, err));
    j.block_rows = rows_per_block(e, j.n);
    j.a_bytes = chunk_a_bytes(e, j.keys);
    j.b_bytes = chunk_b_bytes(e, j.keys);
    run(&j);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ the bias's gradient */

static float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* sums[0..n) += rows [begin, end) of dy from column col; n <= SUM_COLS */
static void add_rows(float *sums, const dd_tensor *dy, int64_t begin, int64_t end, int64_t col, int64_t n) {
    bool bf16 = dy->dtype == DD_DTYPE_BF16;
    for (int64_t m = begin; m < end; m++) {
        const void *row = dd_cpu_at(dy, m, col);
        const float *f = row;
        const uint16_t *h = row;
        if (bf16)
            for (int64_t i = 0; i < n; i++) sums[i] += widen(h[i]);
        else
            for (int64_t i = 0; i < n; i++) sums[i] += f[i];
    }
}

/* Columns [begin, end) of db. */
static void sum_columns(const void *job, int64_t begin, int64_t end) {
    const dd_weight_grad_args *g = job;
    float *db = (float *)g->db->data;
    int64_t rows = g->dy.shape[0];
    for (int64_t col = begin; col < end; col += SUM_COLS) {
        int64_t n = at_most(end - col, SUM_COLS);
        double total[SUM_COLS] = {0};
        for (int64_t m = 0; m < rows; m += SUM_ROWS) {
            float sums[SUM_COLS] = {0};
            add_rows(sums, &g->dy, m, at_most(m + SUM_ROWS, rows), col, n);
            for (int64_t i = 0; i < n; i++) total[i] += sums[i];
        }
        for (int64_t i = 0; i < n; i++) db[col + i] += g->scale * (float)total[i];
    }
}

ddit_status dd_cpu_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err) {
    int64_t rows = g->dy.shape[0], out = g->dy.shape[1];
    if (g->dw && g->x->shape[1] > 0) DD_TRY(products(dd_cpu_of(b), g, err));
    if (g->db) dd_cpu_for_rows(b, out, rows * out, sum_columns, g);
    return DDIT_OK;
}
