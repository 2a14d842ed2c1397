/* Attention over tiles with an online softmax (Dao et al. 2022, FlashAttention; Milakov and Gimelshein 2018), turned on its
 * side: scores are computed as S^T = K Q^T and outputs as O^T = V^T P^T. Queries then lie along the vectors, so that maxima,
 * sums and rescaling need no sums across lanes, and the probabilities are written straight into the layout of the second
 * product.
 *
 * First all heads' K and V are laid out in shared scratch, in blocks of KEYS keys; then tasks of (head, a few tiles of queries)
 * go through the blocks. Sizes depend on the problem alone.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/rows.h"

enum {
    KEYS = DD_GEMM_KEYS, /* of a block */
    TILES = 4,       /* most query tiles of a task: they share each block of K and V while it is in the L2 cache */
    TASK_TARGET = 8, /* tasks per thread wanted, else tasks have fewer tiles */
};

static const float log2_e = 1.44269504088896341f, lowest = -1e30f;

typedef struct attention_job {
    dd_cpu *cpu;
    const dd_gemm_engine *engine;
    const dd_attention_args *a;
    const dd_gemm_plan *scores_plan, *values_plan;
    int64_t queries, keys;
    int heads, width, cols;      /* cols: queries of a tile */
    int64_t blocks;              /* of keys */
    size_t k_bytes, v_bytes;     /* of a block as laid out */
    int64_t tiles, task_tiles;   /* of queries: in all, and of a task */
    bool adjust;                 /* scale, bias and mask are applied to the scores first */
    dd_tile_form form;
} attention_job;

/* A thread's slice. Per tile of queries: the laid out queries, O^T [width, cols], and top, sum, shrink [cols]. */
typedef struct attention_slice {
    char *q;
    size_t q_bytes;
    float *o, *stats;
    float *scores; /* [KEYS, cols] */
    char *p;       /* [KEYS, cols] */
} attention_slice;

/* ------------------------------------------------------------------------------------------------ sizes */

static size_t scores_bytes(const dd_gemm_engine *e) { return (size_t)KEYS * (size_t)e->query_cols * sizeof(float); }

/* Values of O^T of a tile, and behind it the memory in which an engine may add aside. */
static size_t o_values(const dd_gemm_engine *e, int64_t width) {
    return (size_t)width * (size_t)e->query_cols * (e->adds_aside ? 2 : 1);
}

static int64_t block_count(int64_t keys) { return (keys + KEYS - 1) / KEYS; }

static int block_keys(const attention_job *j, int64_t block) {
    int64_t left = j->keys - block * KEYS;
    return left < KEYS ? (int)left : KEYS;
}

static size_t slice_layout(const dd_gemm_engine *e, int64_t width, char *base, attention_slice *s) {
    size_t at = 0;
    s->q_bytes = dd_cpu_align(e->b_bytes(e->query_cols, width));
    s->q = base + at;
    at += TILES * s->q_bytes;
    s->o = (float *)(base + at);
    at += dd_cpu_align(TILES * o_values(e, width) * sizeof(float));
    s->stats = (float *)(base + at);
    at += TILES * 3 * (size_t)e->query_cols * sizeof(float);
    s->scores = (float *)(base + at);
    at += scores_bytes(e);
    s->p = base + at;
    return at + scores_bytes(e);
}

ddit_status dd_cpu_attention_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads, int64_t width, size_t *per_thread,
                                     size_t *shared, ddit_err *err) {
    (void)queries;
    const dd_gemm_engine *e = cpu->engine;
    const dd_gemm_plan *plan;
    attention_slice s;
    char none[1];
    if (width > INT32_MAX / KEYS) return dd_fail(err, DDIT_ERR_UNSUPPORTED, "attention heads of %lld values", (long long)width);
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, KEYS, e->query_cols, width, &plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_VALUES, (int)width, e->query_cols, KEYS, &plan, err));
    *per_thread = slice_layout(e, width, none, &s);
    size_t block = dd_cpu_align(e->a_bytes(KEYS, width)) + dd_cpu_align(e->a_bytes((int)width, KEYS));
    size_t blocks = (size_t)heads * (size_t)block_count(keys);
    if (__builtin_mul_overflow(block, blocks, shared))
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "attention over %lld keys needs more memory than there are addresses",
                       (long long)keys);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ keys and values */

