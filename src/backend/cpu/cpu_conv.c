/* Convolution by oneDNN. The picture is cut into strips of whole pixel rows whose height depends on the shapes alone; each
 * strip is one call of a primitive that was made for one thread, and our own loop hands strips to threads. So the bytes do not
 * depend on the number of threads, and nothing of the size of the picture is copied. The first, middle and last strips differ
 * in padding and height: up to three plans per weight and picture size, made when first met and kept in the weight.
 * Pixels that are not dense (ld above the number of channels) work, but only oneDNN's slow reference code takes them.
 */
#include <string.h>

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/onednn.h"
#include "backend/cpu/rows.h"

struct dd_conv_state {
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* one per thread */
    int stream_count;
    char *scratch; /* one slice per thread, as large as the largest plan wants */
    size_t scratch_per_thread;
};

/* The filter in one of the layouts that plans asked for. */
typedef struct conv_packed {
    struct conv_packed *next;
    dnnl_memory_desc_t desc;
    void *data;
} conv_packed;

/* What a plan depends on. Compared as bytes: all of one type, without holes. */
typedef struct conv_shape {
    int64_t rows, width;             /* of the output strip */
    int64_t pad_top, pad_bottom;     /* rows of zeros that stand for pixels outside the picture */
    int64_t x_ld, y_ld;              /* values between pixels */
    int64_t y_dtype, adds;           /* dd_dtype; 1: the strip of y holds what is added */
    int64_t stride;                  /* 2: no padding above and left of the picture */
} conv_shape;

typedef struct conv_plan {
    struct conv_plan *next;
    conv_shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t x, y, scratch;
    dnnl_memory_t filter, bias; /* objects over the weight's memory; execution only reads them */
    size_t scratch_bytes;
} conv_plan;

/* A dd_weight of this backend begins with its info. */
typedef struct conv_weight {
    dd_weight_info info;
    float *bias; /* [out], zeros if the file has none */
    conv_packed *packed;
    conv_plan *plans;
} conv_weight;

/* ------------------------------------------------------------------------------------------------ state */

static ddit_status conv_state(dd_cpu *cpu, ddit_err *err) {
    if (cpu->conv) return DDIT_OK;
    const dd_allocator *al = cpu->base.allocator;
    DD_TRY(dd_alloc(al, &cpu->conv, 1, sizeof *cpu->conv, "convolution state", err));
    struct dd_conv_state *state = cpu->conv;
    ddit_status status;
    DD_GO(dd_alloc(al, &state->streams, (size_t)cpu->base.threads, sizeof *state->streams, "convolution streams", err));
    DD_GO(dd_onednn_check(dnnl_engine_create(&state->engine, dnnl_cpu, 0), "open the processor", err));
    for (; state->stream_count < cpu->base.threads; state->stream_count++) {
        dnnl_stream_t *stream = &state->streams[state->stream_count];
        DD_GO(dd_onednn_check(dnnl_stream_create(stream, state->engine, dnnl_stream_default_flags), "make a stream", err));
    }
done:
    if (status) dd_cpu_conv_close(cpu);
    return status;
}

void dd_cpu_conv_close(dd_cpu *cpu) {
    struct dd_conv_state *state = cpu->conv;
    const dd_allocator *al = cpu->base.allocator;
    if (!state) return;
    for (int i = 0; i < state->stream_count; i++) dnnl_stream_destroy(state->streams[i]);
    if (state->engine) dnnl_engine_destroy(state->engine);
    dd_free(al, state->streams);
    dd_free(al, state->scratch);
    dd_free(al, state);
    cpu->conv = NULL;
}

