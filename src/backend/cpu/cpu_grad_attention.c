/* The backward pass of attention. Scores are recomputed tile by tile, turned on their side as in cpu_attention.c, from the
 * log-sum-exp that the forward pass kept (Dao 2023, FlashAttention-2, 3.1.2). With queries along the vectors,
 *
 *   S^T = K Q^T,  dP^T = V dout^T,  P = exp(scale S - lse),  dS = P (dP - delta),  delta = rowsum(dout * out)
 *   dQ^T += K^T dS^T      the sum runs over keys: dS^T is the second operand as it lies
 *   dV^T += dout^T P,  dK^T += Q^T dS    sums over queries: P and dS are laid out once more
 *
 * five products in all. A task is a head, or a group of a head's blocks of KEYS keys where there are many; it goes through the
 * queries in blocks of KEYS too. Groups leave partial sums of dQ, which are added in their order. All sizes depend on the
 * problem alone, so the bytes do not depend on the number of threads.
 */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/cpu_grad.h"
#include "backend/cpu/rows.h"

enum {
    KEYS = DD_GEMM_KEYS, /* of a block; queries of a block likewise */
    GROUP_BLOCKS = 4,    /* fewer blocks of keys than this stay one group */
    TASKS = 32,          /* groups are as many as it takes to have this many tasks */
};

static const float log2_e = 1.44269504088896341f, lowest = -1e30f;

typedef struct grad_job {
    dd_cpu *cpu;
    const dd_gemm_engine *engine;
    const dd_attention_grad_args *g;
    const dd_gemm_plan *scores_plan, *dq_plan, *dkv_plan;
    int64_t queries, keys;
    int heads, width, cols;             /* cols: columns of a tile */
    int64_t key_blocks, query_blocks;
    int64_t groups;                     /* of key blocks */
    int64_t tiles, block_tiles;         /* of queries: in all, and of a whole block */
    size_t tile_values;                 /* of a tile of dQ, dK or dV */
    dd_tile_form form;
} grad_job;

/* A thread's slice. */
typedef struct grad_slice {
    char *k, *v, *kt;              /* a block of keys: A [keys, width] twice, A [width, keys] */
    char *q, *dout, *qt, *doutt;   /* a block of queries: B of depth width twice, A [width, queries] twice */
    float *lse, *delta;            /* [KEYS + cols] of the block of queries */
    float *scores, *dp;            /* [KEYS, cols] */
    char *ds_operand;              /* [KEYS, cols] */
    char *p_rows, *ds_rows;        /* [KEYS, KEYS] */
    char *p, *ds;                  /* B of depth KEYS */
    float *dk, *dv;                /* tiles of the block of keys */
    float *one, *by_scale;         /* [cols] what tiles are divided by */
} grad_slice;

/* ------------------------------------------------------------------------------------------------ sizes */

static int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

/* Values of a tile [width, cols], and behind it the memory in which an engine may add aside. */
static size_t tile_values(const dd_gemm_engine *e, int64_t width) {
    return (size_t)width * (size_t)e->query_cols * (e->adds_aside ? 2 : 1);
}

static int64_t group_count(int64_t key_blocks, int heads) {
    if (key_blocks < GROUP_BLOCKS) return 1;
    int64_t wanted = ceil_div(TASKS, heads);
    return wanted < key_blocks ? wanted : key_blocks;
}

static void *take(char *base, size_t *at, size_t bytes) {
    void *memory = base + *at;
    *at += dd_cpu_align(bytes);
    return memory;
}

