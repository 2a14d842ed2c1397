/* linear: tasks of (row block, group of column blocks). A task lays its rows out once, then for every column block multiplies,
 * adds the overlays and finishes the tile while it is in the L1 cache.
 */
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/rows.h"

enum {
    MAX_LORA = 8,
    TASKS_PER_THREAD = 8,     /* so that the last tasks leave no thread idle for long */
    TASK_WORK = 1 << 20,      /* multiply-adds below which a task is not worth handing out (about 4 microseconds) */
};

typedef struct linear_job {
    dd_cpu *cpu;
    const dd_linear_args *a;
    const dd_cpu_weight *w;
    const dd_linear_end *end;         /* in place of the arguments' epilogue, or NULL */
    int64_t m, n, k;
    int64_t block_rows, row_blocks;   /* rows are cut by m alone, whatever the threads: oneDNN's sums may depend on it */
    int64_t group_cols, groups;       /* columns of a task, a multiple of the engine's */
} linear_job;

/* A thread's slice, and at its head this. */
typedef struct linear_slice {
    int64_t block;           /* the row block that is laid out, or -1 */
    char *rows;              /* the A block */
    float *c;
    void *low;               /* x down^T of one overlay, [rows, rank] */
    char *low_rows[MAX_LORA]; /* the same as A blocks; NULL: the overlay misses these rows */
} linear_slice;

size_t dd_cpu_linear_scratch(const dd_gemm_engine *e, int64_t k, int64_t ranks) {
    size_t bytes = dd_cpu_align(sizeof(linear_slice)) + dd_cpu_align(e->a_bytes(e->rows, k));
    bytes += dd_cpu_align(dd_cpu_tile_bytes(e));
    if (ranks > 0) {
        bytes += dd_cpu_align((size_t)e->rows * (size_t)ranks * sizeof(float));
        /* every overlay rounds up by itself */
        bytes += dd_cpu_align(e->a_bytes(e->rows, ranks)) + MAX_LORA * dd_cpu_align(e->a_bytes(e->rows, 2));
    }
    return bytes;
}

static int64_t lora_rank(const dd_lora *l) { return ((const dd_cpu_weight *)l->up)->info.in; }

static int64_t lora_ranks(const dd_linear_args *a) {
    int64_t ranks = 0;
    for (int i = 0; i < a->lora_count; i++) ranks += lora_rank(&a->lora[i]);
    return ranks;
}

static linear_slice *slice_memory(const dd_cpu *cpu, int thread) { return (linear_slice *)(void *)dd_cpu_slice(cpu, thread); }

static linear_slice slice_of(const linear_job *j, int thread) {
    const dd_gemm_engine *e = j->w->engine;
    char *at = dd_cpu_slice(j->cpu, thread);
    at += dd_cpu_align(sizeof(linear_slice));
    linear_slice s = {.block = -1, .rows = at};
    at += dd_cpu_align(e->a_bytes(e->rows, j->k));
    s.c = (float *)at;
    at += dd_cpu_align(dd_cpu_tile_bytes(e));
    s.low = at;
    at += dd_cpu_align((size_t)e->rows * (size_t)lora_ranks(j->a) * sizeof(float));
    for (int i = 0; i < j->a->lora_count; i++) {
        s.low_rows[i] = at;
        at += dd_cpu_align(e->a_bytes(e->rows, lora_rank(&j->a->lora[i])));
    }
    return s;
}

/* Plans belong to the backend that made the weights; a lane is one of its threads. */
static int plan_thread(const linear_job *j, int thread) { return j->cpu->weight_thread + thread; }

