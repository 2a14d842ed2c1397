/* Backward passes of ref against finite differences of the forward passes. */
#include "ops/op_suite.h"

#include "op/op_grad.h"

/* A loss: sum of y * dy, so that dy is its gradient. In float64 over float32 values. */
static double loss(const float *y, const float *dy, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)y[i] * dy[i];
    return sum;
}

static void randomise(float *values, size_t count, uint64_t *seed) {
    for (size_t i = 0; i < count; i++) values[i] = dd_test_random(seed);
}

static dd_tensor matrix(float *values, int64_t rows, int64_t cols) { return dd_tensor_2d(values, DD_DTYPE_F32, rows, cols); }
static dd_tensor vector(float *values, int64_t n) { return dd_tensor_1d(values, DD_DTYPE_F32, n); }

/* The derivative of loss_of(context) by every one of values[count] against gradient[count]. Step 2^-6: the central difference
 * of a smooth function of size 1 errs by about step^2, and float32 results add 1e-7 / step. */
static void compare(dd_test *t, const char *name, double (*loss_of)(void *), void *context, float *values,
                    const float *gradient, size_t count, double bound) {
    const float step = 0x1p-6f;
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        float old = values[i];
        values[i] = old + step;
        double above = loss_of(context), high = values[i];
        values[i] = old - step;
        double slope = (above - loss_of(context)) / (high - values[i]);
        values[i] = old;
        worst = fmax(worst, fabs(slope - gradient[i]));
        largest = fmax(largest, fabs(slope));
    }
    if (!(worst <= bound * largest) || largest == 0)
        dd_test_fail(t, __FILE__, __LINE__, "%s: off by %.3g, largest slope %.3g", name, worst, largest);
    if (getenv("DD_TEST_VERBOSE")) printf("     %-20s %.3g of %.3g\n", name, worst / largest, bound);
}

/* ------------------------------------------------------------------------------------------------ linear */

enum { M = 4, N = 5, K = 6 };

typedef struct linear_state {
    dd_test *t;
    dd_backend *b;
    float x[M * K], w[N * K], bias[N], dy[M * N], y[M * N];
    float dx[M * K], dw[N * K], db[N];
} linear_state;

static double linear_loss(void *context) {
    linear_state *s = context;
    dd_weight_desc desc = {.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = N, .in = K, .data = s->w,
                           .bias = s->bias, .bias_dtype = DD_DTYPE_F32};
    dd_weight *w = NULL;
    if (dd_op_weight_prepare(s->b, &w, &desc, &s->t->err)) return NAN;
    dd_linear_args a = {.y = matrix(s->y, M, N), .x = matrix(s->x, M, K), .w = w};
    ddit_status status = dd_op_linear(s->b, &a, &s->t->err);
    dd_op_weight_free(s->b, w);
    return status ? NAN : loss(s->y, s->dy, M * N);
}

static void linear(dd_test *t) {
    linear_state s = {.t = t};
    uint64_t seed = 5;
    DD_NEED_OK(t, dd_ref_open(&s.b, &dd_allocator_libc, &t->err));
    randomise(s.x, M * K, &seed), randomise(s.w, N * K, &seed), randomise(s.bias, N, &seed), randomise(s.dy, M * N, &seed);
    dd_weight_desc desc = {.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = N, .in = K, .data = s.w,
                           .uses = DD_WEIGHT_INPUT_GRADIENT};
    dd_weight *w = NULL;
    DD_OK(t, dd_op_weight_prepare(s.b, &w, &desc, &t->err));
    dd_tensor dw = matrix(s.dw, N, K), db = vector(s.db, N), x = matrix(s.x, M, K), dy = matrix(s.dy, M, N);
    dd_input_grad_args i = {.dx = matrix(s.dx, M, K), .dy = dy, .w = w, .scale = 1};
    dd_weight_grad_args g = {.dw = &dw, .db = &db, .dy = dy, .x = &x, .scale = 1};
    DD_OK(t, dd_op_input_grad(s.b, &i, &t->err));
    DD_OK(t, dd_op_weight_grad(s.b, &g, &t->err));
    compare(t, "dx", linear_loss, &s, s.x, s.dx, M * K, 1e-4);
    compare(t, "dw", linear_loss, &s, s.w, s.dw, N * K, 1e-4);
    compare(t, "db", linear_loss, &s, s.bias, s.db, N, 1e-4);
    float once = s.dw[7], bias_once = s.db[2], input_once = s.dx[3];
    g.scale = i.scale = 2; /* gradients are added to */
    DD_OK(t, dd_op_weight_grad(s.b, &g, &t->err));
    DD_OK(t, dd_op_input_grad(s.b, &i, &t->err));
    DD_CHECK(t, fabsf(s.dw[7] - 3 * once) < 1e-6f && fabsf(s.db[2] - 3 * bias_once) < 1e-6f);
    DD_CHECK(t, fabsf(s.dx[3] - 3 * input_once) < 1e-6f);
    i.scale = 1, i.replace = true;
    DD_OK(t, dd_op_input_grad(s.b, &i, &t->err)); /* unless replaced */
    DD_CHECK(t, s.dx[3] == input_once);
    g.dw = NULL, g.x = NULL;
    DD_OK(t, dd_op_weight_grad(s.b, &g, &t->err)); /* db alone */
    DD_CHECK(t, fabsf(s.dw[7] - 3 * once) < 1e-6f && fabsf(s.db[2] - 5 * bias_once) < 1e-6f);
    dd_op_weight_free(s.b, w);
    dd_backend_close(s.b);
}

