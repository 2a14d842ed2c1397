/* What op.c and the registry refuse, and what is the same for every backend: weights, memory, failing allocations. */
#include "ops/op_suite.h"

#include "op/op_grad.h"

enum { OUT = 4, IN = 32, ROWS = 3 };

/* Matrices of the right shapes, which the cases then spoil. */
typedef struct set {
    dd_backend *b;
    float memory[8][512];
    int32_t ints[16];
    dd_weight *w, *conv;
} set;

static dd_tensor matrix(set *s, int which, int64_t rows, int64_t cols) {
    return dd_tensor_2d(s->memory[which], DD_DTYPE_F32, rows, cols);
}
static dd_tensor cube(set *s, int which, int64_t a, int64_t b, int64_t c) {
    return dd_tensor_3d(s->memory[which], DD_DTYPE_F32, a, b, c);
}
static dd_tensor vector(set *s, int which, int64_t n) { return dd_tensor_1d(s->memory[which], DD_DTYPE_F32, n); }

static bool begin(set *s, dd_test *t) {
    *s = (set){0};
    if (dd_ref_open(&s->b, &dd_allocator_libc, &t->err)) return false;
    dd_weight_desc desc = {.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = OUT, .in = IN,
                           .data = s->memory[7]};
    DD_OK(t, dd_op_weight_prepare(s->b, &s->w, &desc, &t->err));
    desc = (dd_weight_desc){.name = "c", .kind = DD_WEIGHT_CONV2D, .dtype = DD_DTYPE_F32, .out = 2, .in = 3, .kh = 3, .kw = 3,
                            .data = s->memory[7]};
    DD_OK(t, dd_op_weight_prepare(s->b, &s->conv, &desc, &t->err));
    return true;
}

static void end(set *s) {
    dd_op_weight_free(s->b, s->w);
    dd_op_weight_free(s->b, s->conv);
    dd_backend_close(s->b);
}

#define REFUSED(call, part) DD_FAILS(t, call, DDIT_ERR_INTERNAL, part)

static void linear(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    const dd_linear_args good = {.y = matrix(&s, 0, ROWS, OUT), .x = matrix(&s, 1, ROWS, IN), .w = s.w};
    dd_linear_args a = good;
    DD_OK(t, dd_op_linear(s.b, &a, &t->err));
    a.x.shape[1] = 31;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "linear: x is [3, 31] F32, expected [3, 32] F32");
    a = good, a.x.dtype = DD_DTYPE_BF16;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "x is [3, 32] BF16");
    a = good, a.y.shape[0] = 2;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "x is [3, 32] F32, expected [2, 32]");
    a = good, a.y.rank = 3;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "expected [any, 4] F32");
    a = good, a.x.ld = 31;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "rows of 32 values that are 31 apart");
    a = good, a.x.data = NULL;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "x has no memory");
    a = good, a.w = NULL;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "the weight is missing");
    a = good, a.w = s.conv;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "is a convolution");
    a = good, a.activation = (dd_activation)9;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "activation 9");
    dd_tensor gate = vector(&s, 2, 5), mul = matrix(&s, 2, ROWS, 5);
    a = good, a.gate = &gate;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "gate is [5] F32, expected [4] F32");
    a = good, a.mul = &mul;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "mul is [3, 5]");
    a = good, a.add = &mul;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "add is [3, 5]");
    dd_lora lora = {.down = s.w, .up = s.w, .scale = 1, .row_end = ROWS};
    a = good, a.lora = &lora, a.lora_count = 1;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "an overlay of down [4, 32] and up [4, 32] lies on a weight [4, 32]");
    a.lora = NULL;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "list of 1 overlays is missing");
    a = good, a.x.shape[0] = a.y.shape[0] = 0, a.x.data = a.y.data = NULL;
    DD_OK(t, dd_op_linear(s.b, &a, &t->err)); /* no rows: nothing to do */
    end(&s);
}

static void sharing_memory(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_tensor wide = matrix(&s, 0, ROWS, IN + OUT), add;
    dd_linear_args a = {.y = dd_tensor_cols(wide, IN, OUT), .x = dd_tensor_cols(wide, 0, IN), .w = s.w};
    DD_OK(t, dd_op_linear(s.b, &a, &t->err)); /* columns of one matrix, side by side */
    a.y = dd_tensor_cols(wide, IN - 1, OUT);
    REFUSED(dd_op_linear(s.b, &a, &t->err), "linear: y shares memory with x");
    a.y = dd_tensor_cols(wide, 0, OUT);
    REFUSED(dd_op_linear(s.b, &a, &t->err), "y shares memory with x");
    a.y = matrix(&s, 1, ROWS, OUT), add = a.y, a.add = &add;
    DD_OK(t, dd_op_linear(s.b, &a, &t->err)); /* y += ... */
    add.data = s.memory[1] + 1;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "y shares memory with add without being the same view");
    add = dd_tensor_rows(matrix(&s, 1, 2 * ROWS, OUT), ROWS, ROWS);
    DD_OK(t, dd_op_linear(s.b, &a, &t->err)); /* the rows below */
    a.add = NULL, a.mul = &add, add = a.y;
    REFUSED(dd_op_linear(s.b, &a, &t->err), "y shares memory with mul");
    dd_tensor x = matrix(&s, 2, 4, 8), single = matrix(&s, 2, 1, 8);
    DD_OK(t, dd_op_affine(s.b, x, 2, x, 0, NULL, DD_ACTIVATION_NONE, &t->err));
    REFUSED(dd_op_affine(s.b, single, 2, dd_tensor_cols(matrix(&s, 2, 1, 9), 1, 8), 0, NULL, DD_ACTIVATION_NONE, &t->err),
            "affine: y");
    DD_OK(t, dd_op_affine(s.b, dd_tensor_rows(x, 0, 1), 2, dd_tensor_rows(x, 1, 1), 0, NULL, DD_ACTIVATION_NONE, &t->err));
    end(&s);
}

