/* conv2d of every backend against ref. */
#include "ops/op_suite.h"

typedef struct conv_param {
    int64_t height, width, in, out, gap;
    int side;
    bool bias, add, add_is_y, y_f32, bf16_file;
} conv_param;

static void conv_case(op_run *r, const void *param) {
    const conv_param *p = param;
    r->gap = p->gap;
    int64_t pixels = p->height * p->width;
    dd_weight *w = op_weight(r, (dd_weight_desc){.kind = DD_WEIGHT_CONV2D, .out = p->out, .in = p->in, .kh = p->side,
                                                 .kw = p->side, .dtype = p->bf16_file ? DD_DTYPE_BF16 : DD_DTYPE_F32}, p->bias);
    op_kind y_kind = p->y_f32 ? OP_F32 : OP_ACT;
    dd_tensor *x = op_in2(r, op_input(r, w), pixels, p->in);
    dd_tensor *y = op_new(r, p->add_is_y ? OP_INOUT : OP_OUT, y_kind, 2, pixels, p->out, 0);
    dd_conv2d_args a = {.y = *y, .x = *x, .height = p->height, .width = p->width, .w = w};
    if (p->add) a.add = op_in2(r, y_kind, pixels, p->out);
    if (p->add_is_y) a.add = y;
    op_ok(r, dd_op_conv2d(r->b, &a, &r->err));
}

/* BF16: a backend may round the convolution once before the sum with `add`. F32: any order of a sum of up to 9 * 512 terms. */
static void compare(dd_test *t, const op_choice *c, conv_param p) {
    char label[96];
    snprintf(label, sizeof label, "%lldx%lld %lld to %lld side %d gap %lld%s%s%s", (long long)p.height, (long long)p.width,
             (long long)p.in, (long long)p.out, p.side, (long long)p.gap, p.bias ? " b" : "", p.add || p.add_is_y ? " add" : "",
             p.y_f32 ? " y f32" : "");
    op_compare(t, c, label, conv_case, &p, op_bounds_usual);
}

static void shapes(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][4] = {{1, 1, 1, 1}, {1, 5, 3, 2}, {7, 1, 2, 3}, {3, 3, 16, 16}, {5, 9, 17, 19},
                                       {16, 16, 32, 32}, {13, 21, 64, 3}, {8, 8, 16, 128}, {32, 32, 48, 48}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int k = 0; k < 4; k++)
            compare(t, c, (conv_param){.height = sizes[i][0], .width = sizes[i][1], .in = sizes[i][2], .out = sizes[i][3],
                                       .side = k & 1 ? 1 : 3, .bias = k < 3, .y_f32 = k & 2, .bf16_file = i % 2,
                                       .gap = i == 4 ? 3 : 0});
    }
}

static void tails(dd_test *t, const op_choice *c) {
    for (int64_t n = 1; n <= 17; n++) {
        compare(t, c, (conv_param){.height = 4, .width = n, .in = 16, .out = 16, .side = 3, .bias = true});
        compare(t, c, (conv_param){.height = 4, .width = 5, .in = n, .out = 16, .side = 3, .bias = true});
        compare(t, c, (conv_param){.height = 4, .width = 5, .in = 16, .out = n, .side = n % 2 ? 1 : 3, .bias = true});
    }
}

static void sums(dd_test *t, const op_choice *c) {
    compare(t, c, (conv_param){.height = 12, .width = 10, .in = 32, .out = 32, .side = 3, .bias = true, .add = true});
    compare(t, c, (conv_param){.height = 12, .width = 10, .in = 32, .out = 32, .side = 3, .bias = true, .add_is_y = true});
    compare(t, c, (conv_param){.height = 12, .width = 10, .in = 24, .out = 40, .side = 1, .bias = true, .add = true,
                               .y_f32 = true});
    compare(t, c, (conv_param){.height = 12, .width = 10, .in = 24, .out = 40, .side = 1, .add_is_y = true, .gap = 4});
}

static void large(dd_test *t, const op_choice *c) {
    if (!c->name) return; /* it would compare ref with itself, slowly */
    compare(t, c, (conv_param){.height = 16, .width = 16, .in = 512, .out = 512, .side = 3, .bias = true, .bf16_file = true});
    compare(t, c, (conv_param){.height = 64, .width = 48, .in = 128, .out = 3, .side = 3, .bias = true, .y_f32 = true});
}

OP_FAMILY(shapes)
OP_FAMILY(tails)
OP_FAMILY(sums)
OP_FAMILY(large)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(shapes), OP_FAMILY_CASES(tails), OP_FAMILY_CASES(sums),
                                         OP_FAMILY_CASES(large)};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
