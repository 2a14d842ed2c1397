/* Weights, and y = f(x W^T + b). */
#include "backend/ref/ref_state.h"

/* ------------------------------------------------------------------------------------------------ weights */

/* A weight whose values may be replaced keeps them as float32, whatever the file has. */
static ddit_status own_values(dd_backend *b, dd_weight *w, const char *name, ddit_err *err) {
    size_t count = (size_t)(w->info.out * w->info.in * w->info.kh * w->info.kw);
    DD_TRY(dd_alloc_raw(b->allocator, &w->values, count, sizeof(float), name, err));
    DD_TRY(dd_to_f32(w->values, w->data, w->dtype, count, err));
    w->data = (const uint8_t *)w->values;
    w->dtype = DD_DTYPE_F32;
    w->row_bytes = count / (size_t)w->info.out * sizeof(float);
    w->info.is_view = false;
    w->info.bytes = count * sizeof(float);
    return DDIT_OK;
}

ddit_status dd_ref_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err) {
    *out = NULL;
    bool conv = desc->kind == DD_WEIGHT_CONV2D;
    dd_weight_info info = {.out = desc->out, .in = desc->in, .kh = conv ? desc->kh : 1, .kw = conv ? desc->kw : 1,
                           .kind = desc->kind, .input_dtype = DD_DTYPE_F32, .is_view = true};
    uint64_t row_bytes;
    if (!dd_dtype_bytes(desc->dtype, (uint64_t)(info.in * info.kh * info.kw), &row_bytes))
        return dd_fail(err, DDIT_ERR_INTERNAL, "weight %s: a row of %lld values is no whole number of %s blocks", desc->name,
                       (long long)(info.in * info.kh * info.kw), dd_dtype_name(desc->dtype));
    dd_weight *w;
    DD_TRY(dd_alloc(b->allocator, &w, 1, sizeof *w, desc->name, err));
    *w = (dd_weight){.info = info, .data = desc->data, .dtype = desc->dtype, .row_bytes = (size_t)row_bytes,
                     .uses = desc->uses ? desc->uses : DD_WEIGHT_FORWARD};
    ddit_status status = DDIT_OK;
    if (w->uses & DD_WEIGHT_UPDATES) DD_GO(own_values(b, w, desc->name, err));
    if (desc->bias) {
        DD_GO(dd_alloc_raw(b->allocator, &w->bias, (size_t)info.out, sizeof(float), desc->name, err));
        DD_GO(dd_to_f32(w->bias, desc->bias, desc->bias_dtype, (size_t)info.out, err));
        w->info.bytes += (size_t)info.out * sizeof(float);
    }
    *out = w;
    return DDIT_OK;

done:
    dd_ref_weight_free(b, w);
    return status;
}

ddit_status dd_ref_weight_update(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err) {
    (void)b;
    if (!w->values)
        return dd_fail(err, DDIT_ERR_INTERNAL, "weight_update: weight %s [%lld, %lld] was not prepared for new values",
                       desc->name, (long long)w->info.out, (long long)w->info.in);
    if (!w->bias != !desc->bias)
        return dd_fail(err, DDIT_ERR_INTERNAL, "weight_update: weight %s has %s bias, its new values have %s", desc->name,
                       w->bias ? "a" : "no", desc->bias ? "one" : "none");
    memcpy(w->values, desc->data, (size_t)w->info.out * w->row_bytes);
    return desc->bias ? dd_to_f32(w->bias, desc->bias, desc->bias_dtype, (size_t)w->info.out, err) : DDIT_OK;
}

void dd_ref_weight_free(dd_backend *b, dd_weight *w) {
    if (!w) return;
    dd_free(b->allocator, w->values);
    dd_free(b->allocator, w->bias);
    dd_free(b->allocator, w);
}

dd_weight_info dd_ref_weight_info(const dd_weight *w) { return w->info; }

ddit_status dd_ref_weight_row(const dd_weight *w, int64_t row, float *copy, const float **out, ddit_err *err) {
    const uint8_t *bytes = w->data + (size_t)row * w->row_bytes;
    if (w->dtype == DD_DTYPE_F32 && (uintptr_t)bytes % sizeof(float) == 0) {
        *out = (const float *)(const void *)bytes;
        return DDIT_OK;
    }
    *out = copy;
    return dd_to_f32(copy, bytes, w->dtype, (size_t)(w->info.in * w->info.kh * w->info.kw), err);
}

/* ------------------------------------------------------------------------------------------------ linear */

/* scale * (x down^T) of the overlay's rows, [rows, r], before up^T. */
typedef struct overlay {
    const dd_lora *lora;
    float *hidden;
} overlay;

typedef struct linear_scratch {
    double *sums;    /* [M]: one column of y */
    float *row;      /* [K]: one row of the weight */
    float *lora_row; /* [max(K, r)] */
    float *x;        /* [M, K], only when x is BF16 */
    overlay *overlays;
} linear_scratch;

static const float *input_row(const dd_linear_args *a, const linear_scratch *s, int64_t m) {
    return s->x ? s->x + m * a->x.shape[1] : (const float *)a->x.data + m * a->x.ld;
}

