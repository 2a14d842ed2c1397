/* ref against torch in float64 (ops.safetensors of tools/make_op_goldens.py), so that the truth of the other tests has a
 * witness of its own. */
#include "ops/op_golden.h"

static bool begin(golden *g, dd_test *t, const char *family) { return golden_begin(g, t, "ops.safetensors", family); }
static void end(golden *g) { golden_end(g); }
static dd_tensor *get(golden *g, const char *name) { return golden_get(g, name); }
static dd_tensor *blank(golden *g, const dd_tensor *like) { return golden_blank(g, like); }
static dd_weight *weight(golden *g, const char *name, const dd_tensor *bias) { return golden_weight(g, name, bias); }

/* ref rounds a float64 result once, as the file does: a part in 2^24, and as much for cancellation. */
static void same(golden *g, const dd_tensor *y, const char *name) { golden_same(g, y, name, 1.5e-7); }

static dd_tensor as_row(const dd_tensor *v) { return dd_tensor_2d(v->data, v->dtype, 1, v->shape[0]); }

static void activations(dd_test *t) {
    static const struct { const char *name; dd_activation activation; } all[] = {
        {"x", DD_ACTIVATION_NONE}, {"silu", DD_ACTIVATION_SILU}, {"gelu_tanh", DD_ACTIVATION_GELU_TANH},
        {"gelu_erf", DD_ACTIVATION_GELU_ERF}, {"quick_gelu", DD_ACTIVATION_QUICK_GELU}};
    golden g;
    if (!begin(&g, t, "activation")) return;
    for (int i = 0; i < 5; i++) {
        dd_tensor *x = get(&g, "x"), *y = blank(&g, x);
        DD_OK(t, dd_op_affine(g.b, as_row(y), 1, as_row(x), 0, NULL, all[i].activation, &t->err));
        same(&g, y, all[i].name);
    }
    end(&g);
}

static void linear(dd_test *t) {
    golden g;
    if (!begin(&g, t, "linear")) return;
    dd_weight *w = weight(&g, "w", get(&g, "b")), *down = weight(&g, "down", NULL), *up = weight(&g, "up", NULL);
    dd_tensor *x = get(&g, "x"), *y = get(&g, "add");
    dd_lora lora = {.down = down, .up = up, .scale = 0.625f, .row_begin = 1, .row_end = 4};
    dd_linear_args a = {.y = *y, .x = *x, .w = w, .activation = DD_ACTIVATION_GELU_TANH, .mul = get(&g, "mul"),
                        .gate = get(&g, "gate"), .add = y, .lora = &lora, .lora_count = 1};
    DD_OK(t, dd_op_linear(g.b, &a, &t->err)); /* y is what is added to */
    same(&g, y, "y");
    y = blank(&g, y);
    DD_OK(t, dd_op_linear(g.b, &(dd_linear_args){.y = *y, .x = *x, .w = w}, &t->err));
    same(&g, y, "plain");
    dd_op_weight_free(g.b, w), dd_op_weight_free(g.b, down), dd_op_weight_free(g.b, up);
    end(&g);
}

static void norms(dd_test *t) {
    golden g;
    if (!begin(&g, t, "norm")) return;
    dd_tensor *x = get(&g, "x"), *y = blank(&g, x);
    dd_norm_args a = {.y = *y, .x = *x, .kind = DD_NORM_LAYER, .eps = 1e-6f};
    DD_OK(t, dd_op_norm(g.b, &a, &t->err));
    same(&g, y, "layer_plain");
    a.weight = get(&g, "weight");
    a.kind = DD_NORM_RMS;
    DD_OK(t, dd_op_norm(g.b, &a, &t->err));
    same(&g, y, "rms");
    a.bias = get(&g, "bias"), a.scale = get(&g, "scale"), a.shift = get(&g, "shift");
    a.kind = DD_NORM_LAYER;
    a.y = *x; /* in place */
    DD_OK(t, dd_op_norm(g.b, &a, &t->err));
    same(&g, x, "layer");
    end(&g);
}

static void group_norm(dd_test *t) {
    golden g;
    if (!begin(&g, t, "group_norm")) return;
    dd_tensor *x = get(&g, "x"), *y = blank(&g, x);
    dd_group_norm_args a = {.y = *y, .x = *x, .groups = 4, .eps = 1e-6f, .weight = get(&g, "weight"), .bias = get(&g, "bias")};
    DD_OK(t, dd_op_group_norm(g.b, &a, &t->err));
    same(&g, y, "y");
    a.activation = DD_ACTIVATION_SILU;
    a.y = *x;
    DD_OK(t, dd_op_group_norm(g.b, &a, &t->err));
    same(&g, x, "silu");
    end(&g);
}

static void qk_norm_rope(dd_test *t) {
    golden g;
    if (!begin(&g, t, "qk")) return;
    for (int turn = 0; turn < 2; turn++) {
        dd_tensor *x = get(&g, "x");
        dd_qk_norm_rope_args a = {.x = *x, .heads = 2, .weight = get(&g, "weight"), .rope = turn ? get(&g, "rope") : NULL,
                                  .eps = 1e-6f};
        DD_OK(t, dd_op_qk_norm_rope(g.b, &a, &t->err));
        same(&g, x, turn ? "y" : "plain");
    }
    end(&g);
}

