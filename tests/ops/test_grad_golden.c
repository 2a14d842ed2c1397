/* The backward passes of ref against torch's autograd in float64 (grad.safetensors of tools/make_op_goldens.py). */
#include "ops/op_golden.h"

#include "op/op_grad.h"

static bool begin(golden *g, dd_test *t, const char *family) { return golden_begin(g, t, "grad.safetensors", family); }

/* ref rounds a float64 result once, as the file does. */
static void same(golden *g, const dd_tensor *y, const char *name) { golden_same(g, y, name, 1.5e-7); }

static dd_tensor as_row(const dd_tensor *v) { return dd_tensor_2d(v->data, v->dtype, 1, v->shape[0]); }

static void linear(dd_test *t) {
    golden g;
    if (!begin(&g, t, "linear")) return;
    dd_weight *w = golden_weight(&g, "w", NULL);
    dd_tensor *x = golden_get(&g, "x"), *dy = golden_get(&g, "dy"), *dx = golden_zeros(&g, x);
    dd_tensor *dw = golden_zeros(&g, golden_get(&g, "w")), *db = golden_zeros(&g, golden_get(&g, "b"));
    DD_OK(t, dd_op_input_grad(g.b, &(dd_input_grad_args){.dx = *dx, .dy = *dy, .w = w, .scale = 1}, &t->err));
    same(&g, dx, "dx");
    dx = golden_blank(&g, x);
    DD_OK(t, dd_op_input_grad(g.b, &(dd_input_grad_args){.dx = *dx, .dy = *dy, .w = w, .scale = 1, .replace = true}, &t->err));
    same(&g, dx, "dx");
    DD_OK(t, dd_op_weight_grad(g.b, &(dd_weight_grad_args){.dw = dw, .db = db, .dy = *dy, .x = x, .scale = 1}, &t->err));
    same(&g, dw, "dw");
    same(&g, db, "db");
    dd_op_weight_free(g.b, w);
    golden_end(&g);
}

/* The inputs out and lse are float32, so the gradients carry their rounding: 1e-6. */
static void attention(dd_test *t) {
    for (int causal = 0; causal < 2; causal++) {
        golden g;
        if (!begin(&g, t, causal ? "causal" : "attention")) return;
        dd_tensor *q = golden_get(&g, "q"), *k = golden_get(&g, "k"), *v = golden_get(&g, "v");
        dd_attention_grad_args a = {.dq = *golden_blank(&g, q), .dk = *golden_blank(&g, k), .dv = *golden_blank(&g, v),
                                    .dout = *golden_get(&g, "dy"), .out = *golden_get(&g, "out"), .q = *q, .k = *k, .v = *v,
                                    .lse = *golden_get(&g, "lse"), .heads = 2, .scale = 0.4f, .causal = causal};
        DD_OK(t, dd_op_attention_grad(g.b, &a, &t->err));
        golden_same(&g, &a.dq, "dq", 1e-6);
        golden_same(&g, &a.dk, "dk", 1e-6);
        golden_same(&g, &a.dv, "dv", 1e-6);
        golden_end(&g);
    }
}

static void norm(dd_test *t) {
    golden g;
    if (!begin(&g, t, "norm")) return;
    dd_tensor *x = golden_get(&g, "x"), *scale = golden_get(&g, "scale");
    dd_norm_grad_args a = {.dx = *golden_zeros(&g, x), .dy = *golden_get(&g, "dy"), .x = *x, .eps = 1e-6f, .scale = scale,
                           .dscale = golden_zeros(&g, scale), .dshift = golden_zeros(&g, scale)};
    DD_OK(t, dd_op_norm_grad(g.b, &a, &t->err));
    same(&g, &a.dx, "dx");
    same(&g, a.dscale, "dscale");
    same(&g, a.dshift, "dshift");
    golden_end(&g);
    if (!begin(&g, t, "norm_plain")) return;
    x = golden_get(&g, "x");
    a = (dd_norm_grad_args){.dx = *golden_zeros(&g, x), .dy = *golden_get(&g, "dy"), .x = *x, .eps = 1e-6f};
    DD_OK(t, dd_op_norm_grad(g.b, &a, &t->err));
    same(&g, &a.dx, "dx");
    golden_end(&g);
}

