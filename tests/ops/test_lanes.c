/* Lanes and updates of the cpu backend: lanes that work side by side leave the bytes that the backend they were opened on
 * leaves, allocate nothing after reserve, and see new values of the weights. */
#include <pthread.h>

#include "op/op_grad.h"
#include "ops/op_suite.h"

enum { LANES = 3, ROWS = 233, IN = 100, OUT = 137, RANK = 16, HEADS = 2, WIDTH = 128, ROUNDS = 2, WEIGHTS = 3 };

static const int64_t weight_shapes[WEIGHTS][2] = {{OUT, IN}, {RANK, IN}, {OUT, RANK}};

/* The weights and inputs of all lanes. */
typedef struct common {
    dd_weight *weights[WEIGHTS];
    float *values[WEIGHTS]; /* [out, in] */
    float bias[OUT];
    void *x, *dy, *q, *k, *v, *dout; /* act */
    float *stream;                   /* [ROWS, WIDTH] */
} common;

/* What one pass over every op leaves; F32 or act, zeroed before. */
typedef struct results {
    void *y, *attended, *dq, *dk, *dv;
    float *lse, *dx, *dw, *db, *dstream, *dscale;
} results;

static size_t value_bytes(const dd_backend *b) { return b->activation == DD_DTYPE_BF16 ? 2 : 4; }

static void *random_values(const dd_backend *b, size_t count, uint64_t *seed) {
    void *memory = calloc(count, sizeof(float));
    for (size_t i = 0; memory && i < count; i++) {
        float value = dd_test_random(seed);
        if (b->activation == DD_DTYPE_BF16) ((uint16_t *)memory)[i] = dd_bf16_from_f32(value);
        else ((float *)memory)[i] = value;
    }
    return memory;
}

static dd_weight_desc desc_of(const common *c, int i) {
    return (dd_weight_desc){.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = weight_shapes[i][0],
                            .in = weight_shapes[i][1], .data = c->values[i], .bias = i == 0 ? c->bias : NULL,
                            .bias_dtype = DD_DTYPE_F32,
                            .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT | DD_WEIGHT_UPDATES};
}

static void common_values(common *c, uint64_t *seed) {
    for (int i = 0; i < WEIGHTS; i++)
        for (int64_t k = 0; k < weight_shapes[i][0] * weight_shapes[i][1]; k++) c->values[i][k] = dd_test_random(seed);
    for (int i = 0; i < OUT; i++) c->bias[i] = dd_test_random(seed);
}

static void common_make(dd_test *t, common *c, dd_backend *b) {
    uint64_t seed = 7;
    for (int i = 0; i < WEIGHTS; i++)
        c->values[i] = calloc((size_t)(weight_shapes[i][0] * weight_shapes[i][1]), sizeof(float));
    common_values(c, &seed);
    for (int i = 0; i < WEIGHTS; i++) {
        dd_weight_desc d = desc_of(c, i);
        DD_OK(t, dd_op_weight_prepare(b, &c->weights[i], &d, &t->err));
    }
    c->x = random_values(b, ROWS * IN, &seed);
    c->dy = random_values(b, ROWS * OUT, &seed);
    c->q = random_values(b, ROWS * WIDTH, &seed);
    c->k = random_values(b, ROWS * WIDTH, &seed);
    c->v = random_values(b, ROWS * WIDTH, &seed);
    c->dout = random_values(b, ROWS * WIDTH, &seed);
    c->stream = calloc(ROWS * WIDTH, sizeof(float));
    for (int i = 0; i < ROWS * WIDTH; i++) c->stream[i] = dd_test_random(&seed);
}

static void common_free(common *c, dd_backend *b) {
    for (int i = 0; i < WEIGHTS; i++) dd_op_weight_free(b, c->weights[i]), free(c->values[i]);
    void *all[] = {c->x, c->dy, c->q, c->k, c->v, c->dout, c->stream};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* All results in one block; returns its size. */
static size_t results_at(results *r, char *base, const dd_backend *b) {
    size_t at = 0, act = value_bytes(b);
    const struct { void **to; size_t bytes; } parts[] = {
        {(void **)&r->lse, HEADS * ROWS * 4}, {(void **)&r->dx, ROWS * IN * 4}, {(void **)&r->dw, OUT * IN * 4},
        {(void **)&r->db, OUT * 4}, {(void **)&r->dstream, ROWS * WIDTH * 4}, {(void **)&r->dscale, WIDTH * 4},
        {&r->y, ROWS * OUT * act}, {&r->attended, ROWS * WIDTH * act}, {&r->dq, ROWS * WIDTH * act},
        {&r->dk, ROWS * WIDTH * act}, {&r->dv, ROWS * WIDTH * act},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].to = base + at;
        at += (parts[i].bytes + 63) / 64 * 64;
    }
    return at;
}