/* ------------------------------------------------------------------------------------------------ attention */

enum { HEADS = 2, WIDTH = 4, COLUMNS = HEADS * WIDTH, QUERIES = 5, KEYS = 7 };

typedef struct attention_state {
    dd_test *t;
    dd_backend *b;
    bool causal;
    float q[QUERIES * COLUMNS], k[KEYS * COLUMNS], v[KEYS * COLUMNS], out[QUERIES * COLUMNS], dout[QUERIES * COLUMNS];
    float lse[HEADS * QUERIES], dq[QUERIES * COLUMNS], dk[KEYS * COLUMNS], dv[KEYS * COLUMNS];
} attention_state;

static double attention_loss(void *context) {
    attention_state *s = context;
    dd_tensor lse = matrix(s->lse, HEADS, QUERIES);
    dd_attention_args a = {.out = matrix(s->out, QUERIES, COLUMNS), .q = matrix(s->q, QUERIES, COLUMNS),
                           .k = matrix(s->k, KEYS, COLUMNS),
                           .v = matrix(s->v, KEYS, COLUMNS), .heads = HEADS, .scale = 0.5f, .causal = s->causal, .lse = &lse};
    return dd_op_attention(s->b, &a, &s->t->err) ? NAN : loss(s->out, s->dout, QUERIES * COLUMNS);
}

static void attention_either(dd_test *t, bool causal) {
    attention_state s = {.t = t, .causal = causal};
    uint64_t seed = 6;
    DD_NEED_OK(t, dd_ref_open(&s.b, &dd_allocator_libc, &t->err));
    randomise(s.q, QUERIES * COLUMNS, &seed), randomise(s.k, KEYS * COLUMNS, &seed), randomise(s.v, KEYS * COLUMNS, &seed);
    randomise(s.dout, QUERIES * COLUMNS, &seed);
    DD_CHECK(t, isfinite(attention_loss(&s))); /* fills out and lse */
    dd_attention_grad_args g = {.dq = matrix(s.dq, QUERIES, COLUMNS), .dk = matrix(s.dk, KEYS, COLUMNS),
                                .dv = matrix(s.dv, KEYS, COLUMNS),
                                .dout = matrix(s.dout, QUERIES, COLUMNS), .out = matrix(s.out, QUERIES, COLUMNS),
                                .q = matrix(s.q, QUERIES, COLUMNS), .k = matrix(s.k, KEYS, COLUMNS),
                                .v = matrix(s.v, KEYS, COLUMNS),
                                .lse = matrix(s.lse, HEADS, QUERIES), .heads = HEADS, .scale = 0.5f, .causal = causal};
    DD_OK(t, dd_op_attention_grad(s.b, &g, &t->err));
    compare(t, "dq", attention_loss, &s, s.q, s.dq, QUERIES * COLUMNS, 3e-4);
    compare(t, "dk", attention_loss, &s, s.k, s.dk, KEYS * COLUMNS, 3e-4);
    compare(t, "dv", attention_loss, &s, s.v, s.dv, KEYS * COLUMNS, 3e-4);
    if (causal) { /* keys after the last query are seen by nobody */
        for (int i = QUERIES * COLUMNS; i < KEYS * COLUMNS; i++) DD_CHECK(t, s.dk[i] == 0 && s.dv[i] == 0);
    }
    dd_backend_close(s.b);
}