static void rows_ops(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_attention_args a = {.out = matrix(&s, 0, 3, 8), .q = matrix(&s, 1, 3, 8), .k = matrix(&s, 2, 5, 8),
                           .v = matrix(&s, 3, 5, 8), .heads = 2};
    DD_OK(t, dd_op_attention(s.b, &a, &t->err));
    a.heads = 3;
    REFUSED(dd_op_attention(s.b, &a, &t->err), "attention: 8 columns do not divide into 3 heads");
    a.heads = 2, a.v.shape[0] = 4;
    REFUSED(dd_op_attention(s.b, &a, &t->err), "attention: v is [4, 8] F32, expected [5, 8] F32");
    a.v.shape[0] = a.k.shape[0] = 0;
    REFUSED(dd_op_attention(s.b, &a, &t->err), "no key");
    a.v = a.k = matrix(&s, 2, 5, 8), a.out = a.q;
    REFUSED(dd_op_attention(s.b, &a, &t->err), "out shares memory with q");
    dd_tensor lse = matrix(&s, 4, 3, 2), weight = vector(&s, 4, 3);
    a.out = matrix(&s, 0, 3, 8), a.lse = &lse;
    REFUSED(dd_op_attention(s.b, &a, &t->err), "lse is [3, 2] F32, expected [2, 3]");
    dd_qk_norm_rope_args q = {.x = matrix(&s, 0, 2, 6), .heads = 2, .weight = &weight};
    REFUSED(dd_op_qk_norm_rope(s.b, &q, &t->err), "heads of 3 values do not divide into pairs");
    q.heads = 1, q.weight = NULL;
    REFUSED(dd_op_qk_norm_rope(s.b, &q, &t->err), "qk_norm_rope: weight is missing");
    dd_norm_args n = {.y = matrix(&s, 0, 3, 4), .x = matrix(&s, 1, 3, 4), .scale = &weight};
    REFUSED(dd_op_norm(s.b, &n, &t->err), "norm: scale is [3] F32, expected [4] F32");
    dd_group_norm_args g = {.y = matrix(&s, 0, 3, 3), .x = matrix(&s, 1, 3, 3), .groups = 2, .weight = &weight,
                            .bias = &weight};
    REFUSED(dd_op_group_norm(s.b, &g, &t->err), "group_norm: 3 channels do not divide into 2 groups");
    g.groups = 3, g.activation = DD_ACTIVATION_GELU_ERF;
    REFUSED(dd_op_group_norm(s.b, &g, &t->err), "only none and SiLU");
    dd_conv2d_args c = {.y = matrix(&s, 0, 6, 2), .x = matrix(&s, 1, 6, 3), .height = 2, .width = 3, .w = s.conv};
    DD_OK(t, dd_op_conv2d(s.b, &c, &t->err));
    c.height = 3;
    REFUSED(dd_op_conv2d(s.b, &c, &t->err), "conv2d: y is [6, 2] F32, expected [9, 2]");
    c.w = s.w;
    REFUSED(dd_op_conv2d(s.b, &c, &t->err), "not a convolution");
    s.ints[1] = 7;
    dd_tensor ids = dd_tensor_1d(s.ints, DD_DTYPE_I32, 2), y = matrix(&s, 0, 2, 4);
    REFUSED(dd_op_gather_rows(s.b, y, matrix(&s, 1, 7, 4), ids, &t->err), "id 7 at row 1 is not in a table of 7 rows");
    REFUSED(dd_op_gather_rows(s.b, y, matrix(&s, 1, 7, 4), vector(&s, 2, 2), &t->err),
            "gather_rows: ids is [2] F32, expected [2] I32");
    REFUSED(dd_op_upsample2x(s.b, matrix(&s, 0, 4, 4), matrix(&s, 1, 4, 4), 2, 2, &t->err), "upsample2x: y is [4, 4]");
    end(&s);
}