static const char *head_rows(const dd_tensor *t, int64_t row, int head, int width) {
    return (const char *)t->data + (size_t)(row * t->ld + (int64_t)head * width) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

static char *k_block(const attention_job *j, int64_t index) {
    return (char *)j->cpu->shared + (size_t)index * (j->k_bytes + j->v_bytes);
}

static char *v_block(const attention_job *j, int64_t index) { return k_block(j, index) + j->k_bytes; }

static void lay_out_keys(const attention_job *j, int64_t index) {
    int head = (int)(index / j->blocks);
    int64_t block = index % j->blocks;
    int keys = block_keys(j, block);
    const dd_tensor *k = &j->a->k, *v = &j->a->v;
    j->engine->pack_a(k_block(j, index), head_rows(k, block * KEYS, head, j->width), k->ld, keys, j->width);
    j->engine->pack_a_transposed(v_block(j, index), head_rows(v, block * KEYS, head, j->width), v->ld, j->width, keys);
}

/* ------------------------------------------------------------------------------------------------ one tile of queries */

/* scores [keys, cols] from products to scale * product + bias, hidden keys far below everything. */
static void adjust_scores(const attention_job *j, float *scores, int head, int64_t query, int n, int64_t key, int keys) {
    const dd_attention_args *a = j->a;
    for (int i = 0; i < keys; i++)
        for (int q = 0; q < j->cols; q++) scores[i * j->cols + q] *= a->scale;
    for (int q = 0; q < n; q++) {
        if (a->bias) {
            const float *bias = (const float *)a->bias->data + ((int64_t)head * j->queries + query + q) * a->bias->ld + key;
            for (int i = 0; i < keys; i++) scores[i * j->cols + q] += bias[i];
        }
        if (!a->causal) continue;
        int64_t hidden = query + q + 1 - key;
        for (int64_t i = hidden > 0 ? hidden : 0; i < keys; i++) scores[i * j->cols + q] = lowest;
    }
}

static void attend_block(const attention_job *j, const attention_slice *s, int thread, int tile, int head, int64_t query, int n,
                         int64_t block) {
    const dd_gemm_engine *e = j->engine;
    const dd_tile_kernels *kernels = j->cpu->tiles;
    int keys = block_keys(j, block);
    int64_t index = head * j->blocks + block;
    float *top = s->stats + (int64_t)tile * 3 * j->cols, *o = s->o + (size_t)tile * o_values(e, j->width);
    int used = (n + 15) / 16 * 16 < j->cols ? (n + 15) / 16 * 16 : j->cols;
    e->product(j->scores_plan, thread, s->scores, k_block(j, index), keys, s->q + (size_t)tile * s->q_bytes, used, j->width,
               false, false);
    if (j->adjust) adjust_scores(j, s->scores, head, query, n, block * KEYS, keys);
    dd_tile_soften soften = {
        .scores = s->scores,
        .keys = keys,
        .cols = j->cols,
        .used = used,
        .factor = j->adjust ? log2_e : j->a->scale * log2_e,
        .top = top,
        .sum = top + j->cols,
        .shrink = top + 2 * j->cols,
        .p = s->p,
        .form = j->form,
    };
    bool changed = kernels->soften(&soften);
    if (block > 0 && changed) kernels->scale_columns(o, soften.shrink, j->width, j->cols, used);
    if (e->whole_keys && keys < KEYS) {
        size_t row_bytes = (size_t)j->cols * (j->form == DD_TILE_F32 ? 4 : 2);
        memset(s->p + (size_t)keys * row_bytes, 0, (size_t)(KEYS - keys) * row_bytes);
    }
    e->product(j->values_plan, thread, o, v_block(j, index), j->width, s->p, used, keys, block > 0, false);
}

static void finish_tile(const attention_job *j, const attention_slice *s, int tile, int head, int64_t query, int n) {
    const dd_attention_args *a = j->a;
    const float *top = s->stats + (int64_t)tile * 3 * j->cols, *sum = top + j->cols;
    bool bf16 = a->out.dtype == DD_DTYPE_BF16;
    j->cpu->tiles->attended((void *)head_rows(&a->out, query, head, j->width), bf16, a->out.ld,
                            s->o + (size_t)tile * o_values(j->engine, j->width), sum, j->cols, n, j->width);
    if (!a->lse) return;
    float *lse = (float *)a->lse->data + (int64_t)head * a->lse->ld + query;
    for (int q = 0; q < n; q++) lse[q] = (j->adjust ? 1.0f : a->scale) * top[q] + logf(sum[q]);
}

static void run_task(const attention_job *j, const attention_slice *s, int thread, int64_t task) {
    int64_t per_head = (j->tiles + j->task_tiles - 1) / j->task_tiles;
    int head = (int)(task / per_head);
    int64_t first = task % per_head * j->task_tiles;
    int count = (int)(j->tiles - first < j->task_tiles ? j->tiles - first : j->task_tiles);
    for (int t = 0; t < count; t++) {
        int64_t query = (first + t) * j->cols;
        int64_t n = j->queries - query < j->cols ? j->queries - query : j->cols;
        j->engine->pack_b(s->q + (size_t)t * s->q_bytes, head_rows(&j->a->q, query, head, j->width), j->a->q.ld, n, j->width);
        float *top = s->stats + (int64_t)t * 3 * j->cols;
        for (int q = 0; q < j->cols; q++) top[q] = lowest, top[j->cols + q] = 0;
    }
    for (int64_t block = 0; block < j->blocks; block++) {
        for (int t = 0; t < count; t++) {
            int64_t query = (first + t) * j->cols;
            int n = (int)(j->queries - query < j->cols ? j->queries - query : j->cols);
            if (j->a->causal && block * KEYS > query + n - 1) continue; /* every key of the block is hidden */
            attend_block(j, s, thread, t, head, query, n, block);
        }
    }
    for (int t = 0; t < count; t++) {
        int64_t query = (first + t) * j->cols;
        int n = (int)(j->queries - query < j->cols ? j->queries - query : j->cols);
        finish_tile(j, s, t, head, query, n);
    }
}

/* ------------------------------------------------------------------------------------------------ the op */

static void keys_task(void *user, int64_t index, int worker) {
    (void)worker;
    lay_out_keys(user, index);
}

static void queries_task(void *user, int64_t index, int worker) {
    const attention_job *j = user;
    attention_slice s;
    slice_layout(j->engine, j->width, dd_cpu_slice(j->cpu, worker), &s);
    run_task(j, &s, worker, index);
}

/* A whole head, when it is small: its K and V stay in the cache of the thread that laid them out. */
static void head_task(void *user, int64_t head, int worker) {
    const attention_job *j = user;
    for (int64_t block = 0; block < j->blocks; block++) lay_out_keys(j, head * j->blocks + block);
    queries_task(user, head, worker);
}

static void run(attention_job *j) {
    if (j->tiles <= TILES && j->heads >= j->cpu->base.threads) {
        j->task_tiles = j->tiles;
        dd_cpu_run(j->cpu, j->heads, head_task, j);
        return;
    }
    int64_t packs = j->heads * j->blocks, tasks = j->heads * ((j->tiles + j->task_tiles - 1) / j->task_tiles);
    dd_cpu_run(j->cpu, packs, keys_task, j);
    dd_cpu_run(j->cpu, tasks, queries_task, j);
}

ddit_status dd_cpu_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    const dd_gemm_engine *e = cpu->engine;
    attention_job j = {
        .cpu = cpu,
        .engine = e,
        .a = a,
        .queries = a->q.shape[0],
        .keys = a->k.shape[0],
        .heads = a->heads,
        .width = (int)(a->q.shape[1] / a->heads),
        .cols = e->query_cols,
        .adjust = a->bias || a->causal || !(a->scale > 0),
        .form = e->dtype == DD_DTYPE_F32 ? DD_TILE_F32 : e->pairs ? DD_TILE_BF16_PAIRS : DD_TILE_BF16,
    };
    if (j.queries == 0 || j.keys == 0) return DDIT_OK;
    size_t per_thread, shared;
    DD_TRY(dd_cpu_attention_prepare(cpu, j.queries, j.keys, j.heads, j.width, &per_thread, &shared, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_SCORES, KEYS, j.cols, j.width, &j.scores_plan, err));
    DD_TRY(dd_cpu_plan_get(cpu, e, DD_GEMM_VALUES, j.width, j.cols, KEYS, &j.values_plan, err));
    DD_TRY(dd_cpu_scratch(cpu, per_thread, shared, err));
    j.blocks = block_count(j.keys);
    j.k_bytes = dd_cpu_align(e->a_bytes(KEYS, j.width));
    j.v_bytes = dd_cpu_align(e->a_bytes(j.width, KEYS));
    j.tiles = (j.queries + j.cols - 1) / j.cols;
    int64_t wanted = j.heads * j.tiles / ((int64_t)b->threads * TASK_TARGET);
    j.task_tiles = wanted < 1 ? 1 : wanted > TILES ? TILES : wanted;
    run(&j);
    return DDIT_OK;
}