/* Room for every thread to run a plan that wants `bytes`. */
static ddit_status reserve_scratch(dd_cpu *cpu, size_t bytes, ddit_err *err) {
    struct dd_conv_state *state = cpu->conv;
    bytes = (bytes + 4095) & ~(size_t)4095;
    if (bytes <= state->scratch_per_thread) return DDIT_OK;
    char *larger;
    DD_TRY(dd_alloc_raw(cpu->base.allocator, &larger, (size_t)cpu->base.threads, bytes, "convolution scratch", err));
    dd_free(cpu->base.allocator, state->scratch);
    cpu->base.scratch_bytes += (size_t)cpu->base.threads * (bytes - state->scratch_per_thread);
    state->scratch = larger;
    state->scratch_per_thread = bytes;
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ plans */

/* Describes h x w pixels of c channels, `ld` values apart. */
static dnnl_status_t pixels_desc(dnnl_memory_desc_t *desc, int64_t h, int64_t w, int64_t c, int64_t ld, dnnl_data_type_t type) {
    const dnnl_dims_t dims = {1, c, h, w}, strides = {h * w * ld, 1, w * ld, ld};
    return dnnl_memory_desc_init_by_strides(desc, 4, dims, type, strides);
}

/* The primitive descriptor of a strip; oneDNN chooses the layout of the filter. */
static dnnl_status_t strip_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const conv_weight *w,
                                const conv_shape *shape) {
    const dd_weight_info *info = &w->info;
    dnnl_memory_desc_t x, y, filter, bias;
    dnnl_convolution_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    dnnl_data_type_t type = dd_onednn_type(info->input_dtype);
    int64_t rows_in = (shape->rows - 1) * shape->stride + info->kh - shape->pad_top - shape->pad_bottom;
    int64_t pad_left = shape->stride == 2 ? 0 : info->kw / 2;
    const dnnl_dims_t filter_dims = {info->out, info->in, info->kh, info->kw}, bias_dims = {info->out};
    const dnnl_dims_t strides = {shape->stride, shape->stride};
    const dnnl_dims_t before = {shape->pad_top, pad_left}, after = {shape->pad_bottom, info->kw / 2};
    dnnl_status_t s = pixels_desc(&x, rows_in, shape->width * shape->stride, info->in, shape->x_ld, type);
    if (!s) s = pixels_desc(&y, shape->rows, shape->width, info->out, shape->y_ld, dd_onednn_type((dd_dtype)shape->y_dtype));
    if (!s) s = dnnl_memory_desc_init_by_tag(&filter, 4, filter_dims, type, dnnl_format_tag_any);
    if (!s) s = dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_a);
    if (!s)
        s = dnnl_convolution_forward_desc_init(&desc, dnnl_forward_inference, dnnl_convolution_direct, &x, &filter, &bias, &y,
                                               strides, before, after);
    if (!s) s = dnnl_primitive_attr_create(&attr);
    if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s && shape->adds) {
        s = dnnl_post_ops_create(&post);
        if (!s) s = dnnl_post_ops_append_sum(post, 1.0f);
        if (!s) s = dnnl_primitive_attr_set_post_ops(attr, post);
    }
    if (!s) s = dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
    if (post) dnnl_post_ops_destroy(post);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

static void plan_free(const dd_allocator *al, conv_plan *plan) {
    if (plan->filter) dnnl_memory_destroy(plan->filter);
    if (plan->bias) dnnl_memory_destroy(plan->bias);
    if (plan->primitive) dnnl_primitive_destroy(plan->primitive);
    dd_free(al, plan);
}

/* The filter in layout `desc`: one that is there, or a new one made from `from` (NULL: from the first one). */
static ddit_status packed_filter(dd_cpu *cpu, conv_weight *w, const dnnl_memory_desc_t *desc,
                                 const dnnl_memory_desc_t *from_desc, const void *from, conv_packed **out, ddit_err *err) {
    for (conv_packed *p = w->packed; p; p = p->next)
        if (dnnl_memory_desc_equal(&p->desc, desc)) {
            *out = p;
            return DDIT_OK;
        }
    const dd_allocator *al = cpu->base.allocator;
    size_t bytes = dnnl_memory_desc_get_size(desc);
    conv_packed *p;
    DD_TRY(dd_alloc(al, &p, 1, sizeof *p, "a convolution filter", err));
    p->desc = *desc;
    ddit_status status;
    DD_GO(dd_alloc_raw(al, &p->data, bytes, 1, "a convolution filter", err));
    DD_GO(dd_onednn_reorder(cpu->conv->engine, cpu->conv->streams[0], desc, p->data, from ? from_desc : &w->packed->desc,
                            from ? from : w->packed->data, err));
    p->next = w->packed;
    w->packed = p;
    w->info.bytes += bytes;
    *out = p;
done:
    if (status) {
        dd_free(al, p->data);
        dd_free(al, p);
    }
    return status;
}

