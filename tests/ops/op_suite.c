#include "ops/op_suite.h"

enum { GUARD = 256, THREADS_MAX = 3 };

const op_choice op_ref_bf16 = {NULL, DD_DTYPE_BF16};
const op_choice op_cpu_f32 = {"cpu", DD_DTYPE_F32}, op_cpu_bf16 = {"cpu", DD_DTYPE_BF16};
const op_choice op_onednn_f32 = {"cpu-onednn", DD_DTYPE_F32}, op_onednn_bf16 = {"cpu-onednn", DD_DTYPE_BF16};

dd_backend *op_open(dd_test *t, const op_choice *choice, int threads, const dd_allocator *a) {
    dd_backend *b = NULL;
    if (!choice->name) {
        DD_OK(t, dd_ref_open(&b, a, &t->err));
        /* ref's slots take both dtypes; a backend that takes them over relies on it */
        if (b) b->activation = choice->activation;
        return b;
    }
    dd_precision precision = choice->activation == DD_DTYPE_BF16 ? DD_PRECISION_BF16 : DD_PRECISION_F32;
    ddit_status status = dd_backend_open(&b, choice->name, precision, threads, a, &t->err);
    if (status == DDIT_ERR_UNSUPPORTED) dd_test_skip(t, "%s", t->err.text);
    else if (status != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s does not open: %s", choice->name, t->err.text);
    return b;
}

/* ------------------------------------------------------------------------------------------------ tensors */

static void *must(void *memory) {
    if (memory) return memory;
    fputs("the test is out of memory\n", stderr);
    exit(1);
}

static size_t size_of(dd_dtype dtype) { return dtype == DD_DTYPE_BF16 ? 2 : 4; }

static float value_at(const void *memory, dd_dtype dtype, int64_t i) {
    return dtype == DD_DTYPE_BF16 ? dd_f32_from_bf16(((const uint16_t *)memory)[i]) : ((const float *)memory)[i];
}

static float rounded_value(const op_run *r, op_kind kind, float x) {
    return (kind == OP_ACT || kind == OP_ROUNDED) && r->rounding == DD_DTYPE_BF16 ? dd_f32_from_bf16(dd_bf16_from_f32(x)) : x;
}

/* Values: ints, or given, or (both NULL) random ones. */
static void fill(op_run *r, op_tensor *o, op_kind kind, const int32_t *ints, const float *given) {
    const dd_tensor *v = &o->view;
    uint8_t *values = o->before + GUARD;
    int64_t width = dd_tensor_row_size(v);
    for (int64_t row = 0; row < dd_tensor_row_count(v); row++) {
        for (int64_t col = 0; col < width; col++) {
            int64_t at = row * v->ld + col;
            float x = 0;
            if (given) x = given[row * width + col];
            else if (!ints && o->role != OP_OUT) x = r->amplitude * dd_test_random(&r->seed);
            x = rounded_value(r, kind, x);
            if (ints) ((int32_t *)(void *)values)[at] = ints[row * width + col];
            else if (o->role == OP_OUT) continue; /* stays NaN */
            else if (v->dtype == DD_DTYPE_BF16) ((uint16_t *)(void *)values)[at] = dd_bf16_from_f32(x);
            else ((float *)(void *)values)[at] = x;
        }
    }
}

static dd_tensor *make(op_run *r, op_role role, op_kind kind, int rank, const int64_t *shape, const int32_t *ints,
                       const float *given) {
    if (r->tensor_count == OP_MAX_TENSORS) exit(1);
    op_tensor *o = &r->tensors[r->tensor_count++];
    dd_dtype dtype = kind == OP_I32 ? DD_DTYPE_I32 : kind == OP_ACT ? r->b->activation : DD_DTYPE_F32;
    o->role = role;
    o->view = (dd_tensor){.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) o->view.shape[i] = shape[i];
    o->view.ld = shape[rank - 1] + (rank > 1 && kind != OP_I32 ? r->gap : 0);
    size_t values = (size_t)(dd_tensor_row_count(&o->view) * o->view.ld);
    o->bytes = 2 * GUARD + values * size_of(dtype);
    o->before = must(aligned_alloc(64, (o->bytes + 63) / 64 * 64));
    memset(o->before, 0xff, o->bytes); /* NaN in F32 and BF16 */
    fill(r, o, kind, ints, given);
    op_ok(r, dd_op_alloc(r->b, &o->memory, o->bytes, "a test tensor", &r->err));
    op_ok(r, dd_op_upload(r->b, o->memory, o->before, o->bytes, &r->err));
    o->view.data = (uint8_t *)o->memory + GUARD;
    return &o->view;
}

dd_tensor *op_new(op_run *r, op_role role, op_kind kind, int rank, int64_t d0, int64_t d1, int64_t d2) {
    int64_t shape[3] = {d0, d1, d2};
    return make(r, role, kind, rank, shape, NULL, NULL);
}

dd_tensor *op_in1(op_run *r, int64_t n) { return op_new(r, OP_IN, OP_F32, 1, n, 0, 0); }
dd_tensor *op_in2(op_run *r, op_kind kind, int64_t rows, int64_t cols) { return op_new(r, OP_IN, kind, 2, rows, cols, 0); }
dd_tensor *op_out2(op_run *r, op_kind kind, int64_t rows, int64_t cols) { return op_new(r, OP_OUT, kind, 2, rows, cols, 0); }
dd_tensor *op_in3(op_run *r, int64_t d0, int64_t d1, int64_t d2) { return op_new(r, OP_IN, OP_F32, 3, d0, d1, d2); }
dd_tensor *op_out3(op_run *r, int64_t d0, int64_t d1, int64_t d2) { return op_new(r, OP_OUT, OP_F32, 3, d0, d1, d2); }

dd_tensor *op_ints(op_run *r, int rank, int64_t rows, int64_t cols, const int32_t *values) {
    int64_t shape[3] = {rows, cols, 0};
    return make(r, OP_IN, OP_I32, rank, shape, values, NULL);
}

dd_tensor *op_given(op_run *r, op_kind kind, int rank, int64_t d0, int64_t d1, int64_t d2, const float *values) {
    int64_t shape[3] = {d0, d1, d2};
    return make(r, OP_IN, kind, rank, shape, NULL, values);
}

float *op_host(const op_run *r, const dd_tensor *t) {
    const op_tensor *o = r->tensors;
    while (&o->view != t) o++;
    int64_t rows = dd_tensor_row_count(t), width = dd_tensor_row_size(t);
    float *values = must(malloc((size_t)(rows * width) * sizeof *values + 1));
    for (int64_t i = 0; i < rows * width; i++)
        values[i] = value_at(o->before + GUARD, t->dtype, i / width * t->ld + i % width);
    return values;
}

/* ------------------------------------------------------------------------------------------------ weights */

static float *random_values(op_run *r, size_t count, float amplitude, bool rounded) {
    float *values = must(malloc(count * sizeof *values));
    for (size_t i = 0; i < count; i++) {
        values[i] = amplitude * dd_test_random(&r->seed);
        if (rounded) values[i] = dd_f32_from_bf16(dd_bf16_from_f32(values[i]));
    }
    return values;
}

dd_weight *op_weight(op_run *r, dd_weight_desc desc, bool bias) {
    if (r->weight_count == OP_MAX_WEIGHTS) exit(1);
    if (desc.kind == DD_WEIGHT_LINEAR) desc.kh = desc.kw = 1;
    size_t row = (size_t)desc.in * (size_t)desc.kh * (size_t)desc.kw;
    bool rounded = r->rounding == DD_DTYPE_BF16 && !desc.full_precision;
    float *values = random_values(r, (size_t)desc.out * row, 1.7f / sqrtf((float)row), rounded);
    float *biases = bias ? random_values(r, (size_t)desc.out, 1, false) : NULL;
    uint16_t *halves = must(malloc((size_t)desc.out * row * sizeof *halves));
    for (size_t i = 0; i < (size_t)desc.out * row; i++) halves[i] = dd_bf16_from_f32(values[i]);
    bool as_bf16 = rounded && desc.dtype == DD_DTYPE_BF16; /* the same values, from a file of either dtype */
    desc.dtype = as_bf16 ? DD_DTYPE_BF16 : DD_DTYPE_F32;
    desc.data = as_bf16 ? (const void *)halves : values;
    desc.bias = biases;
    desc.bias_dtype = DD_DTYPE_F32;
    if (!desc.name) desc.name = "test";
    dd_weight *w = NULL;
    op_ok(r, dd_op_weight_prepare(r->b, &w, &desc, &r->err));
    if (as_bf16) free(values);
    else free(halves);
    r->weight_data[2 * r->weight_count] = biases;
    r->weight_data[2 * r->weight_count + 1] = as_bf16 ? (void *)halves : values;
    r->weights[r->weight_count++] = w;
    return w;
}

op_kind op_input(const op_run *r, const dd_weight *w) {
    return !w || dd_op_weight_info(r->b, w).input_dtype == r->b->activation ? OP_ACT : OP_ROUNDED;
}

/* ------------------------------------------------------------------------------------------------ running */

void op_ok_at(op_run *r, ddit_status status, const char *file, int line) {
    if (status != DDIT_OK) dd_test_fail(r->t, file, line, "%s: status %d: %s", r->label, (int)status, r->err.text);
}

static void append(op_run *r, const float *values, size_t count) {
    r->result = must(realloc(r->result, (r->result_count + count) * sizeof *values + 1));
    if (count) memcpy(r->result + r->result_count, values, count * sizeof *values);
    r->result_count += count;
}

static void end_part(op_run *r, size_t begin, bool wide) {
    if (r->part_count == OP_MAX_TENSORS) exit(1);
    r->parts[r->part_count++] = (op_part){.begin = begin, .count = r->result_count - begin, .wide = wide};
}

void op_result(op_run *r, const float *values, size_t count) {
    append(r, values, count);
    end_part(r, r->result_count - count, true);
}

/* True for bytes that the op may have changed. */
static bool written(const op_tensor *o, size_t byte) {
    if (o->role == OP_IN || byte < GUARD || byte >= o->bytes - GUARD) return false;
    return (int64_t)((byte - GUARD) / size_of(o->view.dtype)) % o->view.ld < dd_tensor_row_size(&o->view);
}

static void collect(op_run *r, const op_tensor *o) {
    uint8_t *after = must(aligned_alloc(64, (o->bytes + 63) / 64 * 64));
    op_ok(r, dd_op_download(r->b, after, o->memory, o->bytes, &r->err));
    for (size_t i = 0; i < o->bytes; i++) {
        if (after[i] == o->before[i] || written(o, i)) continue;
        dd_test_fail(r->t, __FILE__, __LINE__, "%s: tensor %d: byte %zd from its begin was overwritten", r->label,
                     (int)(o - r->tensors), (ptrdiff_t)i - GUARD);
        break;
    }
    int64_t width = dd_tensor_row_size(&o->view);
    size_t begin = r->result_count;
    float *row = must(malloc((size_t)width * sizeof *row + 1));
    for (int64_t i = 0; o->role != OP_IN && i < dd_tensor_row_count(&o->view); i++) {
        for (int64_t j = 0; j < width; j++) row[j] = value_at(after + GUARD, o->view.dtype, i * o->view.ld + j);
        append(r, row, (size_t)width);
    }
    if (o->role != OP_IN) end_part(r, begin, o->view.dtype == DD_DTYPE_F32);
    free(row);
    free(after);
}

/* Runs the case on an open backend and closes it. r->result is the caller's. */
static void run_on(op_run *r, op_case run, const void *param) {
    int failures = r->t->failures;
    run(r, param);
    op_ok(r, dd_op_sync(r->b, &r->err));
    for (int i = 0; i < r->tensor_count; i++) {
        op_tensor *o = &r->tensors[i];
        if (r->t->failures == failures) collect(r, o);
        dd_op_free(r->b, o->memory);
        free(o->before);
    }
    for (int i = 0; i < r->weight_count; i++) {
        dd_op_weight_free(r->b, r->weights[i]);
        free(r->weight_data[2 * i]);
        free(r->weight_data[2 * i + 1]);
    }
    dd_backend_close(r->b);
}

static double nmse(const float *y, const float *ref, size_t count, double noise) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)y[i] - ref[i];
        difference += d * d;
        size += (double)ref[i] * ref[i];
    }
    return difference <= noise * noise * (double)count ? 0 : difference / size; /* NaN stays NaN */
}

