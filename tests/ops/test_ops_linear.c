/* linear of every backend against ref: shapes, epilogues, overlays, full precision. */
#include "ops/op_suite.h"

typedef struct linear_param {
    int64_t rows, out, in, gap;
    dd_activation activation;
    bool bias, mul, gate, add, add_is_y; /* add_is_y: y += ... */
    bool y_f32, full_precision, bf16_file;
    int loras;
} linear_param;

static void linear_case(op_run *r, const void *param) {
    const linear_param *p = param;
    r->gap = p->gap;
    dd_weight_desc desc = {.kind = DD_WEIGHT_LINEAR, .out = p->out, .in = p->in, .full_precision = p->full_precision,
                           .dtype = p->bf16_file ? DD_DTYPE_BF16 : DD_DTYPE_F32};
    dd_weight *w = op_weight(r, desc, p->bias);
    dd_lora loras[3] = {0};
    for (int i = 0; i < p->loras; i++) {
        int64_t rank = i == 2 ? 3 : 16;
        dd_weight_desc down = desc, up = desc;
        down.out = up.in = rank;
        loras[i] = (dd_lora){.down = op_weight(r, down, false), .up = op_weight(r, up, false), .scale = 0.75f - 0.5f * (float)i,
                             .row_begin = i * p->rows / 4, .row_end = i == 1 ? p->rows : p->rows / 2 + 1};
    }
    op_ok(r, dd_op_reserve(r->b, &(dd_reserve){.weights = (const dd_weight *const *)r->weights,
                                               .weight_count = r->weight_count}, &r->err));
    /* full precision: values of x are not rounded, on ref either */
    op_kind x_kind = p->full_precision ? OP_F32 : op_input(r, w), y_kind = p->y_f32 || p->add_is_y ? OP_F32 : OP_ACT;
    dd_tensor *x = op_in2(r, x_kind, p->rows, p->in);
    dd_tensor *y = op_new(r, p->add_is_y ? OP_INOUT : OP_OUT, y_kind, 2, p->rows, p->out, 0);
    dd_linear_args a = {.y = *y, .x = *x, .w = w, .activation = p->activation, .lora = loras, .lora_count = p->loras};
    if (p->mul) a.mul = op_in2(r, OP_ACT, p->rows, p->out);
    if (p->gate) a.gate = op_in1(r, p->out);
    if (p->add) a.add = op_in2(r, OP_F32, p->rows, p->out);
    if (p->add_is_y) a.add = y;
    op_ok(r, dd_op_linear(r->b, &a, &r->err));
}

/* BF16: an overlay's hidden values are rounded once more. */
static void compare(dd_test *t, const op_choice *c, linear_param p) {
    char label[96];
    snprintf(label, sizeof label, "%lldx%lldx%lld gap %lld act %d%s%s%s%s%s loras %d", (long long)p.rows, (long long)p.out,
             (long long)p.in, (long long)p.gap, (int)p.activation, p.bias ? " b" : "", p.mul ? " mul" : "", p.gate ? " gate"
                 : "", p.add || p.add_is_y ? " add" : "", p.full_precision ? " full" : "", p.loras);
    op_bounds bounds = op_bounds_usual;
    if (p.full_precision && (p.y_f32 || p.add_is_y)) bounds.bf16 = bounds.f32;
    op_compare(t, c, label, linear_case, &p, bounds);
}

static void shapes(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {1, 3, 5}, {2, 17, 31}, {3, 64, 64}, {5, 16, 2}, {40, 256, 256},
                                       {280, 256, 256},
                                       {88, 256, 1024}, {88, 1024, 256}, {33, 65, 129}, {257, 48, 768}, {1, 1536, 256},
                                           {6, 2, 100}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int gap = 0; gap <= 5; gap += 5)
            compare(t, c, (linear_param){.rows = sizes[i][0], .out = sizes[i][1], .in = sizes[i][2], .gap = gap,
                                         .bias = gap == 0, .bf16_file = i % 2, .y_f32 = i % 3 == 0});
    }
}

static void tails(dd_test *t, const op_choice *c) {
    for (int64_t n = 1; n <= 17; n++) {
        compare(t, c, (linear_param){.rows = n, .out = 40, .in = 48, .bias = true});
        compare(t, c, (linear_param){.rows = 19, .out = n, .in = 48, .gap = 1, .bias = true, .bf16_file = true});
        compare(t, c, (linear_param){.rows = 19, .out = 40, .in = n, .bias = true});
        compare(t, c, (linear_param){.rows = 64 + n, .out = 64 + n, .in = 64 + n, .y_f32 = true});
    }
}