static void attention(dd_test *t) { attention_either(t, false); }
static void attention_causal(dd_test *t) { attention_either(t, true); }

/* ------------------------------------------------------------------------------------------------ rows */

enum { ROWS = 3, COLS = 8 };

/* One forward pass over rows, whichever the case needs. x is scaled to be away from 0, where norms bend sharply. */
typedef struct rows_state {
    dd_test *t;
    dd_backend *b;
    float x[ROWS * COLS], y[ROWS * COLS], dy[ROWS * COLS], weight[COLS], shift[COLS], rope[ROWS * COLS];
    float dx[ROWS * COLS], dweight[COLS], dshift[COLS], dz[ROWS * COLS];
    dd_activation activation;
    int heads;
    bool optional; /* scale and shift, or the rotation, are given */
} rows_state;

static bool rows_begin(rows_state *s, dd_test *t, uint64_t seed) {
    *s = (rows_state){.t = t, .heads = 2};
    if (dd_ref_open(&s->b, &dd_allocator_libc, &t->err)) return false;
    randomise(s->x, ROWS * COLS, &seed), randomise(s->dy, ROWS * COLS, &seed), randomise(s->rope, ROWS * COLS, &seed);
    randomise(s->weight, COLS, &seed), randomise(s->shift, COLS, &seed);
    for (int i = 0; i < ROWS * COLS; i++) s->x[i] *= 2;
    return true;
}

static double norm_loss(void *context) {
    rows_state *s = context;
    dd_tensor scale = vector(s->weight, COLS), shift = vector(s->shift, COLS);
    dd_norm_args a = {.y = matrix(s->y, ROWS, COLS), .x = matrix(s->x, ROWS, COLS), .eps = 1e-3f};
    if (s->optional) a.scale = &scale, a.shift = &shift;
    return dd_op_norm(s->b, &a, &s->t->err) ? NAN : loss(s->y, s->dy, ROWS * COLS);
}

static void norm(dd_test *t) {
    for (int optional = 0; optional < 2; optional++) {
        rows_state s;
        if (!rows_begin(&s, t, 11)) return;
        s.optional = optional;
        dd_tensor scale = vector(s.weight, COLS), dscale = vector(s.dweight, COLS), dshift = vector(s.dshift, COLS);
        dd_norm_grad_args g = {.dx = matrix(s.dx, ROWS, COLS), .dy = matrix(s.dy, ROWS, COLS), .x = matrix(s.x, ROWS, COLS),
                               .eps = 1e-3f};
        if (optional) g.scale = &scale, g.dscale = &dscale, g.dshift = &dshift;
        DD_OK(t, dd_op_norm_grad(s.b, &g, &t->err));
        compare(t, "norm dx", norm_loss, &s, s.x, s.dx, ROWS * COLS, 1e-3);
        if (optional) {
            compare(t, "dscale", norm_loss, &s, s.weight, s.dweight, COLS, 1e-4);
            compare(t, "dshift", norm_loss, &s, s.shift, s.dshift, COLS, 1e-4);
        }
        dd_backend_close(s.b);
    }
}

static double qk_loss(void *context) {
    rows_state *s = context;
    memcpy(s->y, s->x, sizeof s->y); /* the op works in place */
    dd_tensor weight = vector(s->weight, COLS / s->heads), rope = matrix(s->rope, ROWS, COLS / s->heads);
    dd_qk_norm_rope_args a = {.x = matrix(s->y, ROWS, COLS), .heads = s->heads, .weight = &weight,
                              .rope = s->optional ? &rope : NULL, .eps = 1e-3f};
    return dd_op_qk_norm_rope(s->b, &a, &s->t->err) ? NAN : loss(s->y, s->dy, ROWS * COLS);
}