static void latent_ops(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_tensor z = cube(&s, 1, 2, 4, 6), origin = dd_tensor_2d(s.ints, DD_DTYPE_I32, 1, 2), odd = cube(&s, 2, 2, 4, 5);
    dd_cells_gather_args g = {.y = matrix(&s, 0, 1, 8), .latent = z, .origin = origin, .n = 2};
    DD_OK(t, dd_op_cells_gather(s.b, &g, &t->err));
    g.n = 3;
    REFUSED(dd_op_cells_gather(s.b, &g, &t->err), "cells_gather: y is [1, 8] F32, expected [any, 18]");
    g.n = 0;
    REFUSED(dd_op_cells_gather(s.b, &g, &t->err), "n is 0");
    dd_tensor bias = vector(&s, 3, 2);
    dd_cells_scatter_args c = {.velocity = cube(&s, 0, 2, 4, 6), .x = matrix(&s, 4, 1, 8), .origin = origin, .n = 2,
                               .pixel_bias = &bias};
    REFUSED(dd_op_cells_scatter(s.b, &c, &t->err), "come together");
    dd_tensor weight = matrix(&s, 5, 2, 2);
    c.pixel_weight = &weight;
    REFUSED(dd_op_cells_scatter(s.b, &c, &t->err), "cells_scatter: z is missing");
    c.z = &z;
    DD_OK(t, dd_op_cells_scatter(s.b, &c, &t->err));
    float stds[8];
    dd_patch_stats_args p = {.latents = {&z, &odd}, .order = 1, .n = 2, .stds = stds};
    REFUSED(dd_op_patch_stats(s.b, &p, &t->err), "patch_stats: an older latent is [2, 4, 5]");
    p.latents[1] = &z, p.order = 4;
    REFUSED(dd_op_patch_stats(s.b, &p, &t->err), "the order is 4");
    p.order = 2;
    REFUSED(dd_op_patch_stats(s.b, &p, &t->err), "an older latent is missing");
    REFUSED(dd_op_pool_mean(s.b, cube(&s, 0, 2, 2, 2), odd, 2, 1, &t->err), "a latent of 4 x 5 does not divide by 2");
    dd_coarse_lift_args l = {.velocity = cube(&s, 0, 2, 4, 6), .z = z, .z_small = cube(&s, 3, 2, 2, 3),
                             .v_small = cube(&s, 4, 2, 2, 3), .k = 2};
    REFUSED(dd_op_coarse_lift(s.b, &l, &t->err), "sigma is 0");
    l.sigma = 1, l.v_small = cube(&s, 4, 2, 2, 4);
    REFUSED(dd_op_coarse_lift(s.b, &l, &t->err), "coarse_lift: v_small is [2, 2, 4]");
    REFUSED(dd_op_channels_last(s.b, matrix(&s, 0, 24, 3), z, 1, 0, &t->err),
            "channels_last: y is [24, 3] F32, expected [24, 2]");
    end(&s);
}

static void linear_gradients(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    const dd_input_grad_args good = {.dx = matrix(&s, 0, ROWS, IN), .dy = matrix(&s, 1, ROWS, OUT), .w = s.w, .scale = 1};
    dd_input_grad_args i = good;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "[4, 32] was not prepared for the input gradient");
    i.w = NULL;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "input_grad: the weight is missing");
    i.w = s.conv;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "is a convolution");
    i = good, i.dx.shape[1] = 31;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "input_grad: dx is [3, 31] F32, expected [3, 32] F32");
    i = good, i.dy.dtype = DD_DTYPE_BF16;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "dy is [3, 4] BF16");
    s.b->activation = DD_DTYPE_BF16;
    i = good, i.dx.dtype = DD_DTYPE_BF16;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "dx is [3, 32] BF16, expected [3, 32] F32"); /* only F32 is added to */
    i.replace = true;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "was not prepared");
    s.b->activation = DD_DTYPE_F32;
    i = good, i.dx.data = s.memory[1] + 1;
    REFUSED(dd_op_input_grad(s.b, &i, &t->err), "dx shares memory with dy");
    i = good, i.dx.shape[0] = i.dy.shape[0] = 0;
    DD_OK(t, dd_op_input_grad(s.b, &i, &t->err)); /* nothing to do */

    dd_tensor dw = matrix(&s, 2, OUT, IN), db = vector(&s, 3, OUT), x = matrix(&s, 4, ROWS, IN);
    dd_weight_grad_args g = {.dw = &dw, .db = &db, .dy = matrix(&s, 1, ROWS, OUT), .scale = 1};
    REFUSED(dd_op_weight_grad(s.b, &g, &t->err), "weight_grad: x is missing");
    g.x = &x;
    DD_OK(t, dd_op_weight_grad(s.b, &g, &t->err));
    dw.shape[1] = 31;
    REFUSED(dd_op_weight_grad(s.b, &g, &t->err), "dw is [4, 31] F32, expected [4, 32] F32");
    dw.shape[1] = 32, db.shape[0] = 3;
    REFUSED(dd_op_weight_grad(s.b, &g, &t->err), "db is [3] F32, expected [4] F32");
    db = vector(&s, 2, OUT);
    REFUSED(dd_op_weight_grad(s.b, &g, &t->err), "db shares memory with dw");
    db = vector(&s, 3, OUT), x.dtype = DD_DTYPE_BF16, s.b->activation = DD_DTYPE_BF16;
    REFUSED(dd_op_weight_grad(s.b, &g, &t->err), "x is [3, 32] BF16, expected [3, any] F32"); /* as dy is */
    g.dw = g.db = NULL;
    DD_OK(t, dd_op_weight_grad(s.b, &g, &t->err)); /* nothing is wanted */
    end(&s);
}