static ddit_status plan_fill(dd_cpu *cpu, conv_weight *w, conv_plan *plan, dnnl_primitive_desc_t desc, ddit_err *err) {
    const dnnl_memory_desc_t *filter = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *bias = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 1);
    conv_packed *packed;
    DD_TRY(packed_filter(cpu, w, filter, NULL, NULL, &packed, err));
    plan->x = *dnnl_primitive_desc_query_md(desc, dnnl_query_src_md, 0);
    plan->y = *dnnl_primitive_desc_query_md(desc, dnnl_query_dst_md, 0);
    plan->scratch = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    plan->scratch_bytes = dnnl_memory_desc_get_size(&plan->scratch);
    dnnl_status_t s = dnnl_primitive_create(&plan->primitive, desc);
    if (!s) s = dnnl_memory_create(&plan->filter, &packed->desc, cpu->conv->engine, packed->data);
    if (!s) s = dnnl_memory_create(&plan->bias, bias, cpu->conv->engine, w->bias);
    return dd_onednn_check(s, "make a convolution", err);
}

/* The plan of a strip, made if it is not there. */
static ddit_status plan_get(dd_cpu *cpu, conv_weight *w, const conv_shape *shape, const conv_plan **out, ddit_err *err) {
    for (const conv_plan *p = w->plans; p; p = p->next)
        if (!memcmp(&p->shape, shape, sizeof *shape)) {
            *out = p;
            return DDIT_OK;
        }
    const dd_allocator *al = cpu->base.allocator;
    conv_plan *plan;
    DD_TRY(dd_alloc(al, &plan, 1, sizeof *plan, "a convolution plan", err));
    plan->shape = *shape;
    dnnl_primitive_desc_t desc = NULL;
    int threads = dd_onednn_one_thread_begin();
    ddit_status status;
    DD_GO(dd_onednn_check(strip_desc(&desc, cpu->conv->engine, w, shape), "plan a convolution", err));
    DD_GO(plan_fill(cpu, w, plan, desc, err));
    DD_GO(reserve_scratch(cpu, plan->scratch_bytes, err));
    plan->next = w->plans;
    w->plans = plan;
    *out = plan;
done:
    dd_onednn_one_thread_end(threads);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (status) plan_free(al, plan);
    return status;
}

/* ------------------------------------------------------------------------------------------------ weights */

static ddit_status convert(dd_dtype to, void *out, const void *data, dd_dtype from, size_t count, ddit_err *err) {
    return to == DD_DTYPE_BF16 ? dd_to_bf16(out, data, from, count, err) : dd_to_f32(out, data, from, count, err);
}

/* Packs the filter as the middle strip of a picture 64 pixels wide wants it, which most other strips share. */
static ddit_status pack_first(dd_cpu *cpu, conv_weight *w, const dd_weight_desc *desc, ddit_err *err) {
    const dd_allocator *al = cpu->base.allocator;
    dd_dtype dtype = w->info.input_dtype;
    const conv_shape usual = {.rows = 4, .width = 64, .x_ld = desc->in, .y_ld = desc->out, .y_dtype = dtype,
                              .stride = 1};
    const dnnl_dims_t dims = {desc->out, desc->in, desc->kh, desc->kw};
    size_t count = (size_t)(desc->out * desc->in * desc->kh * desc->kw);
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t strip = NULL;
    void *values = NULL;
    conv_packed *packed;
    int threads = dd_onednn_one_thread_begin();
    ddit_status status;
    DD_GO(dd_alloc_raw(al, &values, count, dtype == DD_DTYPE_BF16 ? 2 : 4, "a convolution filter", err));
    DD_GO(convert(dtype, values, desc->data, desc->dtype, count, err));
    dnnl_status_t described = dnnl_memory_desc_init_by_tag(&plain, 4, dims, dd_onednn_type(dtype), dnnl_oihw);
    DD_GO(dd_onednn_check(described, "describe a filter", err));
    DD_GO(dd_onednn_check(strip_desc(&strip, cpu->conv->engine, w, &usual), "plan a convolution", err));
    DD_GO(packed_filter(cpu, w, dnnl_primitive_desc_query_md(strip, dnnl_query_weights_md, 0), &plain, values, &packed, err));
done:
    dd_onednn_one_thread_end(threads);
    if (strip) dnnl_primitive_desc_destroy(strip);
    dd_free(al, values);
    return status;
}

