/* affine, gather_rows, upsample2x and channels_last of every backend against ref. */
#include "ops/op_suite.h"

typedef struct affine_param {
    int64_t rows, cols, gap;
    dd_activation activation;
    bool x_f32, y_f32, z, z_f32, in_place;
    float ax, bz, amplitude;
} affine_param;

static void affine_case(op_run *r, const void *param) {
    const affine_param *p = param;
    r->gap = p->gap;
    r->amplitude = p->amplitude;
    dd_tensor *x = op_new(r, p->in_place ? OP_INOUT : OP_IN, p->x_f32 ? OP_F32 : OP_ACT, 2, p->rows, p->cols, 0);
    r->gap = 2 * p->gap;
    dd_tensor *y = p->in_place ? x : op_out2(r, p->y_f32 ? OP_F32 : OP_ACT, p->rows, p->cols);
    const dd_tensor *z = p->z ? op_in2(r, p->z_f32 ? OP_F32 : OP_ACT, p->rows, p->cols) : NULL;
    op_ok(r, dd_op_affine(r->b, *y, p->ax, *x, p->bz, z, p->activation, &r->err));
}

static void affine(dd_test *t, const op_choice *c) {
    static const int64_t sizes[][2] = {{1, 1}, {1, 3}, {5, 17}, {40, 256}, {300, 100}, {1, 70001}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int k = 0; k < 40; k++) {
            affine_param p = {.rows = sizes[i][0], .cols = sizes[i][1], .gap = k % 4, .activation = (dd_activation)(k % 5),
                              .x_f32 = k & 1, .y_f32 = k & 2, .z = k & 4, .z_f32 = k & 8, .ax = k % 3 ? -1.25f : 1, .bz = 0.5f,
                              .amplitude = k % 7 == 0 ? 20 : 3};
            p.in_place = k % 6 == 5 && p.x_f32 == p.y_f32;
            char label[96];
            snprintf(label, sizeof label, "affine %lldx%lld variant %d", (long long)p.rows, (long long)p.cols, k);
            op_compare(t, c, label, affine_case, &p, op_bounds_usual);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ gather_rows */

typedef struct gather_param {
    int64_t rows, table, cols, gap;
    bool y_f32;
    op_kind table_kind;
} gather_param;

static void gather_case(op_run *r, const void *param) {
    const gather_param *p = param;
    int32_t ids[64];
    for (int64_t i = 0; i < p->rows; i++) ids[i] = (int32_t)(dd_test_random_u32(&r->seed) % (uint32_t)p->table);
    ids[0] = 0;
    ids[p->rows - 1] = (int32_t)p->table - 1;
    r->gap = p->gap;
    dd_tensor *table = op_in2(r, p->table_kind, p->table, p->cols);
    dd_tensor *y = op_out2(r, p->y_f32 ? OP_F32 : OP_ACT, p->rows, p->cols), *id = op_ints(r, 1, p->rows, 0, ids);
    op_ok(r, dd_op_gather_rows(r->b, *y, *table, *id, &r->err));
}

static void gather_rows(dd_test *t, const op_choice *c) {
    static const gather_param params[] = {{1, 1, 1, 0, true, OP_F32}, {3, 10, 5, 2, false, OP_ACT},
                                          {40, 1000, 256, 0, false, OP_F32}, {64, 77, 48, 1, true, OP_ACT}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) op_compare(t, c, "gather_rows", gather_case, &params[i],
                                                                           op_bounds_usual);
}

/* ------------------------------------------------------------------------------------------------ pictures */

typedef struct picture_param {
    int64_t height, width, channels, gap;
    bool f32;
} picture_param;

static void upsample_case(op_run *r, const void *param) {
    const picture_param *p = param;
    r->gap = p->gap;
    op_kind kind = p->f32 ? OP_F32 : OP_ACT;
    dd_tensor *x = op_in2(r, kind, p->height * p->width, p->channels), *y = op_out2(r, kind, 4 * p->height * p->width,
                                                                                    p->channels);
    op_ok(r, dd_op_upsample2x(r->b, *y, *x, p->height, p->width, &r->err));
}

static void channels_case(op_run *r, const void *param) {
    const picture_param *p = param;
    r->gap = p->gap;
    dd_tensor *x = op_in3(r, p->channels, p->height, p->width);
    dd_tensor *y = op_out2(r, p->f32 ? OP_F32 : OP_ACT, p->height * p->width, p->channels);
    op_ok(r, dd_op_channels_last(r->b, *y, *x, 2.75f, 0.125f, &r->err));
}

static void pictures(dd_test *t, const op_choice *c) {
    static const picture_param params[] = {{1, 1, 1, 0, false}, {2, 3, 5, 0, true}, {3, 2, 17, 3, false},
                                           {16, 20, 32, 0, false}, {32, 32, 16, 0, false}, {9, 7, 64, 1, true}};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        op_compare(t, c, "upsample2x", upsample_case, &params[i], op_bounds_usual);
        op_compare(t, c, "channels_last", channels_case, &params[i], op_bounds_usual);
    }
}

OP_FAMILY(affine)
OP_FAMILY(gather_rows)
OP_FAMILY(pictures)

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {OP_FAMILY_CASES(affine), OP_FAMILY_CASES(gather_rows), OP_FAMILY_CASES(pictures)};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