static void qk_norm_rope(dd_test *t) {
    for (int turn = 0; turn < 2; turn++) {
        golden g;
        if (!begin(&g, t, turn ? "qk" : "qk_plain")) return;
        dd_tensor *x = golden_get(&g, "x"), *weight = golden_get(&g, "weight");
        dd_qk_norm_rope_grad_args a = {.dx = *golden_blank(&g, x), .dy = *golden_get(&g, "dy"), .x = *x, .heads = 2,
                                       .weight = weight, .rope = turn ? golden_get(&g, "rope") : NULL, .eps = 1e-6f,
                                       .dweight = golden_zeros(&g, weight)};
        DD_OK(t, dd_op_qk_norm_rope_grad(g.b, &a, &t->err));
        same(&g, &a.dx, "dx");
        same(&g, a.dweight, "dweight");
        golden_end(&g);
    }
}

static void activations(dd_test *t) {
    static const char *const names[] = {[DD_ACTIVATION_NONE] = "none", [DD_ACTIVATION_SILU] = "silu",
                                        [DD_ACTIVATION_GELU_TANH] = "gelu_tanh", [DD_ACTIVATION_GELU_ERF] = "gelu_erf",
                                        [DD_ACTIVATION_QUICK_GELU] = "quick_gelu"};
    golden g;
    if (!begin(&g, t, "activation")) return;
    dd_tensor *x = golden_get(&g, "x"), *dy = golden_get(&g, "dy");
    for (int i = DD_ACTIVATION_NONE; i <= DD_ACTIVATION_QUICK_GELU; i++) {
        dd_tensor *dx = golden_blank(&g, x);
        dd_activation_grad_args a = {.dx = as_row(dx), .dy = as_row(dy), .x = as_row(x), .activation = (dd_activation)i};
        DD_OK(t, dd_op_activation_grad(g.b, &a, &t->err));
        same(&g, dx, names[i]);
    }
    golden_end(&g);
}

static void gate(dd_test *t) {
    golden g;
    if (!begin(&g, t, "gate")) return;
    dd_tensor *y = golden_get(&g, "branch"), *gate = golden_get(&g, "gate"), *dx = golden_get(&g, "dy");
    dd_gate_grad_args a = {.dy = *golden_blank(&g, y), .dx = *dx, .gate = gate, .y = y, .dgate = golden_zeros(&g, gate)};
    DD_OK(t, dd_op_gate_grad(g.b, &a, &t->err));
    same(&g, &a.dy, "dbranch");
    same(&g, a.dgate, "dgate");
    same(&g, dx, "dstream"); /* the stream's own gradient passes through */
    golden_end(&g);
}

static void cells(dd_test *t) {
    golden g;
    if (!begin(&g, t, "cells")) return;
    dd_tensor *dx = golden_blank(&g, golden_get(&g, "x")), *dw = golden_zeros(&g, golden_get(&g, "weight"));
    dd_cells_scatter_grad_args a = {.dx = *dx, .dvelocity = *golden_get(&g, "dy"), .origin = *golden_get(&g, "origin"), .n = 4,
                                    .z = golden_get(&g, "z"), .dpixel_weight = dw,
                                    .dpixel_bias = golden_zeros(&g, golden_get(&g, "bias"))};
    DD_OK(t, dd_op_cells_scatter_grad(g.b, &a, &t->err));
    same(&g, dx, "dx");
    same(&g, dw, "dweight");
    same(&g, a.dpixel_bias, "dbias");
    golden_end(&g);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"input and weight", linear}, {"attention", attention}, {"layer norm", norm},
        {"norm and rotation of q and k", qk_norm_rope}, {"activations", activations}, {"gated sum", gate}, {"cells", cells},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
