/* attention and qk_norm_rope of every backend against ref. */
#include "ops/op_suite.h"

typedef struct attention_param {
    int64_t queries, keys, gap;
    int heads, width;
    bool causal, bias, lse;
    float sharpness; /* amplitude of q and k: large values make the softmax almost one-hot */
} attention_param;

static void attention_case(op_run *r, const void *param) {
    const attention_param *p = param;
    r->gap = p->gap;
    int64_t columns = (int64_t)p->heads * p->width;
    op_ok(r, dd_op_reserve(r->b, &(dd_reserve){.attention_queries = p->queries, .attention_keys = p->keys,
                                               .attention_heads = p->heads, .attention_head_size = p->width}, &r->err));
    r->amplitude = p->sharpness;
    dd_tensor *q = op_in2(r, OP_ACT, p->queries, columns), *k = op_in2(r, OP_ACT, p->keys, columns);
    r->amplitude = 1;
    dd_tensor *v = op_in2(r, OP_ACT, p->keys, columns), *out = op_out2(r, OP_ACT, p->queries, columns);
    dd_attention_args a = {.out = *out, .q = *q, .k = *k, .v = *v, .heads = p->heads, .scale = 1 / sqrtf((float)p->width),
                           .causal = p->causal};
    if (p->bias) r->amplitude = 4, a.bias = op_in3(r, p->heads, p->queries, p->keys);
    if (p->lse) a.lse = op_out2(r, OP_F32, p->heads, p->queries);
    op_ok(r, dd_op_attention(r->b, &a, &r->err));
}

/* BF16: probabilities may be rounded before they meet v. Their errors are independent of each other, but so are the values of v
 * here, whose mean over many keys shrinks as fast: the relative error of the sum stays that of one rounding, beside that of the
 * result. */
static void compare(dd_test *t, const op_choice *c, attention_param p) {
    char label[96];
    if (p.sharpness == 0) p.sharpness = 2;
    snprintf(label, sizeof label, "%lldx%lld %d heads of %d gap %lld%s%s%s sharp %g", (long long)p.queries, (long long)p.keys,
             p.heads, p.width, (long long)p.gap, p.causal ? " causal" : "", p.bias ? " bias" : "", p.lse ? " lse" : "",
             (double)p.sharpness);
    op_compare(t, c, label, attention_case, &p, (op_bounds){.f32 = 1e-11, .bf16 = 8e-6});
}

static void shapes(dd_test *t, const op_choice *c) {
    static const int widths[] = {32, 64, 128, 512, 2, 10, 40};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        compare(t, c, (attention_param){.queries = 1, .keys = 1, .heads = 1, .width = widths[i]});
        compare(t, c, (attention_param){.queries = 5, .keys = 70, .heads = 3, .width = widths[i], .lse = true});
        compare(t, c, (attention_param){.queries = 67, .keys = 67, .heads = 2, .width = widths[i], .gap = 7});
    }
}

static void tails(dd_test *t, const op_choice *c) {
    for (int n = 1; n <= 17; n++) {
        compare(t, c, (attention_param){.queries = n, .keys = 64 + n, .heads = 2, .width = 32, .lse = true});
        compare(t, c, (attention_param){.queries = 64 + n, .keys = n, .heads = 2, .width = 64});
        compare(t, c, (attention_param){.queries = n, .keys = n, .heads = 1, .width = 64, .causal = true});
    }
}

static void masks(dd_test *t, const op_choice *c) {
    compare(t, c, (attention_param){.queries = 77, .keys = 77, .heads = 4, .width = 64, .causal = true, .lse = true});
    compare(t, c, (attention_param){.queries = 130, .keys = 130, .heads = 2, .width = 32, .causal = true, .gap = 2});
    compare(t, c, (attention_param){.queries = 9, .keys = 20, .heads = 2, .width = 32, .causal = true});
    compare(t, c, (attention_param){.queries = 20, .keys = 9, .heads = 2, .width = 32, .causal = true});
    compare(t, c, (attention_param){.queries = 24, .keys = 24, .heads = 4, .width = 32, .bias = true});
    compare(t, c, (attention_param){.queries = 33, .keys = 65, .heads = 3, .width = 64, .bias = true, .gap = 5, .lse = true});
}

static void models(dd_test *t, const op_choice *c) {
    compare(t, c, (attention_param){.queries = 280, .keys = 280, .heads = 4, .width = 64});
    compare(t, c, (attention_param){.queries = 88, .keys = 88, .heads = 8, .width = 32});
    compare(t, c, (attention_param){.queries = 40, .keys = 40, .heads = 4, .width = 64});
    compare(t, c, (attention_param){.queries = 256, .keys = 256, .heads = 1, .width = 512});
    if (c->name) compare(t, c, (attention_param){.queries = 700, .keys = 700, .heads = 2, .width = 128});
}