static size_t slice_layout(const dd_gemm_engine *e, int64_t width, char *base, grad_slice *s) {
    size_t at = 0, cols = (size_t)e->query_cols, value = e->dtype == DD_DTYPE_BF16 ? 2 : 4;
    size_t tiles = (size_t)ceil_div(KEYS, e->query_cols);
    s->k = take(base, &at, e->a_bytes(KEYS, width));
    s->v = take(base, &at, e->a_bytes(KEYS, width));
    s->kt = take(base, &at, e->a_bytes((int)width, KEYS));
    s->q = take(base, &at, e->b_bytes(KEYS, width));
    s->dout = take(base, &at, e->b_bytes(KEYS, width));
    s->qt = take(base, &at, e->a_bytes((int)width, KEYS));
    s->doutt = take(base, &at, e->a_bytes((int)width, KEYS));
    s->lse = take(base, &at, (KEYS + cols) * sizeof(float));
    s->delta = take(base, &at, (KEYS + cols) * sizeof(float));
    s->scores = take(base, &at, KEYS * cols * sizeof(float));
    s->dp = take(base, &at, KEYS * cols * sizeof(float));
    s->ds_operand = take(base, &at, KEYS * cols * value);
    s->p_rows = take(base, &at, (size_t)KEYS * KEYS * value);
    s->ds_rows = take(base, &at, (size_t)KEYS * KEYS * value);
    s->p = take(base, &at, e->b_bytes(KEYS, KEYS));
    s->ds = take(base, &at, e->b_bytes(KEYS, KEYS));
    s->dk = take(base, &at, tiles * tile_values(e, width) * sizeof(float));
    s->dv = take(base, &at, tiles * tile_values(e, width) * sizeof(float));
    s->one = take(base, &at, cols * sizeof(float));
    s->by_scale = take(base, &at, cols * sizeof(float));
    return at;
}

ddit_status dd_cpu_attention_grad_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads, int64_t width,
                                          size_t *per_thread, size_t *shared, ddit_err *err) {
    const dd_gemm_engine *e = cpu->engine;
    const dd_gemm_plan *plan;
    grad_slice s;
    char none[1];
    if (width > INT32_MAX / KEYS) return dd_fail(err, DDIT_ERR_UNSUPPORTED, "attention heads of %lld values", (long long)width);
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, KEYS, e->query_cols, width, &plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_VALUES, (int)width, e->query_cols, KEYS, &plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, (int)width, e->query_cols, KEYS, &plan, err));
    *per_thread = slice_layout(e, width, none, &s);
    /* One group: sums of dQ belong to the thread; more: to the task. */
    int64_t sums = heads * group_count(ceil_div(keys, KEYS), heads);
    if (sums < cpu->base.threads) sums = cpu->base.threads;
    size_t tile_bytes = tile_values(e, width) * sizeof(float);
    size_t tiles = (size_t)(ceil_div(queries, KEYS) * ceil_div(KEYS, e->query_cols));
    if (__builtin_mul_overflow(tile_bytes, tiles, shared) || __builtin_mul_overflow(*shared, (size_t)sums, shared))
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "the gradient of attention over %lld queries needs more memory than there are "
                       "addresses", (long long)queries);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ layouts */