static void attention_gradients(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    const dd_attention_grad_args good = {.dq = matrix(&s, 0, 3, 4), .dk = matrix(&s, 1, 5, 4), .dv = matrix(&s, 2, 5, 4),
                                         .dout = matrix(&s, 3, 3, 4), .out = matrix(&s, 4, 3, 4), .q = matrix(&s, 5, 3, 4),
                                         .k = matrix(&s, 6, 5, 4), .v = matrix(&s, 7, 5, 4),
                                         .lse = dd_tensor_2d(s.memory[4] + 100, DD_DTYPE_F32, 2, 3), .heads = 2};
    dd_attention_grad_args a = good;
    DD_OK(t, dd_op_attention_grad(s.b, &a, &t->err));
    a.heads = 3;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "attention_grad: 4 columns do not divide into 3 heads");
    a = good, a.heads = 1;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "lse is [2, 3] F32, expected [1, 3] F32");
    a = good, a.dv.shape[0] = 3;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "dv is [3, 4] F32, expected [5, 4] F32");
    a = good, a.out.dtype = DD_DTYPE_BF16;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "out is [3, 4] BF16, expected [3, 4] F32");
    a = good, a.k.shape[0] = a.v.shape[0] = a.dk.shape[0] = a.dv.shape[0] = 0;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "there are no keys");
    a = good, a.dk = a.dv;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "dv shares memory with dk");
    a = good, a.dq = a.dout;
    REFUSED(dd_op_attention_grad(s.b, &a, &t->err), "dq shares memory with dout");

    dd_tensor weight = vector(&s, 3, 4), rope = matrix(&s, 4, 2, 4), dweight = vector(&s, 5, 4);
    const dd_qk_norm_rope_grad_args turn = {.dx = matrix(&s, 0, 3, 8), .dy = matrix(&s, 1, 3, 8), .x = matrix(&s, 2, 3, 8),
                                            .heads = 2, .weight = &weight, .dweight = &dweight};
    dd_qk_norm_rope_grad_args q = turn;
    q.dx = q.dy;
    DD_OK(t, dd_op_qk_norm_rope_grad(s.b, &q, &t->err)); /* in place */
    q.dx = q.x;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "qk_norm_rope_grad: dx shares memory with x");
    q.dx = q.dy, q.dx.data = s.memory[1] + 1;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "dx shares memory with dy without being the same view");
    q = turn, q.rope = &rope;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "rope is [2, 4] F32, expected [3, 4] F32");
    q = turn, q.weight = NULL;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "weight is missing");
    q = turn, q.dweight = &weight;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "dweight shares memory with weight");
    q = turn, q.heads = 8;
    REFUSED(dd_op_qk_norm_rope_grad(s.b, &q, &t->err), "heads of 1 values do not divide into pairs");
    end(&s);
}

static void pointwise_gradients(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_tensor three = vector(&s, 3, 3), four = vector(&s, 4, 4), other = vector(&s, 5, 4), matrix_y = matrix(&s, 6, 3, 4);
    const dd_norm_grad_args norm = {.dx = matrix(&s, 0, 3, 4), .dy = matrix(&s, 1, 3, 4), .x = matrix(&s, 2, 3, 4)};
    dd_norm_grad_args n = norm;
    DD_OK(t, dd_op_norm_grad(s.b, &n, &t->err));
    n.scale = &three;
    REFUSED(dd_op_norm_grad(s.b, &n, &t->err), "norm_grad: scale is [3] F32, expected [4] F32");
    n = norm, n.dx = n.x;
    REFUSED(dd_op_norm_grad(s.b, &n, &t->err), "dx shares memory with x");
    n = norm, n.dscale = n.dshift = &four;
    REFUSED(dd_op_norm_grad(s.b, &n, &t->err), "dshift shares memory with dscale");
    n = norm, n.dscale = n.scale = &four;
    REFUSED(dd_op_norm_grad(s.b, &n, &t->err), "dscale shares memory with scale");
    n = norm, n.dy.shape[0] = 2;
    REFUSED(dd_op_norm_grad(s.b, &n, &t->err), "dy is [2, 4] F32, expected [3, 4] F32");

    dd_activation_grad_args a = {.dx = matrix(&s, 0, 3, 4), .dy = matrix(&s, 1, 3, 4), .x = matrix(&s, 2, 3, 4)};
    DD_OK(t, dd_op_activation_grad(s.b, &a, &t->err));
    a.activation = (dd_activation)7;
    REFUSED(dd_op_activation_grad(s.b, &a, &t->err), "activation_grad: activation 7 is not known");
    a.activation = DD_ACTIVATION_SILU, a.dx = a.x;
    REFUSED(dd_op_activation_grad(s.b, &a, &t->err), "dx shares memory with x");
    a.dx = a.dy, a.dy.dtype = DD_DTYPE_BF16;
    REFUSED(dd_op_activation_grad(s.b, &a, &t->err), "dy is [3, 4] BF16, expected [3, 4] F32");

    const dd_gate_grad_args gate = {.dy = matrix(&s, 0, 3, 4), .dx = matrix(&s, 1, 3, 4), .gate = &four};
    dd_gate_grad_args g = gate;
    DD_OK(t, dd_op_gate_grad(s.b, &g, &t->err));
    g.dgate = &other;
    REFUSED(dd_op_gate_grad(s.b, &g, &t->err), "gate_grad: y is missing");
    g.y = &matrix_y;
    DD_OK(t, dd_op_gate_grad(s.b, &g, &t->err));
    g.dgate = &four;
    REFUSED(dd_op_gate_grad(s.b, &g, &t->err), "dgate shares memory with gate");
    g = gate, g.gate = NULL;
    REFUSED(dd_op_gate_grad(s.b, &g, &t->err), "gate is missing");

    dd_tensor z = cube(&s, 1, 2, 4, 6), weight = matrix(&s, 2, 2, 2);
    dd_cells_scatter_grad_args c = {.dx = matrix(&s, 0, 1, 8), .dvelocity = cube(&s, 7, 2, 4, 6), .n = 2,
                                    .origin = dd_tensor_2d(s.ints, DD_DTYPE_I32, 1, 2), .dpixel_weight = &weight};
    REFUSED(dd_op_cells_scatter_grad(s.b, &c, &t->err), "cells_scatter_grad: z is missing");
    c.z = &z;
    DD_OK(t, dd_op_cells_scatter_grad(s.b, &c, &t->err));
    c.dpixel_bias = &three;
    REFUSED(dd_op_cells_scatter_grad(s.b, &c, &t->err), "dpixel_bias is [3] F32, expected [2] F32");
    c.dpixel_bias = NULL, c.n = 3;
    REFUSED(dd_op_cells_scatter_grad(s.b, &c, &t->err), "dx is [1, 8] F32, expected [any, 18]");
    c.n = 0;
    REFUSED(dd_op_cells_scatter_grad(s.b, &c, &t->err), "n is 0");
    end(&s);
}