static void sharp(dd_test *t, const op_choice *c) {
    compare(t, c, (attention_param){.queries = 50, .keys = 200, .heads = 2, .width = 64, .sharpness = 30, .lse = true});
    compare(t, c, (attention_param){.queries = 50, .keys = 200, .heads = 2, .width = 32, .sharpness = 300});
    compare(t, c, (attention_param){.queries = 50, .keys = 200, .heads = 2, .width = 32, .sharpness = 1e-3f});
}

/* ------------------------------------------------------------------------------------------------ qk_norm_rope */

typedef struct qk_param {
    int64_t rows, gap;
    int heads, width;
    bool rope;
} qk_param;

static void qk_case(op_run *r, const void *param) {
    const qk_param *p = param;
    r->gap = p->gap;
    dd_tensor *x = op_new(r, OP_INOUT, OP_ACT, 2, p->rows, (int64_t)p->heads * p->width, 0);
    dd_qk_norm_rope_args a = {.x = *x, .heads = p->heads, .weight = op_in1(r, p->width), .eps = 1e-6f};
    if (p->rope) a.rope = op_in2(r, OP_F32, p->rows, p->width);
    op_ok(r, dd_op_qk_norm_rope(r->b, &a, &r->err));
}

static void qk_norm_rope(dd_test *t, const op_choice *c) {
    static const qk_param params[] = {{1, 0, 1, 2, true}, {3, 1, 2, 6, true}, {17, 0, 4, 32, true}, {40, 8, 4, 64, true},
                                      {280, 0, 4, 64, true}, {33, 0, 3, 128, true}, {33, 2, 3, 128, false},
                                      {5, 0, 1, 512, true}, {7, 0, 2, 34, true}, {7, 3, 2, 18, false}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        char label[64];
        snprintf(label, sizeof label, "qk %lld rows %d heads of %d gap %lld", (long long)params[i].rows, params[i].heads,
                 params[i].width, (long long)params[i].gap);
        op_compare(t, c, label, qk_case, &params[i], op_bounds_usual);
    }
}

/* Nothing is allocated in a call once the largest sizes are known. */
static void reserved(dd_test *t, const op_choice *c) {
    if (!c->name) return;
    dd_test_allocator counting;
    dd_test_allocator_init(&counting);
    dd_backend *b = op_open(t, c, 2, &counting.allocator);
    if (!b) return;
    op_run r = {.t = t, .b = b, .label = "reserved", .rounding = c->activation, .amplitude = 1, .seed = 1};
    dd_tensor *q = op_in2(&r, OP_ACT, 150, 128), *out = op_out2(&r, OP_ACT, 150, 128);
    op_ok(&r, dd_op_reserve(b, &(dd_reserve){.attention_queries = 150, .attention_keys = 150, .attention_heads = 2,
                                             .attention_head_size = 64}, &r.err));
    size_t before = counting.total;
    for (int64_t rows = 150; rows > 0; rows -= 37) {
        dd_tensor x = dd_tensor_rows(*q, 0, rows);
        for (int heads = 1; heads <= 2; heads++) { /* fewer heads of the same size */
            dd_tensor y = dd_tensor_cols(dd_tensor_rows(*out, 0, rows), 0, 64 * heads),
                      q_part = dd_tensor_cols(x, 0, 64 * heads);
            dd_attention_args a = {.out = y, .q = q_part, .k = q_part, .v = q_part, .heads = heads, .scale = 0.1f};
            op_ok(&r, dd_op_attention(b, &a, &r.err));
        }
    }
    DD_CHECK(t, counting.total == before);
    for (int i = 0; i < r.tensor_count; i++) dd_op_free(b, r.tensors[i].memory), free(r.tensors[i].before);
    dd_backend_close(b);
    DD_CHECK(t, counting.live == 0);
}

OP_FAMILY(shapes)
OP_FAMILY(tails)
OP_FAMILY(masks)
OP_FAMILY(models)
OP_FAMILY(sharp)
OP_FAMILY(qk_norm_rope)
OP_FAMILY(reserved)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        OP_FAMILY_CASES(shapes), OP_FAMILY_CASES(tails), OP_FAMILY_CASES(masks), OP_FAMILY_CASES(models),
        OP_FAMILY_CASES(sharp),  OP_FAMILY_CASES(qk_norm_rope), OP_FAMILY_CASES(reserved),
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
