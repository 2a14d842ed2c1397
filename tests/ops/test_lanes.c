/* Lanes and new values of weights, on every backend that has them. */
#include "ops/op_suite.h"

#include <pthread.h>

#include "op/op_grad.h"

enum { ROWS = 37, OUT = 48, IN = 70, HEADS = 2, WIDTH = 24, REPEATS = 20 };

/* Everything that one run of the work reads and writes, of the dtypes of one backend. */
typedef struct job {
    dd_backend *b; /* the main backend or a lane */
    const dd_weight *w;
    void *x, *y, *dy, *dx, *lse, *dw, *dq, *dk, *dv, *dout; /* memory of the backend */
    ddit_status status;
    ddit_err err;
} job;

static size_t act_size(const dd_backend *b) { return b->activation == DD_DTYPE_BF16 ? 2 : 4; }

static dd_tensor act(const job *j, void *memory, int64_t cols) { return dd_tensor_2d(memory, j->b->activation, ROWS, cols); }

/* y = attention of linear(x) with itself, and back: what a block does. */
static ddit_status work(job *j) {
    dd_tensor x = act(j, j->x, IN), y = act(j, j->y, OUT), dy = act(j, j->dy, OUT), out = act(j, j->dout, OUT);
    dd_tensor lse = dd_tensor_2d(j->lse, DD_DTYPE_F32, HEADS, ROWS), dw = dd_tensor_2d(j->dw, DD_DTYPE_F32, OUT, IN);
    dd_tensor dq = act(j, j->dq, OUT), dk = act(j, j->dk, OUT), dv = act(j, j->dv, OUT);
    DD_TRY(dd_op_linear(j->b, &(dd_linear_args){.y = y, .x = x, .w = j->w}, &j->err));
    DD_TRY(dd_op_attention(j->b, &(dd_attention_args){.out = out, .q = y, .k = y, .v = y, .heads = HEADS, .scale = 0.2f,
                                                      .lse = &lse}, &j->err));
    DD_TRY(dd_op_attention_grad(j->b, &(dd_attention_grad_args){.dq = dq, .dk = dk, .dv = dv, .dout = dy, .out = out, .q = y,
                                                                .k = y, .v = y, .lse = lse, .heads = HEADS, .scale = 0.2f},
                                &j->err));
    dd_input_grad_args i = {.dx = act(j, j->dx, IN), .dy = dq, .w = j->w, .scale = 1, .replace = true};
    DD_TRY(dd_op_input_grad(j->b, &i, &j->err));
    return dd_op_weight_grad(j->b, &(dd_weight_grad_args){.dw = &dw, .dy = dk, .x = &x, .scale = 1}, &j->err);
}

static void *repeat(void *argument) {
    job *j = argument;
    for (int i = 0; i < REPEATS && j->status == DDIT_OK; i++) j->status = work(j);
    return NULL;
}

static void *new_memory(dd_test *t, dd_backend *b, size_t count, size_t size, uint64_t seed) {
    void *memory = NULL;
    DD_OK(t, dd_op_alloc(b, &memory, count * size, "a test tensor", &t->err));
    uint8_t *host = calloc(count, size);
    if (!memory || !host) exit(1);
    for (size_t i = 0; seed && i < count; i++) {
        float v = dd_test_random(&seed);
        uint16_t half = dd_bf16_from_f32(v);
        memcpy(host + i * size, size == 2 ? (const void *)&half : &v, size);
    }
    DD_OK(t, dd_op_upload(b, memory, host, count * size, &t->err));
    free(host);
    return memory;
}

static job job_make(dd_test *t, dd_backend *b, const dd_weight *w) {
    size_t size = act_size(b);
    return (job){.b = b, .w = w, .x = new_memory(t, b, ROWS * IN, size, 1), .y = new_memory(t, b, ROWS * OUT, size, 0),
                 .dy = new_memory(t, b, ROWS * OUT, size, 2), .dx = new_memory(t, b, ROWS * IN, size, 0),
                 .lse = new_memory(t, b, HEADS * ROWS, 4, 0), .dw = new_memory(t, b, OUT * IN, 4, 3),
                 .dq = new_memory(t, b, ROWS * OUT, size, 0), .dk = new_memory(t, b, ROWS * OUT, size, 0),
                 .dv = new_memory(t, b, ROWS * OUT, size, 0), .dout = new_memory(t, b, ROWS * OUT, size, 0)};
}

static void job_free(job *j) {
    void *all[] = {j->x, j->y, j->dy, j->dx, j->lse, j->dw, j->dq, j->dk, j->dv, j->dout};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) dd_op_free(j->b, all[i]);
}

