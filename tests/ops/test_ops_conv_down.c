/* conv2d with stride 2 of every backend against ref, and ref against a convolution that is read twice: stride 1, every other
 * pixel. */
#include "ops/op_suite.h"

typedef struct down_param {
    int64_t height, width, in, out, gap; /* height, width: of x */
    bool bias, add, add_is_y, y_f32, bf16_file;
} down_param;

static void down_case(op_run *r, const void *param) {
    const down_param *p = param;
    r->gap = p->gap;
    int64_t results = p->height / 2 * (p->width / 2);
    dd_weight *w = op_weight(r, (dd_weight_desc){.kind = DD_WEIGHT_CONV2D, .out = p->out, .in = p->in, .kh = 3, .kw = 3,
                                                 .dtype = p->bf16_file ? DD_DTYPE_BF16 : DD_DTYPE_F32}, p->bias);
    op_kind y_kind = p->y_f32 ? OP_F32 : OP_ACT;
    dd_tensor *x = op_in2(r, op_input(r, w), p->height * p->width, p->in);
    dd_tensor *y = op_new(r, p->add_is_y ? OP_INOUT : OP_OUT, y_kind, 2, results, p->out, 0);
    dd_conv2d_args a = {.y = *y, .x = *x, .height = p->height, .width = p->width, .w = w, .stride = 2};
    if (p->add) a.add = op_in2(r, y_kind, results, p->out);
    if (p->add_is_y) a.add = y;
    op_ok(r, dd_op_conv2d(r->b, &a, &r->err));
}

static void compare(dd_test *t, const op_choice *c, down_param p) {
    char label[96];
    snprintf(label, sizeof label, "%lldx%lld %lld to %lld gap %lld%s%s%s", (long long)p.height, (long long)p.width,
             (long long)p.in, (long long)p.out, (long long)p.gap, p.bias ? " b" : "", p.add || p.add_is_y ? " add" : "",
             p.y_f32 ? " y f32" : "");
    op_compare(t, c, label, down_case, &p, op_bounds_usual);
}

static void shapes(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][4] = {{2, 2, 1, 1}, {2, 6, 3, 2}, {8, 2, 2, 3}, {4, 4, 16, 16}, {6, 10, 17, 19},
                                       {16, 16, 32, 32}, {14, 22, 64, 3}, {8, 8, 16, 128}, {32, 34, 48, 48}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 2; k++)
            compare(t, c, (down_param){.height = sizes[i][0], .width = sizes[i][1], .in = sizes[i][2], .out = sizes[i][3],
                                       .bias = k == 0, .y_f32 = k, .bf16_file = i % 2, .gap = i == 4 ? 3 : 0});
}

static void tails(dd_test *t, const op_choice *c) {
    for (int64_t n = 1; n <= 17; n++) {
        compare(t, c, (down_param){.height = 4, .width = 2 * n, .in = 16, .out = 16, .bias = true});
        compare(t, c, (down_param){.height = 2 * n, .width = 6, .in = n, .out = 16, .bias = true});
        compare(t, c, (down_param){.height = 4, .width = 6, .in = 16, .out = n, .bias = true});
    }
}

static void sums(dd_test *t, const op_choice *c) {
    compare(t, c, (down_param){.height = 12, .width = 10, .in = 32, .out = 32, .bias = true, .add = true});
    compare(t, c, (down_param){.height = 12, .width = 10, .in = 32, .out = 32, .bias = true, .add_is_y = true});
    compare(t, c, (down_param){.height = 12, .width = 10, .in = 24, .out = 40, .add_is_y = true, .y_f32 = true});
}

/* Many strips: the first, middle and last ones differ in padding. */
static void large(dd_test *t, const op_choice *c) {
    if (!c->name) return; /* it would compare ref with itself, slowly */
    compare(t, c, (down_param){.height = 128, .width = 96, .in = 96, .out = 128, .bias = true, .bf16_file = true});
}

OP_FAMILY(shapes)
OP_FAMILY(tails)
OP_FAMILY(sums)
OP_FAMILY(large)

/* Stride 2 with zeros below and on the right sees what stride 1 sees at odd rows and columns. */
static void ref_takes_every_other_pixel(dd_test *t) {
    enum { H = 6, W = 4, IN = 3, OUT = 2 };
    float x[H * W * IN], filter[OUT * IN * 9], full[H * W * OUT], half[H * W / 4 * OUT];
    uint64_t state = 7;
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = dd_test_random(&state);
    for (size_t i = 0; i < sizeof filter / sizeof *filter; i++) filter[i] = dd_test_random(&state);
    dd_backend *b;
    dd_weight *w;
    DD_NEED_OK(t, dd_backend_open(&b, "ref", DD_PRECISION_F32, 1, &dd_allocator_libc, &t->err));
    dd_weight_desc desc = {.kind = DD_WEIGHT_CONV2D, .out = OUT, .in = IN, .kh = 3, .kw = 3, .data = filter};
    DD_NEED_OK(t, dd_op_weight_prepare(b, &w, &desc, &t->err));
    dd_conv2d_args a = {.y = dd_tensor_2d(full, DD_DTYPE_F32, H * W, OUT), .x = dd_tensor_2d(x, DD_DTYPE_F32, H * W, IN),
                        .height = H, .width = W, .w = w};
    DD_OK(t, dd_op_conv2d(b, &a, &t->err));
    a.y = dd_tensor_2d(half, DD_DTYPE_F32, H * W / 4, OUT);
    a.stride = 2;
    DD_OK(t, dd_op_conv2d(b, &a, &t->err));
    for (int r = 0; r < H / 2; r++)
        for (int c = 0; c < W / 2; c++)
            DD_CHECK(t, !memcmp(half + (r * W / 2 + c) * OUT, full + ((2 * r + 1) * W + 2 * c + 1) * OUT, OUT * sizeof *half));
    a.stride = 3;
    DD_FAILS(t, dd_op_conv2d(b, &a, &t->err), DDIT_ERR_INTERNAL, "the stride is 3");
    a.stride = 2, a.height = 8, a.width = 3;
    DD_FAILS(t, dd_op_conv2d(b, &a, &t->err), DDIT_ERR_INTERNAL, "stride 2 with a filter of 3 x 3 on 8 x 3 pixels");
    a.height = H, a.width = W, a.y = dd_tensor_2d(full, DD_DTYPE_F32, H * W, OUT);
    DD_FAILS(t, dd_op_conv2d(b, &a, &t->err), DDIT_ERR_INTERNAL, "y is [24, 2] F32, expected [6, 2]");
    dd_op_weight_free(b, w);
    dd_backend_close(b);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(shapes), OP_FAMILY_CASES(tails), OP_FAMILY_CASES(sums),
                                         OP_FAMILY_CASES(large), {"ref takes every other pixel", ref_takes_every_other_pixel}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