static ddit_status reserve(dd_backend *b, const common *c, ddit_err *err) {
    dd_reserve r = {.attention_queries = ROWS, .attention_keys = ROWS, .attention_heads = HEADS,
                    .attention_head_size = WIDTH / HEADS, .weights = (const dd_weight *const *)c->weights,
                    .weight_count = WEIGHTS, .gradient_rows = ROWS};
    return dd_op_reserve(b, &r, err);
}

static ddit_status linear_pass(dd_backend *b, const common *c, const results *r, ddit_err *err) {
    dd_dtype act = b->activation;
    dd_lora lora = {.down = c->weights[1], .up = c->weights[2], .scale = 0.75f, .row_begin = 3, .row_end = ROWS - 5};
    dd_tensor x = dd_tensor_2d(c->x, act, ROWS, IN), dy = dd_tensor_2d(c->dy, act, ROWS, OUT);
    dd_tensor dw = dd_tensor_2d(r->dw, DD_DTYPE_F32, OUT, IN), db = dd_tensor_1d(r->db, DD_DTYPE_F32, OUT);
    dd_linear_args a = {.y = dd_tensor_2d(r->y, act, ROWS, OUT), .x = x, .w = c->weights[0], .lora = &lora, .lora_count = 1};
    DD_TRY(dd_op_linear(b, &a, err));
    dd_input_grad_args ig = {.dx = dd_tensor_2d(r->dx, DD_DTYPE_F32, ROWS, IN), .dy = dy, .w = c->weights[0], .scale = 0.5f};
    DD_TRY(dd_op_input_grad(b, &ig, err));
    return dd_op_weight_grad(b, &(dd_weight_grad_args){.dw = &dw, .db = &db, .dy = dy, .x = &x, .scale = 0.5f}, err);
}

static ddit_status pass(dd_backend *b, const common *c, const results *r, ddit_err *err) {
    dd_dtype act = b->activation;
    DD_TRY(linear_pass(b, c, r, err));
    dd_tensor lse = dd_tensor_2d(r->lse, DD_DTYPE_F32, HEADS, ROWS), out = dd_tensor_2d(r->attended, act, ROWS, WIDTH);
    dd_tensor q = dd_tensor_2d(c->q, act, ROWS, WIDTH), k = dd_tensor_2d(c->k, act, ROWS, WIDTH);
    dd_tensor v = dd_tensor_2d(c->v, act, ROWS, WIDTH), dout = dd_tensor_2d(c->dout, act, ROWS, WIDTH);
    dd_attention_args a = {.out = out, .q = q, .k = k, .v = v, .heads = HEADS, .scale = 0.125f, .lse = &lse};
    DD_TRY(dd_op_attention(b, &a, err));
    dd_attention_grad_args ag = {.dq = dd_tensor_2d(r->dq, act, ROWS, WIDTH), .dk = dd_tensor_2d(r->dk, act, ROWS, WIDTH),
                                 .dv = dd_tensor_2d(r->dv, act, ROWS, WIDTH), .dout = dout, .out = out, .q = q, .k = k, .v = v,
                                 .lse = lse, .heads = HEADS, .scale = 0.125f};
    DD_TRY(dd_op_attention_grad(b, &ag, err));
    dd_tensor scale = dd_tensor_1d(c->stream, DD_DTYPE_F32, WIDTH), dscale = dd_tensor_1d(r->dscale, DD_DTYPE_F32, WIDTH);
    dd_norm_grad_args ng = {.dx = dd_tensor_2d(r->dstream, DD_DTYPE_F32, ROWS, WIDTH), .dy = dout,
                            .x = dd_tensor_2d(c->stream, DD_DTYPE_F32, ROWS, WIDTH), .eps = 1e-6f, .scale = &scale,
                            .dscale = &dscale};
    return dd_op_norm_grad(b, &ng, err);
}

typedef struct lane_job {
    pthread_t thread;
    dd_backend *b;
    const common *c;
    char *block;
    size_t bytes;
    ddit_status status;
    ddit_err err;
} lane_job;

static void *lane_run(void *user) {
    lane_job *j = user;
    results r;
    results_at(&r, j->block, j->b);
    for (int i = 0; i < ROUNDS && !j->status; i++) {
        memset(j->block, 0, j->bytes);
        j->status = pass(j->b, j->c, &r, &j->err);
    }
    return NULL;
}