/* hidden[m, j] = x[m] . down[j] for the overlay's rows. */
static ddit_status overlay_hidden(const dd_linear_args *a, const linear_scratch *s, const overlay *o, ddit_err *err) {
    const dd_lora *lora = o->lora;
    int64_t rank = lora->down->info.out, in = lora->down->info.in;
    for (int64_t j = 0; j < rank; j++) {
        const float *down;
        DD_TRY(dd_ref_weight_row(lora->down, j, s->lora_row, &down, err));
        for (int64_t m = lora->row_begin; m < lora->row_end; m++)
            o->hidden[(m - lora->row_begin) * rank + j] = (float)dd_ref_dot(input_row(a, s, m), down, in);
    }
    return DDIT_OK;
}

/* sums[m] += scale * hidden[m] . up[n]. */
static ddit_status overlay_add(const linear_scratch *s, const overlay *o, int64_t n, ddit_err *err) {
    const dd_lora *lora = o->lora;
    int64_t rank = lora->down->info.out;
    const float *up;
    DD_TRY(dd_ref_weight_row(lora->up, n, s->lora_row, &up, err));
    for (int64_t m = lora->row_begin; m < lora->row_end; m++)
        s->sums[m] += lora->scale * dd_ref_dot(o->hidden + (m - lora->row_begin) * rank, up, rank);
    return DDIT_OK;
}

static void linear_epilogue(const dd_linear_args *a, const double *sums, int64_t n) {
    double bias = a->w->bias ? a->w->bias[n] : 0, gate = ref_or(a->gate, n, 1);
    for (int64_t m = 0; m < a->y.shape[0]; m++) {
        double v = dd_ref_activate(sums[m] + bias, a->activation);
        if (a->mul) v *= ref_at(a->mul, m * a->mul->ld + n);
        v *= gate;
        if (a->add) v += ref_at(a->add, m * a->add->ld + n);
        ref_put(&a->y, m * a->y.ld + n, (float)v);
    }
}

static ddit_status linear_run(const dd_linear_args *a, const linear_scratch *s, ddit_err *err) {
    int64_t rows = a->x.shape[0], in = a->x.shape[1];
    if (s->x) {
        for (int64_t m = 0; m < rows; m++) dd_ref_row(&a->x, m, 0, in, s->x + m * in);
    }
    for (int l = 0; l < a->lora_count; l++) DD_TRY(overlay_hidden(a, s, &s->overlays[l], err));
    for (int64_t n = 0; n < a->w->info.out; n++) {
        const float *w;
        DD_TRY(dd_ref_weight_row(a->w, n, s->row, &w, err));
        for (int64_t m = 0; m < rows; m++) s->sums[m] = dd_ref_dot(input_row(a, s, m), w, in);
        for (int l = 0; l < a->lora_count; l++) DD_TRY(overlay_add(s, &s->overlays[l], n, err));
        linear_epilogue(a, s->sums, n);
    }
    return DDIT_OK;
}

static ddit_status scratch_make(linear_scratch *s, dd_backend *b, const dd_linear_args *a, ddit_err *err) {
    size_t rows = (size_t)a->x.shape[0], in = (size_t)a->x.shape[1], widest = in;
    DD_TRY(dd_alloc_raw(b->allocator, &s->sums, rows, sizeof(double), "linear: a column of sums", err));
    DD_TRY(dd_alloc_raw(b->allocator, &s->row, in, sizeof(float), "linear: a row of the weight", err));
    if (a->x.dtype != DD_DTYPE_F32) DD_TRY(dd_alloc_raw(b->allocator, &s->x, rows * in, sizeof(float), "linear: x", err));
    if (a->lora_count == 0) return DDIT_OK;
    DD_TRY(dd_alloc(b->allocator, &s->overlays, (size_t)a->lora_count, sizeof(overlay), "linear: overlays", err));
    for (int l = 0; l < a->lora_count; l++) {
        const dd_lora *lora = &a->lora[l];
        size_t rank = (size_t)lora->down->info.out, count = (size_t)(lora->row_end - lora->row_begin);
        s->overlays[l].lora = lora;
        DD_TRY(dd_alloc_raw(b->allocator, &s->overlays[l].hidden, count * rank, sizeof(float), "linear: overlay", err));
        if (rank > widest) widest = rank;
    }
    return dd_alloc_raw(b->allocator, &s->lora_row, widest, sizeof(float), "linear: a row of an overlay", err);
}

ddit_status dd_ref_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err) {
    linear_scratch s = {0};
    ddit_status status = scratch_make(&s, b, a, err);
    if (status == DDIT_OK) status = linear_run(a, &s, err);
    if (s.overlays) {
        for (int l = 0; l < a->lora_count; l++) dd_free(b->allocator, s.overlays[l].hidden);
    }
    dd_free(b->allocator, s.overlays);
    dd_free(b->allocator, s.lora_row);
    dd_free(b->allocator, s.x);
    dd_free(b->allocator, s.row);
    dd_free(b->allocator, s.sums);
    return status;
}
