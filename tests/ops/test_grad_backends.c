/* The backward passes of every backend against ref. A backend that lacks a slot is skipped. */
#include "ops/op_suite.h"

#include <stddef.h>

#include "op/op_grad.h"

/* F32 results of a bf16 backend are sums of exact products: nothing is rounded to bfloat16 on the way. */
static const op_bounds bounds_usual = {.f32 = 1e-11, .bf16 = 5.5e-6, .wide = 1e-11};

/* Whether the backend has this slot; says that it is skipped if not. */
static bool has(dd_test *t, const op_choice *c, size_t slot) {
    if (t->skipped) return false;
    dd_backend *b = op_open(t, c, 1, &dd_allocator_libc);
    if (!b) return false;
    ddit_status (*filled)(void) = NULL;
    if (b->ops->grad) memcpy(&filled, (const char *)b->ops->grad + slot, sizeof filled);
    dd_backend_close(b);
    if (!filled) dd_test_skip(t, "the backend has no such backward pass");
    return filled != NULL;
}
#define HAS(t, c, slot) has((t), (c), offsetof(dd_grad_ops, slot))

/* Something that is added to: values smaller than the gradients, which they would otherwise hide. */
static dd_tensor *sum_of(op_run *r, int rank, int64_t d0, int64_t d1) {
    float amplitude = r->amplitude;
    r->amplitude = 0.25f;
    dd_tensor *t = op_new(r, OP_INOUT, OP_F32, rank, d0, d1, 0);
    r->amplitude = amplitude;
    return t;
}

static dd_tensor *vector_sum(op_run *r, int64_t n) { return sum_of(r, 1, n, 0); }

static void reserve(op_run *r, int64_t rows) {
    dd_reserve sizes = {.weights = (const dd_weight *const *)r->weights, .weight_count = r->weight_count,
                        .gradient_rows = rows};
    op_ok(r, dd_op_reserve(r->b, &sizes, &r->err));
}

/* ------------------------------------------------------------------------------------------------ linear */

typedef struct linear_param {
    int64_t rows, out, in, gap;
    bool replace, act, full_precision; /* act: dx, or x and dy, have the activation dtype */
} linear_param;

static void input_case(op_run *r, const void *param) {
    const linear_param *p = param;
    r->gap = p->gap;
    dd_weight *w = op_weight(r, (dd_weight_desc){.kind = DD_WEIGHT_LINEAR, .out = p->out, .in = p->in,
                                                 .full_precision = p->full_precision,
                                                 .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT}, p->rows % 2);
    reserve(r, p->rows);
    dd_tensor *dy = op_in2(r, p->full_precision ? OP_F32 : op_input(r, w), p->rows, p->out), *dx;
    if (p->replace) dx = op_out2(r, p->act ? OP_ACT : OP_F32, p->rows, p->in);
    else dx = sum_of(r, 2, p->rows, p->in);
    dd_input_grad_args g = {.dx = *dx, .dy = *dy, .w = w, .scale = p->gap ? 0.75f : 1, .replace = p->replace};
    op_ok(r, dd_op_input_grad(r->b, &g, &r->err));
}

static void weight_case(op_run *r, const void *param) {
    const linear_param *p = param;
    r->gap = p->gap;
    reserve(r, p->rows);
    op_kind kind = p->act ? OP_ACT : OP_F32;
    dd_tensor *dy = op_in2(r, kind, p->rows, p->out), *x = op_in2(r, kind, p->rows, p->in);
    dd_tensor *dw = sum_of(r, 2, p->out, p->in), *db = vector_sum(r, p->out);
    dd_weight_grad_args g = {.dw = dw, .db = db, .dy = *dy, .x = x, .scale = p->gap ? 0.75f : 1};
    op_ok(r, dd_op_weight_grad(r->b, &g, &r->err));
    g.dw = sum_of(r, 2, p->out, p->in), g.db = NULL; /* each alone */
    op_ok(r, dd_op_weight_grad(r->b, &g, &r->err));
    g.dw = NULL, g.db = vector_sum(r, p->out), g.x = NULL;
    op_ok(r, dd_op_weight_grad(r->b, &g, &r->err));
}