static void same_bytes(dd_test *t, const job *a, const job *b, const char *what) {
    static uint8_t one[OUT * IN * 4], other[OUT * IN * 4];
    const void *of_a[] = {a->y, a->dx, a->lse, a->dw, a->dv}, *of_b[] = {b->y, b->dx, b->lse, b->dw, b->dv};
    size_t size = act_size(a->b), bytes[] = {ROWS * OUT * size, ROWS * IN * size, HEADS * ROWS * 4, OUT * IN * 4,
                                             ROWS * OUT * size};
    static const char *const names[] = {"y", "dx", "lse", "dw", "dv"};
    for (int i = 0; i < 5; i++) {
        DD_OK(t, dd_op_download(a->b, one, of_a[i], bytes[i], &t->err));
        DD_OK(t, dd_op_download(b->b, other, of_b[i], bytes[i], &t->err));
        if (memcmp(one, other, bytes[i]) != 0) dd_test_fail(t, __FILE__, __LINE__, "%s: %s differs", what, names[i]);
    }
}

static dd_weight *prepare(dd_test *t, dd_backend *b, dd_weight_desc *desc, const float *data, const float *bias) {
    *desc = (dd_weight_desc){.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = OUT, .in = IN, .data = data,
                             .bias = bias, .bias_dtype = DD_DTYPE_F32,
                             .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT | DD_WEIGHT_UPDATES};
    dd_weight *w = NULL;
    DD_OK(t, dd_op_weight_prepare(b, &w, desc, &t->err));
    return w;
}

static void reserve(dd_test *t, dd_backend *b, const dd_weight *w) {
    dd_reserve sizes = {.attention_queries = ROWS, .attention_keys = ROWS, .attention_heads = HEADS,
                        .attention_head_size = WIDTH, .weights = &w, .weight_count = 1, .gradient_rows = ROWS};
    DD_OK(t, dd_op_reserve(b, &sizes, &t->err));
}

/* Opens the backend with a thread per lane; NULL if it has no lanes or backward passes, which is said. */
static dd_backend *open_with_lanes(dd_test *t, const op_choice *c, const dd_allocator *a) {
    dd_backend *b = op_open(t, c, 2, a);
    if (!b) return NULL;
    if (b->ops->lane_open && b->ops->weight_update && b->ops->grad) return b;
    dd_test_skip(t, "the backend has no lanes");
    dd_backend_close(b);
    return NULL;
}

/* All lanes at once, many times: the bytes of the main backend, before and after the weight changes. */
static void side_by_side(dd_test *t, const op_choice *c) {
    static float values[2][OUT * IN], bias[2][OUT];
    dd_backend *b = open_with_lanes(t, c, &dd_allocator_libc), *lanes[2] = {NULL, NULL};
    if (!b) return;
    uint64_t seed = 77;
    for (int i = 0; i < 2 * OUT * IN; i++) values[i / (OUT * IN)][i % (OUT * IN)] = 0.3f * dd_test_random(&seed);
    for (int i = 0; i < 2 * OUT; i++) bias[i / OUT][i % OUT] = dd_test_random(&seed);
    dd_weight_desc desc;
    dd_weight *w = prepare(t, b, &desc, values[0], bias[0]);
    reserve(t, b, w);
    for (int i = 0; i < b->threads; i++) {
        DD_OK(t, dd_op_lane_open(b, i, &lanes[i], &t->err));
        if (!lanes[i]) break;
        DD_CHECK(t, lanes[i]->threads == 1 && lanes[i]->activation == b->activation);
        reserve(t, lanes[i], w);
    }
    for (int turn = 0; turn < 2; turn++) {
        job jobs[3] = {job_make(t, b, w)};
        repeat(&jobs[0]);
        pthread_t threads[2];
        for (int i = 0; i < b->threads; i++) {
            jobs[1 + i] = job_make(t, lanes[i], w);
            if (pthread_create(&threads[i], NULL, repeat, &jobs[1 + i])) exit(1);
        }
        for (int i = 0; i < b->threads; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i <= b->threads; i++) {
            if (jobs[i].status) dd_test_fail(t, __FILE__, __LINE__, "lane %d: %s", i - 1, jobs[i].err.text);
            if (i) same_bytes(t, &jobs[0], &jobs[i], turn ? "a lane after the update" : "a lane");
        }
        for (int i = 0; i <= b->threads; i++) job_free(&jobs[i]);
        desc.data = values[1], desc.bias = bias[1];
        if (turn == 0) DD_OK(t, dd_op_weight_update(b, w, &desc, &t->err));
    }
    for (int i = 0; i < b->threads; i++) dd_op_lane_close(lanes[i]);
    dd_op_weight_free(b, w);
    dd_backend_close(b);
}