/* Every output for itself, so that a small one cannot hide behind a large one. */
static void compare(const op_run *run, const op_run *ref, dd_dtype activation, op_bounds bounds) {
    for (int i = 0; i < run->part_count; i++) {
        const op_part *part = &run->parts[i];
        double error = nmse(run->result + part->begin, ref->result + part->begin, part->count, bounds.noise);
        double bound = bounds.f32;
        if (activation == DD_DTYPE_BF16) bound = part->wide && bounds.wide > 0 ? bounds.wide : bounds.bf16;
        if (part->count < 1000) bound *= 3;
        if (!(error <= bound))
            dd_test_fail(run->t, __FILE__, __LINE__, "%s: output %d: error (NMSE) %.3g, bound %.3g", run->label, i, error,
                         bound);
        if (getenv("DD_TEST_VERBOSE")) printf("     %-40s output %d: %.3g of %.3g\n", run->label, i, error, bound);
    }
}

void op_compare(dd_test *t, const op_choice *choice, const char *label, op_case run, const void *param, op_bounds bounds) {
    if (t->skipped) return; /* the backend is not there: said once */
    const op_run blank = {.t = t, .label = label, .rounding = choice->activation, .amplitude = 1, .seed = 4711};
    op_run runs[THREADS_MAX + 1] = {blank, blank, blank, blank};
    int failures = t->failures, count = choice->name ? THREADS_MAX : 1;
    for (int i = 0; i <= count && t->failures == failures; i++) {
        static const op_choice reference = {NULL, DD_DTYPE_F32};
        runs[i].b = op_open(t, i ? choice : &reference, i, &dd_allocator_libc);
        if (!runs[i].b) break;
        run_on(&runs[i], run, param);
        if (i == 0 || t->failures != failures) continue;
        if (runs[i].result_count != runs[0].result_count)
            dd_test_fail(t, __FILE__, __LINE__, "%s: the case is not the same twice", label);
        else if (i > 1 && memcmp(runs[i].result, runs[1].result, runs[i].result_count * sizeof(float)) != 0)
            dd_test_fail(t, __FILE__, __LINE__, "%s: %d threads give other bytes than one", label, i);
        if (i == 1 && t->failures == failures) compare(&runs[1], &runs[0], choice->activation, bounds);
    }
    for (int i = 0; i <= THREADS_MAX; i++) free(runs[i].result);
}