/* The passes of all lanes at once against that of the main backend. */
static void side_by_side(dd_test *t, lane_job *jobs, dd_backend *b, const common *c, char *expected) {
    results r;
    size_t bytes = results_at(&r, expected, b);
    memset(expected, 0, bytes);
    DD_NEED_OK(t, pass(b, c, &r, &t->err));
    for (int i = 0; i < LANES; i++) DD_CHECK(t, pthread_create(&jobs[i].thread, NULL, lane_run, &jobs[i]) == 0);
    for (int i = 0; i < LANES; i++) {
        pthread_join(jobs[i].thread, NULL);
        if (jobs[i].status) dd_test_fail(t, __FILE__, __LINE__, "lane %d: %s", i, jobs[i].err.text);
        else DD_CHECK(t, memcmp(jobs[i].block, expected, bytes) == 0);
    }
}

static void lanes(dd_test *t, const op_choice *choice) {
    if (!choice->name) return;
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    dd_backend *b = op_open(t, choice, LANES, &counting.allocator);
    if (!b) return;
    common c = {0};
    results r;
    lane_job jobs[LANES] = {0};
    char none[1];
    size_t bytes = results_at(&r, none, b);
    char *expected = malloc(bytes);
    common_make(t, &c, b);
    DD_OK(t, reserve(b, &c, &t->err));
    for (int i = 0; i < LANES; i++) {
        jobs[i] = (lane_job){.c = &c, .block = malloc(bytes), .bytes = bytes};
        DD_OK(t, dd_op_lane_open(b, i, &jobs[i].b, &t->err));
        DD_OK(t, reserve(jobs[i].b, &c, &t->err));
    }
    size_t before = counting.total;
    side_by_side(t, jobs, b, &c, expected);
    uint64_t seed = 99;
    common_values(&c, &seed);
    for (int i = 0; i < WEIGHTS; i++) {
        dd_weight_desc d = desc_of(&c, i);
        DD_OK(t, dd_op_weight_update(b, c.weights[i], &d, &t->err));
    }
    side_by_side(t, jobs, b, &c, expected);
    DD_CHECK(t, counting.total == before);
    for (int i = 0; i < LANES; i++) dd_op_lane_close(jobs[i].b), free(jobs[i].block);
    common_free(&c, b);
    free(expected);
    dd_backend_close(b);
    DD_CHECK(t, counting.live == 0);
}

/* A weight that got new values computes what one made of them computes, and only what it is made for costs memory. */
static void updates(dd_test *t, const op_choice *choice) {
    if (!choice->name) return;
    dd_backend *b = op_open(t, choice, 2, &dd_allocator_libc);
    if (!b) return;
    common c = {0};
    results r;
    char none[1];
    size_t bytes = results_at(&r, none, b);
    char *blocks[2] = {calloc(bytes, 1), calloc(bytes, 1)};
    uint64_t seed = 99;
    common_make(t, &c, b);
    common_values(&c, &seed);
    for (int i = 0; i < WEIGHTS; i++) {
        dd_weight_desc d = desc_of(&c, i);
        DD_OK(t, dd_op_weight_update(b, c.weights[i], &d, &t->err));
    }
    results_at(&r, blocks[0], b);
    DD_OK(t, pass(b, &c, &r, &t->err));
    size_t with = dd_op_weight_info(b, c.weights[0]).bytes;
    for (int i = 0; i < WEIGHTS; i++) {
        dd_weight_desc d = desc_of(&c, i);
        dd_op_weight_free(b, c.weights[i]);
        DD_OK(t, dd_op_weight_prepare(b, &c.weights[i], &d, &t->err));
    }
    results_at(&r, blocks[1], b);
    DD_OK(t, pass(b, &c, &r, &t->err));
    DD_CHECK(t, memcmp(blocks[0], blocks[1], bytes) == 0);

    dd_weight_desc d = desc_of(&c, 0);
    dd_weight *plain = NULL;
    d.uses = DD_WEIGHT_FORWARD;
    DD_OK(t, dd_op_weight_prepare(b, &plain, &d, &t->err));
    DD_CHECK(t, dd_op_weight_info(b, plain).bytes < with);
    DD_FAILS(t, dd_op_weight_update(b, plain, &d, &t->err), DDIT_ERR_INTERNAL, "not prepared for new values");
    dd_input_grad_args g = {.dx = dd_tensor_2d(r.dx, DD_DTYPE_F32, ROWS, IN),
                            .dy = dd_tensor_2d(c.dy, b->activation, ROWS, OUT), .w = plain, .scale = 1};
    DD_FAILS(t, dd_op_input_grad(b, &g, &t->err), DDIT_ERR_INTERNAL, "not prepared for the input gradient");
    dd_op_weight_free(b, plain);
    common_free(&c, b);
    free(blocks[0]), free(blocks[1]);
    dd_backend_close(b);
}

OP_FAMILY(lanes)
OP_FAMILY(updates)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(lanes), OP_FAMILY_CASES(updates)};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