static const char *linear_label(char label[96], const linear_param *p) {
    snprintf(label, 96, "%lldx%lldx%lld gap %lld%s%s%s", (long long)p->rows, (long long)p->out, (long long)p->in,
             (long long)p->gap, p->replace ? " replace" : "", p->act ? " act" : "", p->full_precision ? " full" : "");
    return label;
}

static const int64_t linear_sizes[][3] = {{1, 1, 1}, {1, 3, 5}, {2, 17, 31}, {3, 64, 64}, {5, 16, 2}, {6, 2, 100},
                                          {19, 40, 48}, {33, 65, 129}, {64, 16, 256}, {88, 256, 64}, {129, 130, 131},
                                          {257, 48, 300}, {300, 64, 16}, {280, 256, 256}, {88, 64, 1024}};

static void input(dd_test *t, const op_choice *c) {
    if (!HAS(t, c, input)) return;
    char label[96];
    for (size_t i = 0; i < sizeof linear_sizes / sizeof *linear_sizes; i++) {
        for (int k = (int)i % 2; k < 6; k += 2) { /* gaps at every other size */
            linear_param p = {.rows = linear_sizes[i][0], .out = linear_sizes[i][1], .in = linear_sizes[i][2],
                              .gap = k % 2 * 5, .replace = k >= 2, .act = k >= 4};
            op_compare(t, c, linear_label(label, &p), input_case, &p, bounds_usual);
        }
    }
    for (int n = 1; n <= 17; n++) {
        linear_param tails[] = {{.rows = n, .out = 40, .in = 48}, {.rows = 19, .out = n, .in = 48},
                                {.rows = 19, .out = 40, .in = n}, {.rows = 64 + n, .out = 64 + n, .in = 64 + n}};
        for (int k = 0; k < 4; k++) op_compare(t, c, linear_label(label, &tails[k]), input_case, &tails[k], bounds_usual);
    }
    for (int k = 0; k < 3; k++) {
        linear_param p = {.rows = 33, .out = 50, .in = 65, .gap = k, .replace = k == 1, .full_precision = true};
        op_compare(t, c, linear_label(label, &p), input_case, &p, bounds_usual);
    }
}