static void missing_slots(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_backend_ops none = {.name = "none"};
    dd_backend empty = {.ops = &none, .activation = DD_DTYPE_F32};
    dd_linear_args a = {0};
    dd_grad_ops no_grads = {0};
    dd_backend *lane = s.b;
    dd_weight *w = NULL;
    DD_FAILS(t, dd_op_linear(&empty, &a, &t->err), DDIT_ERR_UNSUPPORTED, "backend none does not have the operation linear");
    for (int turn = 0; turn < 2; turn++) {
#define MISSING(op)                                                                                                            \
    DD_FAILS(t, dd_op_##op##_grad(&empty, &(dd_##op##_grad_args){0}, &t->err), DDIT_ERR_UNSUPPORTED, #op "_grad")
        MISSING(input);
        MISSING(weight);
        MISSING(attention);
        MISSING(norm);
        MISSING(qk_norm_rope);
        MISSING(activation);
        MISSING(gate);
        MISSING(cells_scatter);
#undef MISSING
        none.grad = &no_grads; /* a table without these slots */
    }
    DD_FAILS(t, dd_op_weight_update(&empty, s.w, &(dd_weight_desc){0}, &t->err), DDIT_ERR_UNSUPPORTED, "weight_update");
    DD_FAILS(t, dd_op_lane_open(&empty, 0, &lane, &t->err), DDIT_ERR_UNSUPPORTED, "lane_open");
    DD_CHECK(t, lane == NULL);
    dd_op_lane_close(NULL);
    DD_FAILS(t, dd_op_weight_prepare(&empty, &w, &(dd_weight_desc){0}, &t->err), DDIT_ERR_UNSUPPORTED, "weight_prepare");
    DD_FAILS(t, dd_op_sync(&empty, &t->err), DDIT_ERR_UNSUPPORTED, "sync");
    end(&s);
}

/* ------------------------------------------------------------------------------------------------ weights */

static void weight_refusals(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_weight *w = s.w;
    const dd_weight_desc good = {.name = "blocks.0.w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = 2, .in = 8,
                                 .data = s.memory[0]};
    dd_weight_desc d = good;
    d.dtype = DD_DTYPE_I32;
    DD_FAILS(t, dd_op_weight_prepare(s.b, &w, &d, &t->err), DDIT_ERR_UNSUPPORTED, "blocks.0.w [2, 8] has values of dtype I32");
    DD_CHECK(t, w == NULL);
    d = good, d.bias = s.memory[1], d.bias_dtype = DD_DTYPE_U8;
    DD_FAILS(t, dd_op_weight_prepare(s.b, &w, &d, &t->err), DDIT_ERR_UNSUPPORTED, "a bias of dtype U8");
    d = good, d.data = NULL;
    REFUSED(dd_op_weight_prepare(s.b, &w, &d, &t->err), "blocks.0.w is [2, 8] without data");
    d = good, d.dtype = DD_DTYPE_Q8_0;
    REFUSED(dd_op_weight_prepare(s.b, &w, &d, &t->err), "does not divide into rows of Q8_0");
    d = good, d.out = INT64_MAX / 2, d.in = INT64_MAX / 2;
    REFUSED(dd_op_weight_prepare(s.b, &w, &d, &t->err), "does not divide into rows");
    d = good, d.kind = DD_WEIGHT_CONV2D, d.kh = 3, d.kw = 1;
    REFUSED(dd_op_weight_prepare(s.b, &w, &d, &t->err), "3 x 1 convolution");
    end(&s);
}

static void weight_updates(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_weight *w = NULL;
    uint64_t seed = 9;
    for (int i = 0; i < 64; i++) s.memory[0][i] = dd_test_random(&seed), s.memory[1][i] = dd_test_random(&seed);
    uint16_t halves[16];
    for (int i = 0; i < 16; i++) halves[i] = dd_bf16_from_f32(s.memory[1][i]);
    dd_weight_desc d = {.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_BF16, .out = 2, .in = 8, .data = halves,
                        .bias = s.memory[1], .bias_dtype = DD_DTYPE_F32, .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_UPDATES};
    DD_OK(t, dd_op_weight_prepare(s.b, &w, &d, &t->err));
    memset(halves, 0, sizeof halves); /* it has values of its own */
    dd_weight_info info = dd_op_weight_info(s.b, w);
    DD_CHECK(t, !info.is_view && info.bytes == 18 * sizeof(float));
    dd_linear_args a = {.y = matrix(&s, 3, 3, 2), .x = matrix(&s, 0, 3, 8), .w = w};
    DD_OK(t, dd_op_linear(s.b, &a, &t->err));
    double expected = s.memory[1][1];
    for (int i = 0; i < 8; i++)
        expected += (double)s.memory[0][i] * dd_f32_from_bf16(dd_bf16_from_f32(s.memory[1][8 + i]));
    DD_CHECK(t, fabs(s.memory[3][1] - expected) < 1e-6);
    REFUSED(dd_op_weight_update(s.b, w, &d, &t->err), "weight w has new values of dtype BF16, expected F32");
    d.dtype = DD_DTYPE_F32, d.data = s.memory[0];
    DD_OK(t, dd_op_weight_update(s.b, w, &d, &t->err));
    DD_OK(t, dd_op_linear(s.b, &a, &t->err));
    expected = s.memory[1][0];
    for (int i = 0; i < 8; i++) expected += (double)s.memory[0][i] * s.memory[0][i];
    DD_CHECK(t, fabs(s.memory[3][0] - expected) < 1e-6);
    DD_FAILS(t, dd_op_weight_update(s.b, s.w, &(dd_weight_desc){.name = "v", .kind = DD_WEIGHT_LINEAR, .out = OUT, .in = IN,
                                                               .data = s.memory[0]}, &t->err),
             DDIT_ERR_INTERNAL, "weight v [4, 32] was not prepared for new values");
    dd_weight_desc wrong = d;
    wrong.bias = NULL;
    REFUSED(dd_op_weight_update(s.b, w, &wrong, &t->err), "weight w has a bias, its new values have none");
    wrong = d, wrong.in = 7;
    REFUSED(dd_op_weight_update(s.b, w, &wrong, &t->err), "weight w is [2, 8], its new values [2, 7]");
    wrong = d, wrong.data = NULL;
    REFUSED(dd_op_weight_update(s.b, w, &wrong, &t->err), "no new values");
    dd_op_weight_free(s.b, w);
    end(&s);
}

static void lanes(dd_test *t) {
    set s;
    if (!begin(&s, t)) return;
    dd_backend *lane = NULL;
    REFUSED(dd_op_lane_open(s.b, -1, &lane, &t->err), "lane -1 of 1 was asked for");
    REFUSED(dd_op_lane_open(s.b, 1, &lane, &t->err), "lane 1 of 1 was asked for");
    DD_CHECK(t, lane == NULL);
    DD_NEED_OK(t, dd_op_lane_open(s.b, 0, &lane, &t->err));
    DD_CHECK(t, lane->threads == 1 && lane->activation == s.b->activation);
    dd_linear_args a = {.y = matrix(&s, 0, ROWS, OUT), .x = matrix(&s, 1, ROWS, IN), .w = s.w};
    DD_OK(t, dd_op_linear(lane, &a, &t->err)); /* the weight is the main backend's */
    dd_op_lane_close(lane);
    end(&s);
}

/* Q8_0 blocks of random bytes with scales near 1/64. */
static void fill_blocks(uint8_t *bytes, size_t blocks, uint64_t *seed) {
    for (size_t i = 0; i < blocks; i++) {
        uint16_t scale = dd_f16_from_f32((1.5f + dd_test_random(seed)) / 64);
        memcpy(bytes + i * DD_Q8_0_BYTES, &scale, sizeof scale);
        for (int j = 2; j < DD_Q8_0_BYTES; j++) bytes[i * DD_Q8_0_BYTES + (size_t)j] = (uint8_t)dd_test_random_u32(seed);
    }
}

/* A weight is not a tensor: quantised blocks, and every float dtype at odd addresses, are multiplied where they lie. */
static void weights_of_any_dtype(dd_test *t) {
    enum { N = 6, K = 96 };
    static const dd_dtype dtypes[] = {DD_DTYPE_Q8_0, DD_DTYPE_BF16, DD_DTYPE_F16, DD_DTYPE_F32};
    uint8_t bytes[1 + N * K * 4];
    float plain[N * K], x[ROWS * K], y[ROWS * N], expected[ROWS * N], bias[N];
    uint64_t seed = 3;
    dd_backend *b = NULL;
    DD_NEED_OK(t, dd_ref_open(&b, &dd_allocator_libc, &t->err));
    for (int i = 0; i < ROWS * K; i++) x[i] = dd_test_random(&seed);
    for (int i = 0; i < N; i++) bias[i] = dd_test_random(&seed);
    for (int d = 0; d < 4; d++) {
        uint8_t *data = bytes + 1; /* as in a file: not aligned */
        fill_blocks(data, N * K / 32, &seed);
        for (int i = 0; d > 0 && i < N * K; i++) {
            float v = dd_test_random(&seed);
            uint16_t half = d == 1 ? dd_bf16_from_f32(v) : dd_f16_from_f32(v);
            if (d == 3) memcpy(data + 4 * i, &v, 4);
            else memcpy(data + 2 * i, &half, 2);
        }
        DD_OK(t, dd_to_f32(plain, data, dtypes[d], N * K, &t->err));
        dd_weight_desc desc = {.name = "w", .kind = DD_WEIGHT_LINEAR, .dtype = dtypes[d], .out = N, .in = K, .data = data,
                               .bias = bias, .bias_dtype = DD_DTYPE_F32};
        dd_weight *packed = NULL, *dense = NULL;
        DD_OK(t, dd_op_weight_prepare(b, &packed, &desc, &t->err));
        dd_weight_info info = dd_op_weight_info(b, packed);
        DD_CHECK(t, info.is_view && info.bytes == sizeof bias && info.out == N && info.in == K); /* nothing is unpacked */
        desc.dtype = DD_DTYPE_F32, desc.data = plain;
        DD_OK(t, dd_op_weight_prepare(b, &dense, &desc, &t->err));
        dd_linear_args a = {.y = dd_tensor_2d(y, DD_DTYPE_F32, ROWS, N), .x = dd_tensor_2d(x, DD_DTYPE_F32, ROWS, K),
                            .w = packed};
        DD_OK(t, dd_op_linear(b, &a, &t->err));
        a.w = dense, a.y.data = expected;
        DD_OK(t, dd_op_linear(b, &a, &t->err));
        DD_CHECK(t, memcmp(y, expected, sizeof y) == 0);
        dd_op_weight_free(b, packed);
        dd_op_weight_free(b, dense);
    }
    dd_backend_close(b);
}

/* Tables of embeddings in any float dtype. */
static void tables_of_any_dtype(dd_test *t) {
    enum { V = 5, D = 64 };
    uint8_t bytes[V * D * 2];
    float plain[V * D], y[3 * D];
    int32_t ids[3] = {4, 0, 4};
    uint64_t seed = 8;
    dd_backend *b = NULL;
    DD_NEED_OK(t, dd_ref_open(&b, &dd_allocator_libc, &t->err));
    for (int d = 0; d < 2; d++) {
        fill_blocks(bytes, V * D / 32, &seed);
        for (int i = 0; d && i < V * D; i++) {
            uint16_t half = dd_f16_from_f32(dd_test_random(&seed));
            memcpy(bytes + 2 * i, &half, 2);
        }
        dd_tensor table = dd_tensor_2d(bytes, d ? DD_DTYPE_F16 : DD_DTYPE_Q8_0, V, D);
        DD_OK(t, dd_to_f32(plain, bytes, table.dtype, V * D, &t->err));
        DD_OK(t, dd_op_gather_rows(b, dd_tensor_2d(y, DD_DTYPE_F32, 3, D), table, dd_tensor_1d(ids, DD_DTYPE_I32, 3), &t->err));
        for (int i = 0; i < 3; i++) DD_CHECK(t, memcmp(y + i * D, plain + ids[i] * D, D * sizeof *y) == 0);
    }
    dd_backend_close(b);
}

/* Every backward pass that allocates, with a weight [8, 8]. */
static ddit_status all_gradients(dd_backend *b, const dd_weight *w, ddit_err *err) {
    float memory[10][64] = {{0}};
    dd_tensor m[10], x[4];
    for (int i = 0; i < 10; i++) m[i] = dd_tensor_2d(memory[i], DD_DTYPE_F32, 2, 8);
    for (int i = 0; i < 4; i++) x[i] = dd_tensor_1d(memory[6 + i], DD_DTYPE_F32, 8);
    dd_tensor square = dd_tensor_2d(memory[4], DD_DTYPE_F32, 8, 8), lse = dd_tensor_2d(memory[9], DD_DTYPE_F32, 1, 2);
    int32_t zeros[4] = {0};
    DD_TRY(dd_op_input_grad(b, &(dd_input_grad_args){.dx = m[0], .dy = m[1], .w = w, .scale = 1}, err));
    DD_TRY(dd_op_weight_grad(b, &(dd_weight_grad_args){.dw = &square, .dy = m[1], .x = &m[2], .scale = 1}, err));
    DD_TRY(dd_op_attention_grad(b, &(dd_attention_grad_args){.dq = m[0], .dk = m[1], .dv = m[2], .dout = m[3], .out = m[4],
                                                             .q = m[5], .k = m[6], .v = m[7], .lse = lse, .heads = 1}, err));
    DD_TRY(dd_op_norm_grad(b, &(dd_norm_grad_args){.dx = m[0], .dy = m[1], .x = m[2], .eps = 1, .dscale = &x[0]}, err));
    DD_TRY(dd_op_qk_norm_rope_grad(b, &(dd_qk_norm_rope_grad_args){.dx = m[0], .dy = m[1], .x = m[2], .heads = 1, .eps = 1,
                                                                   .weight = &x[0]}, err));
    return dd_op_cells_scatter_grad(b, &(dd_cells_scatter_grad_args){
        .dx = m[0], .dvelocity = dd_tensor_3d(memory[1], DD_DTYPE_F32, 2, 2, 2), .n = 2,
        .origin = dd_tensor_2d(zeros, DD_DTYPE_I32, 2, 2)}, err);
}

/* Allocation 1, 2, 3 ... of these ops fails: a sentence, no leak, and at last success. */
static void failing_allocations(dd_test *t) {
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    static float data[1024];
    for (size_t n = 1; n < 64; n++) {
        counting.fail_at = counting.total + n;
        dd_backend *b = NULL;
        dd_weight *w = NULL, *down = NULL, *up = NULL;
        ddit_status status = dd_ref_open(&b, &counting.allocator, &t->err);
        dd_weight_desc desc = {.kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = 8, .in = 8, .data = data, .bias = data,
                               .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT | DD_WEIGHT_UPDATES};
        if (!status) status = dd_op_weight_prepare(b, &w, &desc, &t->err);
        desc.bias = NULL;
        if (!status) status = dd_op_weight_prepare(b, &down, &desc, &t->err);
        if (!status) status = dd_op_weight_prepare(b, &up, &desc, &t->err);
        dd_lora lora = {.down = down, .up = up, .scale = 1, .row_end = 2};
        dd_tensor x = dd_tensor_2d(data + 512, DD_DTYPE_F32, 2, 8), y = dd_tensor_2d(data + 768, DD_DTYPE_F32, 2, 8);
        if (!status) status = dd_op_linear(b, &(dd_linear_args){.y = y, .x = x, .w = w, .lora = &lora, .lora_count = 1},
                                           &t->err);
        if (!status) status = dd_op_attention(b, &(dd_attention_args){.out = y, .q = x, .k = x, .v = x, .heads = 2}, &t->err);
        if (!status) status = all_gradients(b, w, &t->err);
        dd_backend *lane = NULL;
        if (!status) status = dd_op_lane_open(b, 0, &lane, &t->err);
        dd_op_lane_close(lane);
        if (b) dd_op_weight_free(b, w), dd_op_weight_free(b, down), dd_op_weight_free(b, up);
        dd_backend_close(b);
        DD_CHECK(t, counting.live == 0);
        if (status == DDIT_OK) {
            DD_CHECK(t, n > 23);
            return;
        }
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
    }
    DD_CHECK(t, !"it never succeeded");
}

/* ------------------------------------------------------------------------------------------------ registry */

static void registry(dd_test *t) {
    dd_backend *b = NULL;
    DD_FAILS(t, dd_backend_open(&b, "gpu", DD_PRECISION_AUTO, 0, &dd_allocator_libc, &t->err), DDIT_ERR_UNSUPPORTED,
             "backend \"gpu\"");
    DD_FAILS(t, dd_backend_open(&b, "ref", DD_PRECISION_BF16, 0, &dd_allocator_libc, &t->err), DDIT_ERR_UNSUPPORTED,
             "float32 only");
    DD_FAILS(t, dd_backend_open(&b, NULL, DD_PRECISION_AUTO, -1, &dd_allocator_libc, &t->err), DDIT_ERR_ARGUMENT, "-1 threads");
    dd_backend_close(NULL);
    static const char *const names[] = {NULL, "cpu", "cpu-onednn", "ref"};
    for (int i = 0; i < 4; i++) {
        DD_NEED_OK(t, dd_backend_open(&b, names[i], DD_PRECISION_F32, 2, &dd_allocator_libc, &t->err));
        DD_CHECK(t, b->activation == DD_DTYPE_F32 && b->threads == (i == 3 ? 1 : 2) && b->device);
        dd_backend_close(b);
        DD_NEED_OK(t, dd_backend_open(&b, names[i], DD_PRECISION_AUTO, 0, &dd_allocator_libc, &t->err));
        DD_CHECK(t, b->threads >= 1);
        void *memory = NULL;
        DD_OK(t, dd_op_alloc(b, &memory, 100, "a test", &t->err));
        DD_CHECK(t, (uintptr_t)memory % 64 == 0);
        dd_op_free(b, memory);
        dd_op_free(b, NULL);
        dd_backend_close(b);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"linear refuses", linear}, {"views that share memory", sharing_memory}, {"ops on rows refuse", rows_ops},
        {"ops on latents refuse", latent_ops}, {"backward passes of linear refuse", linear_gradients},
        {"backward passes of attention refuse", attention_gradients}, {"other backward passes refuse", pointwise_gradients},
        {"missing slots", missing_slots},
        {"weights refuse", weight_refusals}, {"new values of weights", weight_updates}, {"lanes", lanes},
        {"weights of any dtype", weights_of_any_dtype},
        {"tables of any dtype", tables_of_any_dtype}, {"failing allocations", failing_allocations}, {"registry", registry},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