static void qk_norm_rope(dd_test *t) {
    for (int turn = 0; turn < 4; turn++) {
        rows_state s;
        if (!rows_begin(&s, t, 12)) return;
        s.optional = turn & 1, s.heads = turn & 2 ? 1 : 2;
        dd_tensor weight = vector(s.weight, COLS / s.heads), rope = matrix(s.rope, ROWS, COLS / s.heads);
        dd_tensor dweight = vector(s.dweight, COLS / s.heads);
        dd_qk_norm_rope_grad_args g = {.dx = matrix(s.dx, ROWS, COLS), .dy = matrix(s.dy, ROWS, COLS),
                                       .x = matrix(s.x, ROWS, COLS), .heads = s.heads, .weight = &weight,
                                       .rope = s.optional ? &rope : NULL, .eps = 1e-3f, .dweight = &dweight};
        DD_OK(t, dd_op_qk_norm_rope_grad(s.b, &g, &t->err));
        compare(t, "qk dx", qk_loss, &s, s.x, s.dx, ROWS * COLS, 1e-3);
        compare(t, "dweight", qk_loss, &s, s.weight, s.dweight, (size_t)(COLS / s.heads), 1e-4);
        g.dx = g.dy, g.dweight = NULL; /* in place */
        DD_OK(t, dd_op_qk_norm_rope_grad(s.b, &g, &t->err));
        DD_CHECK(t, memcmp(s.dx, s.dy, sizeof s.dx) == 0);
        dd_backend_close(s.b);
    }
}

static double activation_loss(void *context) {
    rows_state *s = context;
    ddit_status status = dd_op_affine(s->b, matrix(s->y, ROWS, COLS), 1, matrix(s->x, ROWS, COLS), 0, NULL, s->activation,
                                      &s->t->err);
    return status ? NAN : loss(s->y, s->dy, ROWS * COLS);
}

static void activation(dd_test *t) {
    for (int kind = DD_ACTIVATION_NONE; kind <= DD_ACTIVATION_QUICK_GELU; kind++) {
        rows_state s;
        if (!rows_begin(&s, t, 13)) return;
        s.activation = (dd_activation)kind;
        dd_activation_grad_args g = {.dx = matrix(s.dx, ROWS, COLS), .dy = matrix(s.dy, ROWS, COLS),
                                     .x = matrix(s.x, ROWS, COLS), .activation = s.activation};
        DD_OK(t, dd_op_activation_grad(s.b, &g, &t->err));
        compare(t, "activation dx", activation_loss, &s, s.x, s.dx, ROWS * COLS, 2e-4);
        g.dx = g.dy; /* in place */
        DD_OK(t, dd_op_activation_grad(s.b, &g, &t->err));
        DD_CHECK(t, memcmp(s.dx, s.dy, sizeof s.dx) == 0);
        dd_backend_close(s.b);
    }
}

/* The gated sum as linear's epilogue makes it: rope + weight * x, with a weight that is the identity. dy is the stream's
 * gradient. */
static double gate_loss(void *context) {
    rows_state *s = context;
    float identity[COLS * COLS] = {0};
    for (int i = 0; i < COLS; i++) identity[i * COLS + i] = 1;
    dd_weight_desc desc = {.name = "identity", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = COLS, .in = COLS,
                           .data = identity};
    dd_weight *w = NULL;
    if (dd_op_weight_prepare(s->b, &w, &desc, &s->t->err)) return NAN;
    dd_tensor gate = vector(s->weight, COLS), add = matrix(s->rope, ROWS, COLS);
    dd_linear_args a = {.y = matrix(s->y, ROWS, COLS), .x = matrix(s->x, ROWS, COLS), .w = w, .gate = &gate, .add = &add};
    ddit_status status = dd_op_linear(s->b, &a, &s->t->err);
    dd_op_weight_free(s->b, w);
    return status ? NAN : loss(s->y, s->dy, ROWS * COLS);
}

static void gate(dd_test *t) {
    rows_state s;
    if (!rows_begin(&s, t, 14)) return;
    dd_tensor gate = vector(s.weight, COLS), y = matrix(s.x, ROWS, COLS), dgate = vector(s.dweight, COLS);
    dd_gate_grad_args g = {.dy = matrix(s.dz, ROWS, COLS), .dx = matrix(s.dy, ROWS, COLS), .gate = &gate, .y = &y,
                           .dgate = &dgate};
    DD_OK(t, dd_op_gate_grad(s.b, &g, &t->err));
    compare(t, "gate dy", gate_loss, &s, s.x, s.dz, ROWS * COLS, 1e-4);
    compare(t, "dgate", gate_loss, &s, s.weight, s.dweight, COLS, 1e-4);
    float once = s.dweight[3], before = s.dz[5];
    DD_OK(t, dd_op_gate_grad(s.b, &g, &t->err)); /* dgate is added to, dy written */
    DD_CHECK(t, s.dweight[3] == 2 * once && s.dz[5] == before);
    dd_backend_close(s.b);
}

