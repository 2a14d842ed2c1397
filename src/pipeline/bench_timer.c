#include "base/clock.h"
#include "pipeline/bench.h"

static dd_bench_timer *timer_of(dd_backend *b) { return (dd_bench_timer *)b; }

static dd_backend *inner_of(dd_backend *b) { return timer_of(b)->inner; }

/* ---------------------------------------------------------------------------------------------- handed on */

static ddit_status on_sync(dd_backend *b, ddit_err *err) { return dd_op_sync(inner_of(b), err); }

static ddit_status on_alloc(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err) {
    return inner_of(b)->ops->alloc(inner_of(b), memory, bytes, what, err);
}

static void on_free(dd_backend *b, void *memory) { inner_of(b)->ops->free(inner_of(b), memory); }

static ddit_status on_upload(dd_backend *b, void *to, const void *from, size_t bytes, ddit_err *err) {
    return inner_of(b)->ops->upload(inner_of(b), to, from, bytes, err);
}

static ddit_status on_download(dd_backend *b, void *to, const void *from, size_t bytes, ddit_err *err) {
    return inner_of(b)->ops->download(inner_of(b), to, from, bytes, err);
}

static ddit_status on_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err) {
    return inner_of(b)->ops->weight_prepare(inner_of(b), out, desc, err);
}

static void on_weight_free(dd_backend *b, dd_weight *w) { inner_of(b)->ops->weight_free(inner_of(b), w); }

static ddit_status on_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err) {
    return inner_of(b)->ops->reserve(inner_of(b), r, err);
}

static ddit_status on_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err) {
    return inner_of(b)->ops->norm(inner_of(b), a, err);
}

static ddit_status on_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err) {
    return inner_of(b)->ops->qk_norm_rope(inner_of(b), a, err);
}

static ddit_status on_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                             dd_activation activation, ddit_err *err) {
    return inner_of(b)->ops->affine(inner_of(b), y, ax, x, bz, z, activation, err);
}

static ddit_status on_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err) {
    return inner_of(b)->ops->cells_gather(inner_of(b), a, err);
}

static ddit_status on_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err) {
    return inner_of(b)->ops->cells_scatter(inner_of(b), a, err);
}

/* ---------------------------------------------------------------------------------------------- measured */

static double product_flops(const dd_backend *b, const dd_weight *w, int64_t rows) {
    dd_weight_info info = dd_op_weight_info(b, w);
    return 2.0 * (double)rows * (double)info.out * (double)info.in;
}

static ddit_status on_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err) {
    dd_bench_split *split = &timer_of(b)->split;
    split->flops += product_flops(b, a->w, a->x.shape[0]);
    for (int i = 0; i < a->lora_count; i++) {
        int64_t rows = a->lora[i].row_end - a->lora[i].row_begin;
        split->flops += product_flops(b, a->lora[i].down, rows) + product_flops(b, a->lora[i].up, rows);
    }
    double begin = dd_seconds();
    ddit_status status = inner_of(b)->ops->linear(inner_of(b), a, err);
    split->linear += dd_seconds() - begin;
    return status;
}

static ddit_status on_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err) {
    dd_bench_split *split = &timer_of(b)->split;
    split->flops += 4.0 * (double)a->q.shape[0] * (double)a->k.shape[0] * (double)a->q.shape[1];
    double begin = dd_seconds();
    ddit_status status = inner_of(b)->ops->attention(inner_of(b), a, err);
    split->attention += dd_seconds() - begin;
    return status;
}

void dd_bench_timer_init(dd_bench_timer *timer, dd_backend *inner) {
    *timer = (dd_bench_timer){.base = *inner, .inner = inner};
    timer->ops = (dd_backend_ops){
        .name = inner->ops->name,
        .sync = on_sync,
        .alloc = on_alloc,
        .free = on_free,
        .upload = on_upload,
        .download = on_download,
        .weight_prepare = on_weight_prepare,
        .weight_free = on_weight_free,
        .weight_info = inner->ops->weight_info,
        .reserve = on_reserve,
        .linear = on_linear,
        .attention = on_attention,
        .norm = on_norm,
        .qk_norm_rope = on_qk_norm_rope,
        .affine = on_affine,
        .cells_gather = on_cells_gather,
        .cells_scatter = on_cells_scatter,
    };
    timer->base.ops = &timer->ops;
}