/* A weight with new values is the weight that they would have made, to the byte, and takes nothing from the allocator. */
static void updates(dd_test *t, const op_choice *c) {
    static float values[2][OUT * IN], bias[2][OUT];
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    dd_backend *b = open_with_lanes(t, c, &counting.allocator);
    if (!b) return;
    uint64_t seed = 78;
    for (int i = 0; i < 2 * OUT * IN; i++) values[i / (OUT * IN)][i % (OUT * IN)] = 0.3f * dd_test_random(&seed);
    for (int i = 0; i < 2 * OUT; i++) bias[i / OUT][i % OUT] = dd_test_random(&seed);
    dd_weight_desc desc;
    dd_weight *fresh = prepare(t, b, &desc, values[1], bias[1]), *w = prepare(t, b, &desc, values[0], bias[0]);
    reserve(t, b, w);
    job jobs[2] = {job_make(t, b, fresh), job_make(t, b, w)};
    DD_OK(t, work(&jobs[0]));
    desc.data = values[1], desc.bias = bias[1];
    size_t before = counting.total;
    DD_OK(t, dd_op_weight_update(b, w, &desc, &t->err));
    DD_CHECK(t, counting.total == before);
    memset(values, 0, sizeof values), memset(bias, 0, sizeof bias); /* the values are its own */
    DD_OK(t, work(&jobs[1]));
    same_bytes(t, &jobs[0], &jobs[1], "after the update");
    if (c->name) DD_CHECK(t, counting.total == before); /* nothing is allocated once the sizes are known; ref may */
    desc.in = IN - 1;
    DD_FAILS(t, dd_op_weight_update(b, w, &desc, &t->err), DDIT_ERR_INTERNAL, "its new values [48, 69]");
    desc.in = IN, desc.uses = 0, desc.data = values[0], desc.bias = bias[0];
    dd_weight *fixed = NULL;
    DD_OK(t, dd_op_weight_prepare(b, &fixed, &desc, &t->err));
    DD_FAILS(t, dd_op_weight_update(b, fixed, &desc, &t->err), DDIT_ERR_INTERNAL, "w");
    dd_input_grad_args g = {.dx = act(&jobs[0], jobs[0].dx, IN), .dy = act(&jobs[0], jobs[0].dy, OUT), .w = fixed, .scale = 1,
                            .replace = true};
    DD_FAILS(t, dd_op_input_grad(b, &g, &t->err), DDIT_ERR_INTERNAL, "input gradient");
    job_free(&jobs[0]), job_free(&jobs[1]);
    dd_op_weight_free(b, fixed), dd_op_weight_free(b, fresh), dd_op_weight_free(b, w);
    dd_backend_close(b);
    DD_CHECK(t, counting.live == 0);
}

static const op_choice reference = {NULL, DD_DTYPE_F32};
static void side_by_side_ref(dd_test *t) { side_by_side(t, &reference); }
static void updates_ref(dd_test *t) { updates(t, &reference); }

/* ref's weights take F32, whatever its activation: no family with BF16. */
#define LANES(family, id, choice) \
    static void family##_##id(dd_test *t) { family(t, &choice); }
LANES(side_by_side, cpu_f32, op_cpu_f32)
LANES(side_by_side, cpu_bf16, op_cpu_bf16)
LANES(side_by_side, onednn_f32, op_onednn_f32)
LANES(side_by_side, onednn_bf16, op_onednn_bf16)
LANES(updates, cpu_f32, op_cpu_f32)
LANES(updates, cpu_bf16, op_cpu_bf16)
LANES(updates, onednn_f32, op_onednn_f32)
LANES(updates, onednn_bf16, op_onednn_bf16)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"lanes of ref", side_by_side_ref}, {"lanes of cpu f32", side_by_side_cpu_f32},
        {"lanes of cpu bf16", side_by_side_cpu_bf16}, {"lanes of cpu-onednn f32", side_by_side_onednn_f32},
        {"lanes of cpu-onednn bf16", side_by_side_onednn_bf16}, {"new values on ref", updates_ref},
        {"new values on cpu f32", updates_cpu_f32}, {"new values on cpu bf16", updates_cpu_bf16},
        {"new values on cpu-onednn f32", updates_onednn_f32}, {"new values on cpu-onednn bf16", updates_onednn_bf16},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