ddit_status dd_cpu_conv_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    conv_weight *w = NULL;
    ddit_status status;
    *out = NULL;
    DD_GO(conv_state(cpu, err));
    DD_GO(dd_alloc(b->allocator, &w, 1, sizeof *w, "a convolution weight", err));
    w->info = (dd_weight_info){.out = desc->out, .in = desc->in, .kh = desc->kh, .kw = desc->kw, .kind = DD_WEIGHT_CONV2D};
    w->info.input_dtype = desc->full_precision ? DD_DTYPE_F32 : b->activation;
    w->info.bytes = (size_t)desc->out * sizeof(float);
    DD_GO(dd_alloc(b->allocator, &w->bias, (size_t)desc->out, sizeof(float), "a convolution bias", err));
    if (desc->bias) DD_GO(dd_to_f32(w->bias, desc->bias, desc->bias_dtype, (size_t)desc->out, err));
    DD_GO(pack_first(cpu, w, desc, err));
    *out = (dd_weight *)w;
done:
    if (status) {
        if (w) dd_cpu_conv_weight_free(b, (dd_weight *)w);
        if (desc->name) dd_fail_prefix(err, status, desc->name);
    }
    return status;
}

void dd_cpu_conv_weight_free(dd_backend *b, dd_weight *weight) {
    conv_weight *w = (conv_weight *)weight;
    for (conv_plan *p = w->plans, *next; p; p = next) {
        next = p->next;
        plan_free(b->allocator, p);
    }
    for (conv_packed *p = w->packed, *next; p; p = next) {
        next = p->next;
        dd_free(b->allocator, p->data);
        dd_free(b->allocator, p);
    }
    dd_free(b->allocator, w->bias);
    dd_free(b->allocator, w);
}

/* ------------------------------------------------------------------------------------------------ running */

static int64_t stride_of(const dd_conv2d_args *a) { return a->stride == 2 ? 2 : 1; }

/* Rows of a strip of the result: a sixteenth of the picture, so that there is work for many threads, but at least 8 million
 * floating-point operations, beside which a call costs little, and at most 64 million. Taller strips were not faster. */
static int64_t strip_rows(const dd_conv2d_args *a) {
    const dd_weight_info *info = &((const conv_weight *)a->w)->info;
    int64_t height = a->height / stride_of(a), width = a->width / stride_of(a);
    double row = 2.0 * (double)width * (double)info->in * (double)info->out * info->kh * info->kw;
    double strip = row * (double)height / 16.0;
    strip = strip < 8e6 ? 8e6 : strip > 64e6 ? 64e6 : strip;
    int64_t rows = (int64_t)(strip / row + 0.5);
    if (rows < 1) rows = 1;
    return rows < height ? rows : height;
}

/* Strip k of the result: its first row and its plan's shape. */
static conv_shape strip_shape(const dd_conv2d_args *a, int64_t rows, int64_t k, int64_t *first) {
    int64_t kh = ((const conv_weight *)a->w)->info.kh, stride = stride_of(a);
    int64_t height = a->height / stride, pad = stride == 2 ? 0 : kh / 2;
    int64_t begin = k * rows, end = begin + rows < height ? begin + rows : height;
    int64_t end_in = (end - 1) * stride - pad + kh; /* row of x after the last that the strip sees */
    *first = begin;
    return (conv_shape){
        .rows = end - begin,
        .width = a->width / stride,
        .pad_top = begin < pad ? pad - begin : 0,
        .pad_bottom = end_in > a->height ? end_in - a->height : 0,
        .x_ld = a->x.ld,
        .y_ld = a->y.ld,
        .y_dtype = a->y.dtype,
        .adds = a->add != NULL,
        .stride = stride,
    };
}