static void weight(dd_test *t, const op_choice *c) {
    if (!HAS(t, c, weight)) return;
    char label[96];
    for (size_t i = 0; i < sizeof linear_sizes / sizeof *linear_sizes; i++) {
        for (int k = (int)i % 2; k < 4; k += 2) {
            linear_param p = {.rows = linear_sizes[i][0], .out = linear_sizes[i][1], .in = linear_sizes[i][2],
                              .gap = k % 2 * 5, .act = k >= 2};
            op_compare(t, c, linear_label(label, &p), weight_case, &p, bounds_usual);
        }
    }
    for (int n = 1; n <= 17; n++) {
        linear_param tails[] = {{.rows = n, .out = 40, .in = 48}, {.rows = 19, .out = n, .in = 48},
                                {.rows = 19, .out = 40, .in = n}, {.rows = 64 + n, .out = 64 + n, .in = 64 + n}};
        for (int k = 0; k < 4; k++) {
            linear_param p = tails[k];
            p.act = n % 2;
            op_compare(t, c, linear_label(label, &p), weight_case, &p, bounds_usual);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ attention */

typedef struct attention_param {
    int64_t queries, keys, gap;
    int heads, width;
    bool causal;
    float sharpness; /* amplitude of q and k */
} attention_param;

/* out and lse of the forward pass as ref computes them, so that every backend begins from the same. */
static void forward(op_run *r, const attention_param *p, float scale, const dd_tensor *inputs[3], float *out, float *lse) {
    dd_backend *ref = NULL;
    op_ok(r, dd_ref_open(&ref, &dd_allocator_libc, &r->err));
    float *host[3];
    dd_tensor views[3];
    for (int i = 0; i < 3; i++) {
        host[i] = op_host(r, inputs[i]);
        views[i] = dd_tensor_2d(host[i], DD_DTYPE_F32, inputs[i]->shape[0], inputs[i]->shape[1]);
    }
    dd_tensor lse_view = dd_tensor_2d(lse, DD_DTYPE_F32, p->heads, p->queries);
    dd_attention_args a = {.out = dd_tensor_2d(out, DD_DTYPE_F32, p->queries, views[0].shape[1]), .q = views[0], .k = views[1],
                           .v = views[2], .heads = p->heads, .scale = scale, .causal = p->causal, .lse = &lse_view};
    op_ok(r, dd_op_attention(ref, &a, &r->err));
    for (int i = 0; i < 3; i++) free(host[i]);
    dd_backend_close(ref);
}

static void attention_case(op_run *r, const void *param) {
    const attention_param *p = param;
    int64_t columns = (int64_t)p->heads * p->width;
    float scale = 1 / sqrtf((float)p->width);
    dd_reserve sizes = {.attention_queries = p->queries, .attention_keys = p->keys, .attention_heads = p->heads,
                        .attention_head_size = p->width, .gradient_rows = p->queries > p->keys ? p->queries : p->keys};
    op_ok(r, dd_op_reserve(r->b, &sizes, &r->err));
    r->gap = p->gap;
    r->amplitude = p->sharpness;
    dd_tensor *q = op_in2(r, OP_ACT, p->queries, columns), *k = op_in2(r, OP_ACT, p->keys, columns);
    r->amplitude = 1;
    dd_tensor *v = op_in2(r, OP_ACT, p->keys, columns), *dout = op_in2(r, OP_ACT, p->queries, columns);
    float *out_values = malloc((size_t)(p->queries * columns) * sizeof(float));
    float *lse_values = malloc((size_t)(p->queries * p->heads) * sizeof(float));
    if (!out_values || !lse_values) exit(1);
    forward(r, p, scale, (const dd_tensor *[]){q, k, v}, out_values, lse_values);
    dd_tensor *out = op_given(r, OP_ACT, 2, p->queries, columns, 0, out_values);
    dd_tensor *lse = op_given(r, OP_F32, 2, p->heads, p->queries, 0, lse_values);
    free(out_values), free(lse_values);
    dd_tensor *dq = op_out2(r, OP_ACT, p->queries, columns), *dk = op_out2(r, OP_ACT, p->keys, columns);
    dd_tensor *dv = op_out2(r, OP_ACT, p->keys, columns);
    dd_attention_grad_args g = {.dq = *dq, .dk = *dk, .dv = *dv, .dout = *dout, .out = *out, .q = *q, .k = *k, .v = *v,
                                .lse = *lse, .heads = p->heads, .scale = scale, .causal = p->causal};
    op_ok(r, dd_op_attention_grad(r->b, &g, &r->err));
}

/* BF16: P and dS may be rounded before they are multiplied, and the result is rounded: two roundings. F32: the exponent's
 * argument errs by about 1e-7 of its size, which is what the sharp case is about. */
static void compare_attention(dd_test *t, const op_choice *c, attention_param p) {
    char label[96];
    op_bounds bounds = {.f32 = 1e-11, .bf16 = 8e-6};
    if (p.sharpness == 0) p.sharpness = 2;
    else bounds = (op_bounds){.f32 = 1e-9, .bf16 = 1.5e-5};
    if (p.keys == 1) bounds.noise = 1e-6; /* dP and rowsum(dout * out) are the same then, but for rounding */
    snprintf(label, sizeof label, "%lldx%lld %d heads of %d gap %lld%s sharp %g", (long long)p.queries, (long long)p.keys,
             p.heads, p.width, (long long)p.gap, p.causal ? " causal" : "", (double)p.sharpness);
    op_compare(t, c, label, attention_case, &p, bounds);
}

static void attention(dd_test *t, const op_choice *c) {
    static const int widths[] = {16, 24, 32, 40, 64, 96, 128, 2, 10};
    if (!HAS(t, c, attention)) return;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        compare_attention(t, c, (attention_param){.queries = 1, .keys = 1, .heads = 1, .width = widths[i]});
        compare_attention(t, c, (attention_param){.queries = 5, .keys = 70, .heads = 3, .width = widths[i]});
        compare_attention(t, c, (attention_param){.queries = 70, .keys = 5, .heads = 1, .width = widths[i]});
        compare_attention(t, c, (attention_param){.queries = 67, .keys = 67, .heads = 2, .width = widths[i], .gap = 7});
    }
    for (int n = 1; n <= 17; n++) {
        compare_attention(t, c, (attention_param){.queries = n, .keys = 32 + n, .heads = 2, .width = 32});
        if (n % 2) compare_attention(t, c, (attention_param){.queries = 64 + n, .keys = n, .heads = 1, .width = 64});
        else compare_attention(t, c, (attention_param){.queries = n, .keys = n, .heads = 1, .width = 64, .causal = true});
    }
    compare_attention(t, c, (attention_param){.queries = 77, .keys = 77, .heads = 4, .width = 32, .causal = true});
    compare_attention(t, c, (attention_param){.queries = 130, .keys = 130, .heads = 2, .width = 16, .causal = true, .gap = 2});
    compare_attention(t, c, (attention_param){.queries = 9, .keys = 20, .heads = 2, .width = 32, .causal = true});
    compare_attention(t, c, (attention_param){.queries = 20, .keys = 9, .heads = 2, .width = 32, .causal = true});
    compare_attention(t, c, (attention_param){.queries = 50, .keys = 100, .heads = 2, .width = 64, .sharpness = 5});
    compare_attention(t, c, (attention_param){.queries = 280, .keys = 280, .heads = 4, .width = 64});
    compare_attention(t, c, (attention_param){.queries = 300, .keys = 300, .heads = 1, .width = 128, .gap = 16});
    /* So many keys that a head is divided among threads. */
    compare_attention(t, c, (attention_param){.queries = 250, .keys = 700, .heads = 2, .width = 32});
    compare_attention(t, c, (attention_param){.queries = 700, .keys = 900, .heads = 1, .width = 16, .causal = true});
}

/* ------------------------------------------------------------------------------------------------ norms */

typedef struct rows_param {
    int64_t rows, cols, gap;
    int heads, variant; /* bits: see each case */
    dd_activation activation;
} rows_param;

/* variant: 1 scale, 2 dscale, 4 dshift, 8 dy is act */
static void norm_case(op_run *r, const void *param) {
    const rows_param *p = param;
    r->gap = p->gap;
    reserve(r, p->rows);
    dd_tensor *dy = op_in2(r, p->variant & 8 ? OP_ACT : OP_F32, p->rows, p->cols), *x = op_in2(r, OP_F32, p->rows, p->cols);
    dd_norm_grad_args g = {.dx = *sum_of(r, 2, p->rows, p->cols), .dy = *dy, .x = *x, .eps = 1e-6f};
    if (p->variant & 1) g.scale = op_in1(r, p->cols);
    if (p->variant & 2) g.dscale = vector_sum(r, p->cols);
    if (p->variant & 4) g.dshift = vector_sum(r, p->cols);
    op_ok(r, dd_op_norm_grad(r->b, &g, &r->err));
}

/* variant: 1 rope, 2 dweight, 4 dx is dy */
static void qk_case(op_run *r, const void *param) {
    const rows_param *p = param;
    r->gap = p->gap;
    reserve(r, p->rows);
    int64_t columns = p->heads * p->cols;
    dd_tensor *dy = op_new(r, p->variant & 4 ? OP_INOUT : OP_IN, OP_ACT, 2, p->rows, columns, 0);
    dd_tensor *x = op_in2(r, OP_ACT, p->rows, columns), *dx = p->variant & 4 ? dy : op_out2(r, OP_ACT, p->rows, columns);
    dd_qk_norm_rope_grad_args g = {.dx = *dx, .dy = *dy, .x = *x, .heads = p->heads, .weight = op_in1(r, p->cols),
                                   .eps = 1e-6f};
    if (p->variant & 1) g.rope = op_in2(r, OP_F32, p->rows, p->cols);
    if (p->variant & 2) g.dweight = vector_sum(r, p->cols);
    op_ok(r, dd_op_qk_norm_rope_grad(r->b, &g, &r->err));
}

static const char *rows_label(char label[96], const char *name, const rows_param *p) {
    snprintf(label, 96, "%s %lldx%lld gap %lld heads %d activation %d variant %d", name, (long long)p->rows, (long long)p->cols,
             (long long)p->gap, p->heads, (int)p->activation, p->variant);
    return label;
}

static const int64_t row_sizes[][2] = {{1, 3}, {2, 17}, {3, 64}, {5, 31}, {16, 33}, {17, 48}, {40, 100}, {88, 256}, {257, 65},
                                       {300, 130}};

static void norm(dd_test *t, const op_choice *c) {
    if (!HAS(t, c, norm)) return;
    char label[96];
    for (size_t i = 0; i < sizeof row_sizes / sizeof *row_sizes; i++) {
        for (int variant = (int)i % 3; variant < 16; variant += 3) { /* each variant at every third size */
            rows_param p = {.rows = row_sizes[i][0], .cols = row_sizes[i][1], .gap = variant % 3 * 5, .variant = variant};
            op_compare(t, c, rows_label(label, "norm", &p), norm_case, &p, bounds_usual);
        }
    }
}

static void qk_norm_rope(dd_test *t, const op_choice *c) {
    static const int widths[] = {2, 6, 16, 18, 32, 34, 64, 96, 128};
    if (!HAS(t, c, qk_norm_rope)) return;
    char label[96];
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        for (int variant = 0; variant < 8; variant++) {
            rows_param p = {.rows = variant == 7 ? 280 : 1 + 7 * variant, .cols = widths[i], .gap = variant % 3 * 8,
                            .heads = 1 + variant % 4, .variant = variant};
            op_compare(t, c, rows_label(label, "qk", &p), qk_case, &p, bounds_usual);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ pointwise */

/* variant: 1 F32, 2 dx is dy */
static void activation_case(op_run *r, const void *param) {
    const rows_param *p = param;
    r->gap = p->gap;
    reserve(r, p->rows);
    op_kind kind = p->variant & 1 ? OP_F32 : OP_ACT;
    dd_tensor *dy = op_new(r, p->variant & 2 ? OP_INOUT : OP_IN, kind, 2, p->rows, p->cols, 0);
    r->amplitude = 6;
    dd_tensor *x = op_in2(r, kind, p->rows, p->cols), *dx = p->variant & 2 ? dy : op_out2(r, kind, p->rows, p->cols);
    dd_activation_grad_args g = {.dx = *dx, .dy = *dy, .x = *x, .activation = p->activation};
    op_ok(r, dd_op_activation_grad(r->b, &g, &r->err));
}

/* variant: 1 dgate, 2 y is F32 */
static void gate_case(op_run *r, const void *param) {
    const rows_param *p = param;
    r->gap = p->gap;
    reserve(r, p->rows);
    dd_tensor *dy = op_out2(r, OP_ACT, p->rows, p->cols), *dx = op_in2(r, OP_F32, p->rows, p->cols);
    dd_gate_grad_args g = {.dy = *dy, .dx = *dx, .gate = op_in1(r, p->cols)};
    if (p->variant & 1) g.dgate = vector_sum(r, p->cols), g.y = op_in2(r, p->variant & 2 ? OP_F32 : OP_ACT, p->rows, p->cols);
    op_ok(r, dd_op_gate_grad(r->b, &g, &r->err));
}

static void activation(dd_test *t, const op_choice *c) {
    if (!HAS(t, c, activation)) return;
    char label[96];
    for (int kind = DD_ACTIVATION_NONE; kind <= DD_ACTIVATION_QUICK_GELU; kind++) {
        for (size_t i = 0; i < sizeof row_sizes / sizeof *row_sizes; i++) {
            rows_param p = {.rows = row_sizes[i][0], .cols = row_sizes[i][1], .gap = (int64_t)i % 3 * 5,
                            .variant = (int)(i + (size_t)kind) % 4, .activation = (dd_activation)kind};
            op_compare(t, c, rows_label(label, "activation", &p), activation_case, &p, bounds_usual);
        }
    }
}

static void gate(dd_test *t, const op_choice *c) {
    if (!HAS(t, c, gate)) return;
    char label[96];
    for (size_t i = 0; i < sizeof row_sizes / sizeof *row_sizes; i++) {
        for (int variant = 0; variant < 4; variant++) {
            rows_param p = {.rows = row_sizes[i][0], .cols = row_sizes[i][1], .gap = variant * 3, .variant = variant};
            op_compare(t, c, rows_label(label, "gate", &p), gate_case, &p, bounds_usual);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ cells */

typedef struct cells_param {
    int64_t channels, height, width, gap;
    int n, variant; /* 1 dx is F32, 2 dpixel_weight, 4 dpixel_bias */
} cells_param;

enum { MAX_CELLS = 1700 };

/* Every second n x n cell of the latent, those over the edge included. */
static void cells_case(op_run *r, const void *param) {
    const cells_param *p = param;
    int32_t origin[2 * MAX_CELLS];
    int64_t m = 0, cell = 0;
    for (int64_t col = 0; col < p->width; col += p->n) {
        for (int64_t row = 0; row < p->height; row += p->n, cell++) {
            if (cell % 2) continue;
            origin[2 * m] = (int32_t)row;
            origin[2 * m++ + 1] = (int32_t)col;
        }
    }
    r->gap = p->gap;
    reserve(r, m);
    dd_tensor *dx = op_out2(r, p->variant & 1 ? OP_F32 : OP_ACT, m, p->channels * p->n * p->n);
    dd_tensor *dvelocity = op_in3(r, p->channels, p->height, p->width);
    dd_cells_scatter_grad_args g = {.dx = *dx, .dvelocity = *dvelocity, .origin = *op_ints(r, 2, m, 2, origin), .n = p->n};
    if (p->variant & 2) g.z = op_in3(r, p->channels, p->height, p->width);
    if (p->variant & 2) g.dpixel_weight = sum_of(r, 2, p->channels, p->channels);
    if (p->variant & 4) g.dpixel_bias = vector_sum(r, p->channels);
    op_ok(r, dd_op_cells_scatter_grad(r->b, &g, &r->err));
}

static void cells_scatter(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {16, 32, 32}, {16, 34, 50}, {4, 9, 16}};
    if (!HAS(t, c, cells_scatter)) return;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int n = 1; n <= 8; n++) {
            for (int variant = (n + (int)i) % 3; variant < 8; variant += 3) { /* each variant at every third n */
                cells_param p = {.channels = sizes[i][0], .height = sizes[i][1], .width = sizes[i][2], .n = n,
                                 .gap = variant % 3, .variant = variant};
                char label[80];
                snprintf(label, sizeof label, "%lldx%lldx%lld n %d variant %d", (long long)p.channels, (long long)p.height,
                         (long long)p.width, n, variant);
                op_compare(t, c, label, cells_case, &p, bounds_usual);
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------ memory */

enum { RESERVED_ROWS = 150, RESERVED_WIDTH = 128, RESERVED_HEADS = 2 };

/* Every backward pass on the first `rows` rows of matrices [RESERVED_ROWS, RESERVED_WIDTH]: act has eight of the activation
 * dtype, f32 three: one to read, one to add to, and one whose begin serves as vector. Values do not matter. */
static void all_passes(op_run *r, int64_t rows, const dd_weight *w, dd_tensor *const *act, dd_tensor *const *f32) {
    dd_tensor a[8], f[2];
    for (int i = 0; i < 8; i++) a[i] = dd_tensor_rows(*act[i], 0, rows);
    for (int i = 0; i < 2; i++) f[i] = dd_tensor_rows(*f32[i], 0, rows);
    int64_t width = RESERVED_WIDTH / RESERVED_HEADS;
    dd_tensor vector = dd_tensor_1d(f32[2]->data, DD_DTYPE_F32, RESERVED_WIDTH), scale = vector, head = vector;
    dd_tensor lse = dd_tensor_2d(f32[0]->data, DD_DTYPE_F32, RESERVED_HEADS, rows), head_weight;
    scale.data = f32[0]->data;
    head.shape[0] = head.ld = width;
    head_weight = dd_tensor_1d(scale.data, DD_DTYPE_F32, width);
    op_ok(r, dd_op_input_grad(r->b, &(dd_input_grad_args){.dx = f[1], .dy = a[0], .w = w, .scale = 1}, &r->err));
    dd_tensor dw = dd_tensor_rows(*f32[1], 0, RESERVED_WIDTH);
    dd_weight_grad_args weights = {.dw = &dw, .db = &vector, .dy = a[0], .x = &a[1], .scale = 1};
    op_ok(r, dd_op_weight_grad(r->b, &weights, &r->err));
    dd_norm_grad_args norm = {.dx = f[1], .dy = a[0], .x = f[0], .eps = 1, .dshift = &vector};
    op_ok(r, dd_op_norm_grad(r->b, &norm, &r->err));
    dd_qk_norm_rope_grad_args qk = {.dx = a[0], .dy = a[0], .x = a[1], .heads = RESERVED_HEADS, .weight = &head_weight,
                                    .eps = 1, .dweight = &head};
    op_ok(r, dd_op_qk_norm_rope_grad(r->b, &qk, &r->err));
    dd_activation_grad_args activation = {.dx = a[0], .dy = a[0], .x = a[1], .activation = DD_ACTIVATION_GELU_TANH};
    op_ok(r, dd_op_activation_grad(r->b, &activation, &r->err));
    dd_gate_grad_args gated = {.dy = a[0], .dx = f[1], .gate = &scale, .y = &a[1], .dgate = &vector};
    op_ok(r, dd_op_gate_grad(r->b, &gated, &r->err));
    op_ok(r, dd_op_attention_grad(r->b, &(dd_attention_grad_args){.dq = a[0], .dk = a[1], .dv = a[2], .dout = a[3], .out = a[4],
                                                                  .q = a[5], .k = a[6], .v = a[7], .lse = lse,
                                                                  .heads = RESERVED_HEADS, .scale = 0.1f}, &r->err));
}

/* Nothing is allocated in a call once the largest sizes are known. */
static void reserved(dd_test *t, const op_choice *c) {
    if (!c->name || !HAS(t, c, input)) return; /* ref may allocate */
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    dd_backend *b = op_open(t, c, 2, &counting.allocator);
    op_run r = {.t = t, .b = b, .label = "reserved", .rounding = c->activation, .amplitude = 1, .seed = 1};
    dd_weight *w = op_weight(&r, (dd_weight_desc){.kind = DD_WEIGHT_LINEAR, .out = RESERVED_WIDTH, .in = RESERVED_WIDTH,
                                                  .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT}, false);
    dd_tensor *act[8], *f32[3];
    for (int i = 0; i < 8; i++) act[i] = op_in2(&r, OP_ACT, RESERVED_ROWS, RESERVED_WIDTH);
    for (int i = 0; i < 3; i++) f32[i] = op_in2(&r, OP_F32, RESERVED_ROWS, RESERVED_WIDTH);
    dd_reserve sizes = {.attention_queries = RESERVED_ROWS, .attention_keys = RESERVED_ROWS, .attention_heads = RESERVED_HEADS,
                        .attention_head_size = RESERVED_WIDTH / RESERVED_HEADS, .gradient_rows = RESERVED_ROWS,
                        .weights = (const dd_weight *const *)r.weights, .weight_count = 1};
    op_ok(&r, dd_op_reserve(b, &sizes, &r.err));
    size_t before = counting.total;
    for (int64_t rows = RESERVED_ROWS; rows > 0; rows -= 37) all_passes(&r, rows, w, act, f32);
    DD_CHECK(t, counting.total == before);
    for (int i = 0; i < r.tensor_count; i++) dd_op_free(b, r.tensors[i].memory), free(r.tensors[i].before);
    dd_op_weight_free(b, w);
    free(r.weight_data[0]), free(r.weight_data[1]);
    dd_backend_close(b);
    DD_CHECK(t, counting.live == 0);
}

OP_FAMILY(input)
OP_FAMILY(weight)
OP_FAMILY(attention)
OP_FAMILY(norm)
OP_FAMILY(qk_norm_rope)
OP_FAMILY(activation)
OP_FAMILY(gate)
OP_FAMILY(cells_scatter)
OP_FAMILY(reserved)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        OP_FAMILY_CASES(input),        OP_FAMILY_CASES(weight),     OP_FAMILY_CASES(attention), OP_FAMILY_CASES(norm),
        OP_FAMILY_CASES(qk_norm_rope), OP_FAMILY_CASES(activation), OP_FAMILY_CASES(gate),
        OP_FAMILY_CASES(cells_scatter), OP_FAMILY_CASES(reserved),
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
