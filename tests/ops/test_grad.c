/* Backward passes against finite differences of the forward pass. */
#include "ops/op_suite.h"

/* A loss: sum of y * dy, so that dy is its gradient. In float64 over float32 values. */
static double loss(const float *y, const float *dy, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)y[i] * dy[i];
    return sum;
}

static void randomise(float *values, size_t count, uint64_t *seed) {
    for (size_t i = 0; i < count; i++) values[i] = dd_test_random(seed);
}

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
    dd_linear_args a = {.y = dd_tensor_2d(s->y, DD_DTYPE_F32, M, N), .x = dd_tensor_2d(s->x, DD_DTYPE_F32, M, K), .w = w};
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
    dd_tensor dx = dd_tensor_2d(s.dx, DD_DTYPE_F32, M, K), dw = dd_tensor_2d(s.dw, DD_DTYPE_F32, N, K);
    dd_tensor db = dd_tensor_1d(s.db, DD_DTYPE_F32, N), x = dd_tensor_2d(s.x, DD_DTYPE_F32, M, K);
    dd_linear_grad_args g = {.dx = &dx, .dw = &dw, .db = &db, .dy = dd_tensor_2d(s.dy, DD_DTYPE_F32, M, N), .x = &x, .w = w};
    DD_OK(t, dd_op_linear_grad(s.b, &g, &t->err));
    compare(t, "dx", linear_loss, &s, s.x, s.dx, M * K, 1e-4);
    compare(t, "dw", linear_loss, &s, s.w, s.dw, N * K, 1e-4);
    compare(t, "db", linear_loss, &s, s.bias, s.db, N, 1e-4);
    float once = s.dw[7], bias_once = s.db[2], input_once = s.dx[3];
    DD_OK(t, dd_op_linear_grad(s.b, &g, &t->err)); /* gradients are added to */
    DD_CHECK(t, s.dw[7] == 2 * once && s.db[2] == 2 * bias_once && s.dx[3] == 2 * input_once);
    g.dx = g.dw = NULL;
    DD_OK(t, dd_op_linear_grad(s.b, &g, &t->err)); /* each alone */
    DD_CHECK(t, s.dw[7] == 2 * once && fabsf(s.db[2] - 3 * bias_once) < 1e-6f);
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

static dd_tensor matrix(float *values, int64_t rows, int64_t cols) { return dd_tensor_2d(values, DD_DTYPE_F32, rows, cols); }

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

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"linear", linear}, {"attention", attention}, {"causal attention", attention_causal}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
