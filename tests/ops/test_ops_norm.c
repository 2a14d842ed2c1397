/* norm and group_norm of every backend against ref. */
#include "ops/op_suite.h"

typedef struct norm_param {
    int64_t rows, cols, gap;
    dd_norm_kind kind;
    unsigned vectors; /* bits: weight, bias, scale, shift */
    bool x_f32, y_f32, in_place;
    float amplitude;
} norm_param;

static void norm_case(op_run *r, const void *param) {
    const norm_param *p = param;
    r->gap = p->gap;
    r->amplitude = p->amplitude;
    dd_tensor *x = op_new(r, p->in_place ? OP_INOUT : OP_IN, p->x_f32 ? OP_F32 : OP_ACT, 2, p->rows, p->cols, 0);
    r->amplitude = 1;
    r->gap = p->gap * 2;
    dd_tensor *y = p->in_place ? x : op_out2(r, p->y_f32 ? OP_F32 : OP_ACT, p->rows, p->cols);
    dd_norm_args a = {.y = *y, .x = *x, .kind = p->kind, .eps = 1e-6f};
    if (p->vectors & 1) a.weight = op_in1(r, p->cols);
    if (p->vectors & 2) a.bias = op_in1(r, p->cols);
    if (p->vectors & 4) a.scale = op_in1(r, p->cols);
    if (p->vectors & 8) a.shift = op_in1(r, p->cols);
    op_ok(r, dd_op_norm(r->b, &a, &r->err));
}

static void compare(dd_test *t, const op_choice *c, norm_param p) {
    char label[96];
    if (p.amplitude == 0) p.amplitude = 1;
    snprintf(label, sizeof label, "%lldx%lld %s gap %lld vectors %u%s%s%s amp %g", (long long)p.rows, (long long)p.cols,
             p.kind == DD_NORM_RMS ? "rms" : "layer", (long long)p.gap, p.vectors, p.x_f32 ? " x f32" : "", p.y_f32 ? " y f32"
                 : "", p.in_place ? " in place" : "", (double)p.amplitude);
    op_compare(t, c, label, norm_case, &p, op_bounds_usual);
}

static void norm(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][2] = {{1, 1}, {1, 3}, {2, 17}, {40, 256}, {280, 256}, {77, 768}, {9, 3072}, {3, 4099}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (unsigned k = 0; k < 8; k++)
            compare(t, c, (norm_param){.rows = sizes[i][0], .cols = sizes[i][1], .kind = k & 1 ? DD_NORM_RMS : DD_NORM_LAYER,
                                       .vectors = (k * 5 + (unsigned)i) % 16, .x_f32 = k & 2, .y_f32 = k & 4, .gap = k % 3});
    }
    for (unsigned vectors = 0; vectors < 16; vectors++)
        compare(t, c, (norm_param){.rows = 5, .cols = 33, .vectors = vectors, .x_f32 = true, .kind = vectors & 1
                                   ? DD_NORM_LAYER : DD_NORM_RMS});
    for (int64_t n = 1; n <= 17; n++) compare(t, c, (norm_param){.rows = n, .cols = 16 + n, .vectors = 12, .x_f32 = true,
                                                                 .gap = n & 3});
}

static void norm_edges(dd_test *t, const op_choice *c) {
    for (int k = 0; k < 2; k++) {
        dd_norm_kind kind = k ? DD_NORM_RMS : DD_NORM_LAYER;
        compare(t, c, (norm_param){.rows = 7, .cols = 48, .kind = kind, .vectors = 15, .in_place = true});
        compare(t, c, (norm_param){.rows = 7, .cols = 48, .kind = kind, .vectors = 3, .x_f32 = true, .in_place = true,
                                   .gap = 5});
        compare(t, c, (norm_param){.rows = 7, .cols = 64, .kind = kind, .x_f32 = true, .y_f32 = true, .amplitude = 1e4f});
        compare(t, c, (norm_param){.rows = 7, .cols = 64, .kind = kind, .x_f32 = true, .y_f32 = true, .amplitude = 1e-3f});
    }
}

/* ------------------------------------------------------------------------------------------------ group norm */

typedef struct group_param {
    int64_t pixels, channels, gap;
    int groups;
    bool silu, in_place;
} group_param;

static void group_case(op_run *r, const void *param) {
    const group_param *p = param;
    r->gap = p->gap;
    r->amplitude = 3;
    dd_tensor *x = op_new(r, p->in_place ? OP_INOUT : OP_IN, OP_ACT, 2, p->pixels, p->channels, 0);
    r->amplitude = 1;
    dd_tensor *y = p->in_place ? x : op_out2(r, OP_ACT, p->pixels, p->channels);
    dd_group_norm_args a = {.y = *y, .x = *x, .groups = p->groups, .eps = 1e-6f, .weight = op_in1(r, p->channels),
                            .bias = op_in1(r, p->channels), .activation = p->silu ? DD_ACTIVATION_SILU : DD_ACTIVATION_NONE};
    op_ok(r, dd_op_group_norm(r->b, &a, &r->err));
}

static void group_norm(dd_test *t, const op_choice *c) {
    static const group_param params[] = {
        {2, 1, 0, 1, false, false},     {1, 6, 0, 2, true, false},      {6, 6, 3, 3, false, false},
            {35, 32, 0, 32, true, false},
        {1024, 128, 0, 32, true, true}, {256, 512, 0, 32, true, false}, {77, 64, 5, 8, true, true},
            {4096, 32, 0, 16, false, false},
        {1000, 48, 1, 16, true, false}, {13, 20, 0, 4, true, true},     {65, 132, 0, 33, true, false}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        char label[80];
        snprintf(label, sizeof label, "group norm %lldx%lld in %d gap %lld", (long long)params[i].pixels,
                 (long long)params[i].channels, params[i].groups, (long long)params[i].gap);
        op_compare(t, c, label, group_case, &params[i], op_bounds_usual);
    }
}

OP_FAMILY(norm)
OP_FAMILY(norm_edges)
OP_FAMILY(group_norm)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(norm), OP_FAMILY_CASES(norm_edges), OP_FAMILY_CASES(group_norm)};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