static void attention(dd_test *t) {
    golden g;
    if (!begin(&g, t, "attention")) return;
    dd_tensor *q = get(&g, "q"), *out = blank(&g, q), *lse = get(&g, "lse");
    dd_attention_args a = {.out = *out, .q = *q, .k = *get(&g, "k"), .v = *get(&g, "v"), .heads = 2, .scale = 0.4f,
                           .lse = blank(&g, lse)};
    DD_OK(t, dd_op_attention(g.b, &a, &t->err));
    same(&g, out, "y");
    same(&g, a.lse, "lse");
    a.causal = true;
    DD_OK(t, dd_op_attention(g.b, &a, &t->err));
    same(&g, out, "causal");
    same(&g, a.lse, "causal_lse");
    a.causal = false;
    a.bias = get(&g, "bias");
    DD_OK(t, dd_op_attention(g.b, &a, &t->err));
    same(&g, out, "biased");
    end(&g);
}

static void convolution(dd_test *t) {
    golden g;
    if (!begin(&g, t, "conv")) return;
    dd_tensor *x = get(&g, "x"), *b = get(&g, "b"), *add = get(&g, "add"), *y = blank(&g, add);
    dd_weight *w3 = weight(&g, "w3", b), *w1 = weight(&g, "w1", b);
    DD_OK(t, dd_op_conv2d(g.b, &(dd_conv2d_args){.y = *y, .x = *x, .height = 4, .width = 6, .w = w3, .add = add}, &t->err));
    same(&g, y, "y3");
    DD_OK(t, dd_op_conv2d(g.b, &(dd_conv2d_args){.y = *y, .x = *x, .height = 4, .width = 6, .w = w1}, &t->err));
    same(&g, y, "y1");
    y = blank(&g, get(&g, "up"));
    DD_OK(t, dd_op_upsample2x(g.b, *y, *x, 4, 6, &t->err));
    same(&g, y, "up");
    y = blank(&g, x);
    DD_OK(t, dd_op_channels_last(g.b, *y, *get(&g, "chw"), 1.5f, -0.25f, &t->err));
    same(&g, y, "last");
    dd_op_weight_free(g.b, w3), dd_op_weight_free(g.b, w1);
    end(&g);
}

static void cells(dd_test *t) {
    golden g;
    if (!begin(&g, t, "cells")) return;
    dd_tensor *z = get(&g, "z"), *x = get(&g, "x"), *origin = get(&g, "origin"), *y = blank(&g, x);
    DD_OK(t, dd_op_cells_gather(g.b, &(dd_cells_gather_args){.y = *y, .latent = *z, .origin = *origin, .n = 4}, &t->err));
    same(&g, y, "gathered");
    y = blank(&g, z);
    dd_cells_scatter_args a = {.velocity = *y, .x = *x, .origin = *origin, .n = 4, .hf_gain = 2.5f};
    DD_OK(t, dd_op_cells_scatter(g.b, &a, &t->err));
    same(&g, y, "plain");
    a.z = z, a.pixel_weight = get(&g, "weight"), a.pixel_bias = get(&g, "bias"), a.projection = get(&g, "projection");
    DD_OK(t, dd_op_cells_scatter(g.b, &a, &t->err));
    same(&g, y, "y");
    end(&g);
}

static void statistics(dd_test *t) {
    golden g;
    if (!begin(&g, t, "stats")) return;
    float stds[4];
    dd_tensor y = dd_tensor_1d(stds, DD_DTYPE_F32, 4);
    for (int order = 1; order <= 3; order++) {
        dd_patch_stats_args a = {.latents = {get(&g, "z0"), get(&g, "z1"), get(&g, "z2"), get(&g, "z3")}, .order = order,
                                 .n = 4, .stds = stds};
        char name[16];
        snprintf(name, sizeof name, "order%d", order);
        DD_OK(t, dd_op_patch_stats(g.b, &a, &t->err));
        same(&g, &y, name);
    }
    end(&g);
}

static void coarse_step(dd_test *t) {
    for (int k = 2; k <= 4; k += 2) {
        golden g;
        if (!begin(&g, t, k == 2 ? "coarse2" : "coarse4")) return;
        dd_tensor *z = get(&g, "z"), *z_small = get(&g, "z_small"), *pooled = blank(&g, z_small), *y = blank(&g, z);
        DD_OK(t, dd_op_pool_mean(g.b, *pooled, *z, k, 1 / 0.6875f, &t->err));
        same(&g, pooled, "z_small");
        dd_coarse_lift_args a = {.velocity = *y, .z = *z, .z_small = *z_small, .v_small = *get(&g, "v"), .k = k, .a = 0.6875f,
                                 .sigma = 0.75f, .sigma_small = 0.546875f, .gain = 0.3125f};
        DD_OK(t, dd_op_coarse_lift(g.b, &a, &t->err));
        same(&g, y, "velocity");
        end(&g);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"activations", activations}, {"linear with everything", linear}, {"layer and RMS norm", norms},
        {"group norm", group_norm},
        {"norm and rotation of q and k", qk_norm_rope}, {"attention", attention},
        {"convolution and pictures", convolution}, {"cells", cells}, {"statistics", statistics},
        {"free coarse step", coarse_step},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