/* Rows [row, row + m) of x down^T * scale, zero outside the overlay's range, as an A block. */
static void lay_out_overlay(const linear_job *j, linear_slice *s, int i, int thread, int64_t row, int m) {
    const dd_lora *l = &j->a->lora[i];
    const dd_cpu_weight *down = (const dd_cpu_weight *)l->down;
    const dd_gemm_engine *e = j->w->engine;
    int64_t rank = lora_rank(l);
    int64_t begin = l->row_begin > row ? l->row_begin - row : 0, end = l->row_end < row + m ? l->row_end - row : m;
    bool bf16 = e->dtype == DD_DTYPE_BF16;
    size_t row_bytes = (size_t)rank * (bf16 ? 2 : 4);
    if (begin > 0) memset(s->low, 0, (size_t)begin * row_bytes);
    if (end < m) memset((char *)s->low + (size_t)end * row_bytes, 0, (size_t)(m - end) * row_bytes);
    for (int64_t col = 0; col < rank; col += e->cols) {
        int n = (int)(rank - col < e->cols ? rank - col : e->cols);
        e->product(down->plan, plan_thread(j, thread), s->c, s->rows, m, dd_gemm_b_block(e, down->packed, col, j->k), n, j->k,
                   false, true);
        char *to = (char *)s->low + (size_t)begin * row_bytes + (size_t)col * (bf16 ? 2 : 4);
        j->cpu->tiles->scaled(to, bf16, rank, s->c + begin * e->cols, e->cols, end - begin, n, l->scale);
    }
    e->pack_a(s->low_rows[i], s->low, rank, m, rank);
}

static void lay_out_rows(const linear_job *j, linear_slice *s, int thread, int64_t row, int m) {
    const dd_gemm_engine *e = j->w->engine;
    const dd_tensor *x = &j->a->x;
    e->pack_a(s->rows, dd_cpu_at(x, row, 0), x->ld, m, j->k);
    linear_slice whole = slice_of(j, thread);
    for (int i = 0; i < j->a->lora_count; i++) {
        const dd_lora *l = &j->a->lora[i];
        s->low_rows[i] = l->row_begin < row + m && l->row_end > row ? whole.low_rows[i] : NULL;
        if (s->low_rows[i]) lay_out_overlay(j, s, i, thread, row, m);
    }
}

static void finish(const linear_job *j, const float *c, int64_t row, int m, int64_t col, int n) {
    const dd_linear_args *a = j->a;
    dd_tile_finish f = {
        .y = (void *)dd_cpu_at(&a->y, row, col),
        .y_bf16 = a->y.dtype == DD_DTYPE_BF16,
        .y_ld = a->y.ld,
        .bias = j->w->bias ? j->w->bias + col : NULL,
        .activation = a->activation,
        .gate = a->gate ? (const float *)a->gate->data + col : NULL,
    };
    if (a->mul) {
        f.mul = dd_cpu_at(a->mul, row, col);
        f.mul_bf16 = a->mul->dtype == DD_DTYPE_BF16;
        f.mul_ld = a->mul->ld;
    }
    if (a->add) {
        f.add = dd_cpu_at(a->add, row, col);
        f.add_ld = a->add->ld;
    }
    j->cpu->tiles->finish(&f, c, j->w->engine->cols, m, n);
}

static void finish_gradient(const linear_job *j, const float *c, int64_t row, int m, int64_t col, int n) {
    const dd_tile_kernels *tiles = j->cpu->tiles;
    const dd_tensor *y = &j->a->y;
    void *to = (void *)dd_cpu_at(y, row, col);
    int64_t ldc = j->w->engine->cols;
    if (j->end->add) tiles->add_scaled(to, y->ld, c, ldc, m, n, j->end->scale);
    else tiles->scaled(to, y->dtype == DD_DTYPE_BF16, y->ld, c, ldc, m, n, j->end->scale);
}