static char *pixel(const dd_tensor *t, int64_t i) {
    return (char *)t->data + (size_t)(i * t->ld) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

/* Puts what is added where the primitive's sum finds it. */
static void copy_add(const dd_conv2d_args *a, int64_t begin, int64_t end) {
    if (a->add->data == a->y.data) return;
    size_t bytes = (size_t)dd_tensor_row_size(&a->y) * (a->y.dtype == DD_DTYPE_BF16 ? 2 : 4);
    if (a->add->ld == a->y.ld && a->y.ld == dd_tensor_row_size(&a->y)) {
        memcpy(pixel(&a->y, begin), pixel(a->add, begin), bytes * (size_t)(end - begin));
        return;
    }
    for (int64_t i = begin; i < end; i++) memcpy(pixel(&a->y, i), pixel(a->add, i), bytes);
}

static dnnl_status_t run_strip(const struct dd_conv_state *state, int thread, const dd_conv2d_args *a, const conv_plan *plan,
                               int64_t first) {
    const conv_shape *shape = &plan->shape;
    int64_t pad = shape->stride == 2 ? 0 : ((const conv_weight *)a->w)->info.kh / 2;
    int64_t first_in = first * shape->stride - pad + shape->pad_top;
    if (a->add) copy_add(a, first * shape->width, (first + shape->rows) * shape->width);
    char *scratch_memory = state->scratch + (size_t)thread * state->scratch_per_thread;
    dnnl_memory_t x = NULL, y = NULL, scratch = NULL;
    dnnl_status_t s = dnnl_memory_create(&x, &plan->x, state->engine, pixel(&a->x, first_in * a->width));
    if (!s) s = dnnl_memory_create(&y, &plan->y, state->engine, pixel(&a->y, first * shape->width));
    if (!s) s = dnnl_memory_create(&scratch, &plan->scratch, state->engine, scratch_memory);
    if (!s) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, x},          {DNNL_ARG_DST, y}, {DNNL_ARG_WEIGHTS, plan->filter},
                                        {DNNL_ARG_BIAS, plan->bias}, {DNNL_ARG_SCRATCHPAD, scratch}};
        s = dnnl_primitive_execute(plan->primitive, state->streams[thread], 5, args);
    }
    if (!s) s = dnnl_stream_wait(state->streams[thread]);
    if (scratch) dnnl_memory_destroy(scratch);
    if (y) dnnl_memory_destroy(y);
    if (x) dnnl_memory_destroy(x);
    return s;
}

typedef struct strip_job {
    dd_cpu *cpu;
    const dd_conv2d_args *a;
    int64_t rows;
    _Atomic int failed; /* a dnnl_status_t */
} strip_job;

static void run_strip_task(void *user, int64_t k, int thread) {
    strip_job *job = user;
    int64_t first;
    const conv_plan *plan = NULL;
    const conv_shape shape = strip_shape(job->a, job->rows, k, &first);
    ddit_status found = plan_get(job->cpu, (conv_weight *)job->a->w, &shape, &plan, NULL);
    dnnl_status_t s = found ? dnnl_runtime_error : run_strip(job->cpu->conv, thread, job->a, plan, first);
    if (s) job->failed = (int)s;
}

/* All plans are made before the first strip runs; strips then only look theirs up. */
ddit_status dd_cpu_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err) {
    dd_cpu *cpu = dd_cpu_of(b);
    conv_weight *w = (conv_weight *)a->w; /* its plans are a cache; a backend runs one call at a time */
    int64_t rows = strip_rows(a);
    int64_t strips = (a->height / stride_of(a) + rows - 1) / rows;
    for (int64_t k = 0, first; k < strips; k++) {
        const conv_plan *plan;
        const conv_shape shape = strip_shape(a, rows, k, &first);
        DD_TRY(plan_get(cpu, w, &shape, &plan, err));
    }
    strip_job job = {.cpu = cpu, .a = a, .rows = rows, .failed = dnnl_success};
    dd_cpu_run(cpu, strips, run_strip_task, &job);
    return dd_onednn_check((dnnl_status_t)job.failed, "run a convolution", err);
}