static void epilogues(dd_test *t, const op_choice *c) {
    for (int activation = DD_ACTIVATION_NONE; activation <= DD_ACTIVATION_QUICK_GELU; activation++) {
        for (int bits = 0; bits < 16; bits++) {
            linear_param p = {.rows = 23, .out = 50, .in = 70, .activation = (dd_activation)activation, .gap = bits % 3,
                              .bias = bits & 1, .mul = bits & 2, .gate = bits & 4, .y_f32 = activation & 1};
            if (bits & 8) p.add = bits & 1, p.add_is_y = !p.add;
            compare(t, c, p);
        }
    }
}

static void overlays(dd_test *t, const op_choice *c) {
    for (int loras = 1; loras <= 3; loras++) {
        compare(t, c, (linear_param){.rows = 88, .out = 256, .in = 256, .bias = true, .loras = loras});
        compare(t, c, (linear_param){.rows = 21, .out = 33, .in = 47, .gap = 3, .bias = true, .gate = true, .add_is_y = true,
                                     .activation = DD_ACTIVATION_NONE, .loras = loras});
        compare(t, c, (linear_param){.rows = 70, .out = 96, .in = 40, .bias = true, .activation = DD_ACTIVATION_GELU_TANH,
                                     .mul = true, .loras = loras, .bf16_file = true});
    }
    compare(t, c, (linear_param){.rows = 1, .out = 8, .in = 8, .loras = 1});
}

static void full_precision(dd_test *t, const op_choice *c) {
    compare(t, c, (linear_param){.rows = 20, .out = 96, .in = 100, .bias = true, .full_precision = true, .y_f32 = true});
    compare(t, c, (linear_param){.rows = 1, .out = 256, .in = 256, .bias = true, .full_precision = true, .y_f32 = true,
                                 .activation = DD_ACTIVATION_SILU});
    compare(t, c, (linear_param){.rows = 33, .out = 17, .in = 65, .gap = 2, .full_precision = true});
}

static void large(dd_test *t, const op_choice *c) {
    if (!c->name) return; /* it would compare ref with itself, slowly */
    compare(t, c, (linear_param){.rows = 100, .out = 3072, .in = 3072, .bias = true, .gate = true, .add_is_y = true,
                                 .bf16_file = true});
}

/* Nothing is allocated in a call once the largest sizes are known. */
static void reserved(dd_test *t, const op_choice *c) {
    if (!c->name) return;
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    dd_backend *b = op_open(t, c, 2, &counting.allocator);
    if (!b) return;
    op_run r = {.t = t, .b = b, .label = "reserved", .rounding = c->activation, .amplitude = 1, .seed = 1};
    dd_weight *w = op_weight(&r, (dd_weight_desc){.kind = DD_WEIGHT_LINEAR, .out = 96, .in = 64}, true);
    dd_tensor *x = op_in2(&r, OP_ACT, 300, 64), *y = op_out2(&r, OP_ACT, 300, 96);
    op_ok(&r, dd_op_reserve(b, &(dd_reserve){.weights = (const dd_weight *const *)r.weights, .weight_count = 1}, &r.err));
    size_t before = counting.total;
    for (int64_t rows = 300; rows > 0; rows -= 37) {
        dd_linear_args a = {.y = dd_tensor_rows(*y, 0, rows), .x = dd_tensor_rows(*x, 0, rows), .w = w};
        op_ok(&r, dd_op_linear(b, &a, &r.err));
    }
    DD_CHECK(t, counting.total == before);
    for (int i = 0; i < r.tensor_count; i++) dd_op_free(b, r.tensors[i].memory), free(r.tensors[i].before);
    dd_op_weight_free(b, w);
    free(r.weight_data[0]), free(r.weight_data[1]);
    dd_backend_close(b);
    DD_CHECK(t, counting.live == 0);
}

OP_FAMILY(shapes)
OP_FAMILY(tails)
OP_FAMILY(epilogues)
OP_FAMILY(overlays)
OP_FAMILY(full_precision)
OP_FAMILY(large)
OP_FAMILY(reserved)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        OP_FAMILY_CASES(shapes), OP_FAMILY_CASES(tails),          OP_FAMILY_CASES(epilogues), OP_FAMILY_CASES(overlays),
        OP_FAMILY_CASES(full_precision), OP_FAMILY_CASES(large), OP_FAMILY_CASES(reserved),
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