/* ------------------------------------------------------------------------------------------------ cells */

enum { CHANNELS = 2, HEIGHT = 3, LENGTH = 5, SIDE = 2, CELLS = 6, CELL = CHANNELS * SIDE * SIDE, PIXELS = HEIGHT * LENGTH };

typedef struct cells_state {
    dd_test *t;
    dd_backend *b;
    int32_t origin[2 * CELLS];
    float x[CELLS * CELL], z[CHANNELS * PIXELS], weight[CHANNELS * CHANNELS], bias[CHANNELS], v[CHANNELS * PIXELS];
    float dv[CHANNELS * PIXELS], dx[CELLS * CELL], dweight[CHANNELS * CHANNELS], dbias[CHANNELS];
} cells_state;

static dd_tensor latent(float *values) { return dd_tensor_3d(values, DD_DTYPE_F32, CHANNELS, HEIGHT, LENGTH); }

static double cells_loss(void *context) {
    cells_state *s = context;
    dd_tensor z = latent(s->z), weight = matrix(s->weight, CHANNELS, CHANNELS), bias = vector(s->bias, CHANNELS);
    dd_cells_scatter_args a = {.velocity = latent(s->v), .x = matrix(s->x, CELLS, CELL),
                               .origin = dd_tensor_2d(s->origin, DD_DTYPE_I32, CELLS, 2), .n = SIDE, .z = &z,
                               .pixel_weight = &weight, .pixel_bias = &bias};
    return dd_op_cells_scatter(s->b, &a, &s->t->err) ? NAN : loss(s->v, s->dv, CHANNELS * PIXELS);
}

/* All cells of a 3 x 5 latent: those below and to the right hang over its edges. */
static void cells(dd_test *t) {
    cells_state s = {.t = t};
    uint64_t seed = 15;
    DD_NEED_OK(t, dd_ref_open(&s.b, &dd_allocator_libc, &t->err));
    randomise(s.x, CELLS * CELL, &seed), randomise(s.z, CHANNELS * PIXELS, &seed), randomise(s.dv, CHANNELS * PIXELS, &seed);
    randomise(s.weight, CHANNELS * CHANNELS, &seed), randomise(s.bias, CHANNELS, &seed);
    for (int i = 0; i < CELLS; i++) s.origin[2 * i] = i / 3 * SIDE, s.origin[2 * i + 1] = i % 3 * SIDE;
    dd_tensor z = latent(s.z), dweight = matrix(s.dweight, CHANNELS, CHANNELS), dbias = vector(s.dbias, CHANNELS);
    dd_cells_scatter_grad_args g = {.dx = matrix(s.dx, CELLS, CELL), .dvelocity = latent(s.dv),
                                    .origin = dd_tensor_2d(s.origin, DD_DTYPE_I32, CELLS, 2), .n = SIDE, .z = &z,
                                    .dpixel_weight = &dweight, .dpixel_bias = &dbias};
    DD_OK(t, dd_op_cells_scatter_grad(s.b, &g, &t->err));
    compare(t, "cells dx", cells_loss, &s, s.x, s.dx, CELLS * CELL, 1e-4);
    compare(t, "dpixel_weight", cells_loss, &s, s.weight, s.dweight, CHANNELS * CHANNELS, 1e-4);
    compare(t, "dpixel_bias", cells_loss, &s, s.bias, s.dbias, CHANNELS, 1e-4);
    float once = s.dweight[1], bias_once = s.dbias[0];
    g.z = NULL, g.dpixel_weight = NULL;
    DD_OK(t, dd_op_cells_scatter_grad(s.b, &g, &t->err)); /* the bias alone is added to */
    DD_CHECK(t, s.dweight[1] == once && s.dbias[0] == 2 * bias_once);
    dd_backend_close(s.b);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"linear", linear}, {"attention", attention}, {"causal attention", attention_causal},
                                         {"layer norm", norm}, {"norm and rotation of q and k", qk_norm_rope},
                                         {"activations", activation}, {"gated sum", gate}, {"cells", cells}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