static void run_task(const linear_job *j, linear_slice *s, int thread, int64_t row, int m, int64_t group) {
    const dd_gemm_engine *e = j->w->engine;
    int of_plan = plan_thread(j, thread);
    int64_t first = group * j->group_cols, last = first + j->group_cols < j->n ? first + j->group_cols : j->n;
    for (int64_t col = first; col < last; col += e->cols) {
        int n = (int)(last - col < e->cols ? last - col : e->cols);
        dd_cpu_fetch_tile(&j->a->y, row, m, col, n);
        if (j->a->mul) dd_cpu_fetch_tile(j->a->mul, row, m, col, n);
        if (j->a->add && j->a->add->data != j->a->y.data) dd_cpu_fetch_tile(j->a->add, row, m, col, n);
        e->product(j->w->plan, of_plan, s->c, s->rows, m, dd_gemm_b_block(e, j->w->packed, col, j->k), n, j->k, false, true);
        for (int i = 0; i < j->a->lora_count; i++) {
            if (!s->low_rows[i]) continue;
            const dd_cpu_weight *up = (const dd_cpu_weight *)j->a->lora[i].up;
            int64_t rank = up->info.in;
            e->product(up->plan, of_plan, s->c, s->low_rows[i], m, dd_gemm_b_block(e, up->packed, col, rank), n, rank, true,
                       false);
        }
        if (j->end) finish_gradient(j, s->c, row, m, col, n);
        else finish(j, s->c, row, m, col, n);
    }
}

/* Cuts rows and columns into tasks. */
static void divide(linear_job *j) {
    const dd_gemm_engine *e = j->w->engine;
    int64_t blocks = (j->m + e->rows - 1) / e->rows;
    int64_t rows = (j->m + blocks - 1) / blocks;
    j->block_rows = (rows + e->row_step - 1) / e->row_step * e->row_step;
    j->row_blocks = (j->m + j->block_rows - 1) / j->block_rows;
    int64_t col_blocks = (j->n + e->cols - 1) / e->cols, threads = j->cpu->base.threads;
    int64_t wanted = threads == 1 ? 1 : (threads * TASKS_PER_THREAD + j->row_blocks - 1) / j->row_blocks;
    int64_t worth = j->m * j->n * j->k / TASK_WORK / j->row_blocks;
    if (wanted > worth) wanted = worth;
    if (wanted < 1) wanted = 1;
    if (wanted > col_blocks) wanted = col_blocks;
    j->group_cols = (col_blocks + wanted - 1) / wanted * e->cols;
    j->groups = (j->n + j->group_cols - 1) / j->group_cols;
}

/* A worker keeps its row block laid out from one task to the next. */
static void task(void *user, int64_t t, int worker) {
    const linear_job *j = user;
    linear_slice *s = slice_memory(j->cpu, worker);
    int64_t block = t / j->groups, row = block * j->block_rows;
    int m = (int)(j->m - row < j->block_rows ? j->m - row : j->block_rows);
    if (block != s->block) lay_out_rows(j, s, worker, row, m);
    s->block = block;
    run_task(j, s, worker, row, m, t % j->groups);
}

static void run(linear_job *j) {
    for (int i = 0; i < j->cpu->base.threads; i++) *slice_memory(j->cpu, i) = slice_of(j, i);
    dd_cpu_run(j->cpu, j->row_blocks * j->groups, task, j);
}

ddit_status dd_cpu_linear_ending(dd_cpu *cpu, const dd_linear_args *a, const dd_linear_end *end, ddit_err *err) {
    const dd_cpu_weight *w = (const dd_cpu_weight *)a->w;
    linear_job j = {.cpu = cpu, .a = a, .w = w, .end = end, .m = a->x.shape[0], .n = w->info.out, .k = w->info.in};
    if (j.m == 0) return DDIT_OK;
    DD_TRY(dd_cpu_scratch(cpu, dd_cpu_linear_scratch(w->engine, j.k, lora_ranks(a)), 0, err));
    divide(&j);
    run(&j);
    return DDIT_OK;
}

ddit_status dd_cpu_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    const dd_cpu_weight *w = (const dd_cpu_weight *)a->w;
    if (a->lora_count > MAX_LORA)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "a linear layer has %d LoRA overlays; at most %d are supported",
                       a->lora_count, MAX_LORA);
    for (int i = 0; i < a->lora_count; i++) {
        if (((const dd_cpu_weight *)a->lora[i].down)->engine != w->engine ||
            ((const dd_cpu_weight *)a->lora[i].up)->engine != w->engine)
            return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                           "a LoRA overlay has another precision than the weight that it belongs to");
    }
    return dd_cpu_linear_ending(cpu, a, NULL, err);
}