static char *head_rows(const dd_tensor *t, int64_t row, int head, int width) {
    return (char *)t->data + (size_t)(row * t->ld + (int64_t)head * width) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

static int block_size(int64_t all, int64_t block) {
    int64_t left = all - block * KEYS;
    return left < KEYS ? (int)left : KEYS;
}

static int tile_size(const grad_job *j, int size, int col) { return size - col < j->cols ? size - col : j->cols; }

/* Columns of a tile that are computed: whole vectors. */
static int tile_used(const grad_job *j, int n) {
    int used = (n + 15) / 16 * 16;
    return used < j->cols ? used : j->cols;
}

static void lay_out_keys(const grad_job *j, const grad_slice *s, int head, int64_t block) {
    const dd_gemm_engine *e = j->engine;
    int keys = block_size(j->keys, block);
    const dd_tensor *k = &j->g->k, *v = &j->g->v;
    const char *k_rows = head_rows(k, block * KEYS, head, j->width);
    e->pack_a(s->k, k_rows, k->ld, keys, j->width);
    e->pack_a(s->v, head_rows(v, block * KEYS, head, j->width), v->ld, keys, j->width);
    e->pack_a_transposed(s->kt, k_rows, k->ld, j->width, keys);
}

static void lay_out_queries(const grad_job *j, const grad_slice *s, int head, int64_t block) {
    const dd_gemm_engine *e = j->engine;
    int queries = block_size(j->queries, block);
    const dd_tensor *q = &j->g->q, *dout = &j->g->dout, *out = &j->g->out;
    const char *q_rows = head_rows(q, block * KEYS, head, j->width), *dout_rows = head_rows(dout, block * KEYS, head, j->width);
    e->pack_b(s->q, q_rows, q->ld, queries, j->width);
    e->pack_b(s->dout, dout_rows, dout->ld, queries, j->width);
    e->pack_a_transposed(s->qt, q_rows, q->ld, j->width, queries);
    e->pack_a_transposed(s->doutt, dout_rows, dout->ld, j->width, queries);
    j->cpu->tiles->dots(s->delta, dout_rows, dout->ld, head_rows(out, block * KEYS, head, j->width), out->ld,
                        e->dtype == DD_DTYPE_BF16, queries, j->width);
    const float *lse = (const float *)j->g->lse.data + head * j->g->lse.ld + block * KEYS;
    for (int i = 0; i < queries; i++) s->lse[i] = lse[i] * log2_e;
    for (int i = queries; i < KEYS + j->cols; i++) s->lse[i] = s->delta[i] = 0;
}

/* ------------------------------------------------------------------------------------------------ a pair of blocks */

/* scores [keys, cols] times scale, and hidden keys far below everything. */
static void hide_scores(const grad_job *j, float *scores, int64_t query, int n, int64_t key, int keys) {
    for (int i = 0; i < keys; i++)
        for (int q = 0; q < j->cols; q++) scores[i * j->cols + q] *= j->g->scale;
    for (int q = 0; q < n; q++) {
        int64_t hidden = query + q + 1 - key;
        for (int64_t i = hidden > 0 ? hidden : 0; i < keys; i++) scores[i * j->cols + q] = lowest;
    }
}

/* Rows of P and dS are so many values apart. Engines that multiply whole blocks only read all KEYS. */
static int64_t rows_ld(const grad_job *j, int queries) {
    return j->engine->whole_keys ? KEYS : ceil_div(queries, j->cols) * j->cols;
}

/* Where a task is. */
typedef struct grad_place {
    int head, thread;
    int64_t key_block, query_block;
    bool first;  /* of the task's blocks of keys */
    float *dq;   /* tiles of all queries */
} grad_place;

/* P and dS of one tile of queries, and its share of dQ. */
static void tile_grad(const grad_job *j, const grad_slice *s, const grad_place *at, int col) {
    const dd_gemm_engine *e = j->engine;
    int queries = block_size(j->queries, at->query_block), keys = block_size(j->keys, at->key_block);
    int n = tile_size(j, queries, col), used = tile_used(j, n);
    int64_t query = at->query_block * KEYS + col;
    size_t value = j->form == DD_TILE_F32 ? 4 : 2, row_bytes = (size_t)j->cols * value;
    e->product(j->scores_plan, at->thread, s->scores, s->k, keys, dd_gemm_b_block(e, s->q, col, j->width), used, j->width,
               false, false);
    e->product(j->scores_plan, at->thread, s->dp, s->v, keys, dd_gemm_b_block(e, s->dout, col, j->width), used, j->width,
               false, false);
    if (j->g->causal) hide_scores(j, s->scores, query, n, at->key_block * KEYS, keys);
    dd_tile_score_grad grad = {
        .scores = s->scores,
        .dp = s->dp,
        .keys = keys,
        .cols = j->cols,
        .used = used,
        .factor = j->g->causal ? log2_e : j->g->scale * log2_e,
        .lse = s->lse + col,
        .delta = s->delta + col,
        .p = s->p_rows + (size_t)col * value,
        .ds = s->ds_rows + (size_t)col * value,
        .ld = rows_ld(j, queries),
        .ds_operand = s->ds_operand,
        .form = j->form,
    };
    j->cpu->tiles->score_grad(&grad);
    if (e->whole_keys && keys < KEYS) memset(s->ds_operand + (size_t)keys * row_bytes, 0, (size_t)(KEYS - keys) * row_bytes);
    float *dq = at->dq + (size_t)(at->query_block * j->block_tiles + col / j->cols) * j->tile_values;
    e->product(j->dq_plan, at->thread, dq, s->kt, j->width, s->ds_operand, used, keys, j->g->causal || !at->first,
               false);
}

/* A block of queries against a block of keys. */
static void block_grad(const grad_job *j, const grad_slice *s, const grad_place *at) {
    const dd_gemm_engine *e = j->engine;
    int queries = block_size(j->queries, at->query_block), keys = block_size(j->keys, at->key_block);
    int64_t ld = rows_ld(j, queries);
    int depth = e->whole_keys ? KEYS : queries;
    if (depth > queries) {
        size_t bytes = (size_t)keys * KEYS * (j->form == DD_TILE_F32 ? 4 : 2);
        memset(s->p_rows, 0, bytes);
        memset(s->ds_rows, 0, bytes);
    }
    for (int col = 0; col < queries; col += j->cols) tile_grad(j, s, at, col);
    e->pack_b(s->p, s->p_rows, ld, keys, depth);
    e->pack_b(s->ds, s->ds_rows, ld, keys, depth);
    bool add = j->g->causal || at->query_block > 0;
    for (int col = 0; col < keys; col += j->cols) {
        int used = tile_used(j, tile_size(j, keys, col));
        size_t tile = (size_t)(col / j->cols) * j->tile_values;
        e->product(j->dkv_plan, at->thread, s->dv + tile, s->doutt, j->width, dd_gemm_b_block(e, s->p, col, depth), used, depth,
                   add, false);
        e->product(j->dkv_plan, at->thread, s->dk + tile, s->qt, j->width, dd_gemm_b_block(e, s->ds, col, depth), used, depth,
                   add, false);
    }
}

/* ------------------------------------------------------------------------------------------------ tasks */

/* Rows of `to` from tiles, divided by `by`. */
static void finish_tile(const grad_job *j, const dd_tensor *to, int head, int64_t row, int n, const float *tile,
                        const float *by) {
    j->cpu->tiles->attended(head_rows(to, row, head, j->width), to->dtype == DD_DTYPE_BF16, to->ld, tile, by, j->cols, n,
                            j->width);
}

static void keys_grad(const grad_job *j, const grad_slice *s, grad_place *at) {
    int keys = block_size(j->keys, at->key_block);
    int64_t key = at->key_block * KEYS;
    lay_out_keys(j, s, at->head, at->key_block);
    if (j->g->causal) { /* there may be no query that sees these keys */
        size_t bytes = (size_t)ceil_div(keys, j->cols) * j->tile_values * sizeof(float);
        memset(s->dk, 0, bytes);
        memset(s->dv, 0, bytes);
    }
    for (int64_t block = 0; block < j->query_blocks; block++) {
        if (j->g->causal && key > block * KEYS + block_size(j->queries, block) - 1) continue; /* all keys are hidden */
        at->query_block = block;
        if (j->query_blocks > 1 || at->first) lay_out_queries(j, s, at->head, block);
        block_grad(j, s, at);
    }
    for (int col = 0; col < keys; col += j->cols) {
        int n = tile_size(j, keys, col);
        size_t tile = (size_t)(col / j->cols) * j->tile_values;
        finish_tile(j, &j->g->dk, at->head, key + col, n, s->dk + tile, s->by_scale);
        finish_tile(j, &j->g->dv, at->head, key + col, n, s->dv + tile, s->one);
    }
}

static float *dq_sums(const grad_job *j, int64_t index) {
    return (float *)j->cpu->shared + (size_t)index * (size_t)j->tiles * j->tile_values;
}

/* The groups' sums of one tile of queries, added in order. */
static void finish_queries(const grad_job *j, const grad_slice *s, float *first, int groups, int head, int64_t tile) {
    float *sum = first + (size_t)tile * j->tile_values;
    for (int g = 1; g < groups; g++) {
        const float *more = sum + (size_t)g * (size_t)j->tiles * j->tile_values;
        for (int i = 0; i < j->width * j->cols; i++) sum[i] += more[i];
    }
    int64_t block = tile / j->block_tiles;
    int col = (int)(tile % j->block_tiles) * j->cols;
    finish_tile(j, &j->g->dq, head, block * KEYS + col, tile_size(j, block_size(j->queries, block), col), sum, s->by_scale);
}

static void slice_open(const grad_job *j, grad_slice *s, int thread) {
    slice_layout(j->engine, j->width, dd_cpu_slice(j->cpu, thread), s);
    for (int i = 0; i < j->cols; i++) s->one[i] = 1, s->by_scale[i] = 1 / j->g->scale;
}

/* A head, or one group of its keys. */
static void keys_task(void *user, int64_t index, int worker) {
    const grad_job *j = user;
    grad_slice s;
    slice_open(j, &s, worker);
    int64_t group = index % j->groups;
    grad_place at = {.head = (int)(index / j->groups), .thread = worker};
    at.dq = dq_sums(j, j->groups > 1 ? index : worker);
    if (j->g->causal) memset(at.dq, 0, (size_t)j->tiles * j->tile_values * sizeof(float));
    int64_t first = j->key_blocks * group / j->groups, end = j->key_blocks * (group + 1) / j->groups;
    for (at.key_block = first; at.key_block < end; at.key_block++) {
        at.first = at.key_block == first;
        keys_grad(j, &s, &at);
    }
    if (j->groups > 1) return;
    for (int64_t tile = 0; tile < j->tiles; tile++) finish_queries(j, &s, at.dq, 1, at.head, tile);
}

static void sums_task(void *user, int64_t index, int worker) {
    const grad_job *j = user;
    grad_slice s;
    slice_open(j, &s, worker);
    int64_t head = index / j->tiles;
    finish_queries(j, &s, dq_sums(j, head * j->groups), (int)j->groups, (int)head, index % j->tiles);
}

/* ------------------------------------------------------------------------------------------------ the op */

static void write_zeros(const dd_tensor *t) {
    size_t value = t->dtype == DD_DTYPE_BF16 ? 2 : 4;
    for (int64_t i = 0; i < t->shape[0]; i++)
        memset((char *)t->data + (size_t)(i * t->ld) * value, 0, (size_t)t->shape[1] * value);
}

ddit_status dd_cpu_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    const dd_gemm_engine *e = cpu->engine;
    grad_job j = {
        .cpu = cpu,
        .engine = e,
        .g = g,
        .queries = g->q.shape[0],
        .keys = g->k.shape[0],
        .heads = g->heads,
        .width = (int)(g->q.shape[1] / g->heads),
        .cols = e->query_cols,
        .form = e->dtype == DD_DTYPE_F32 ? DD_TILE_F32 : e->pairs ? DD_TILE_BF16_PAIRS : DD_TILE_BF16,
    };
    if (j.queries == 0 || j.keys == 0) {
        write_zeros(&g->dq), write_zeros(&g->dk), write_zeros(&g->dv);
        return DDIT_OK;
    }
    size_t per_thread, shared;
    DD_TRY(dd_cpu_attention_grad_prepare(cpu, j.queries, j.keys, j.heads, j.width, &per_thread, &shared, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, KEYS, j.cols, j.width, &j.scores_plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_VALUES, j.width, j.cols, KEYS, &j.dq_plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, j.width, j.cols, KEYS, &j.dkv_plan, err));
    DD_TRY(dd_cpu_scratch(cpu, per_thread, shared, err));
    j.key_blocks = ceil_div(j.keys, KEYS);
    j.query_blocks = ceil_div(j.queries, KEYS);
    j.groups = group_count(j.key_blocks, j.heads);
    j.block_tiles = ceil_div(KEYS, j.cols);
    j.tiles = (j.query_blocks - 1) * j.block_tiles + ceil_div(block_size(j.queries, j.query_blocks - 1), j.cols);
    j.tile_values = tile_values(e, j.width);
    dd_cpu_run(cpu, j.heads * j.groups, keys_task, &j);
    if (j.groups > 1) dd_cpu_run(cpu, j.heads * j.tiles, sums_task, &j);
    return DDIT_OK;
}
