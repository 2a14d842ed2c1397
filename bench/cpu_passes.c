/* How fast the cpu backend's memory-bound passes and convolutions are. Prints the best of the runs of each, because other load
 * on the machine only ever adds time; the copy, which is memcpy, is the yardstick of the passes.
 *
 *   gcc -O2 -Isrc -Iinclude bench/cpu_passes.c build/src/libddit.a -lpng -ljansson -lutf8proc -ldnnl -lgomp -lm -o cpu_passes
 *   ./cpu_passes THREADS [auto|f32]
 *
 * bench/conv_torch.py prints the same convolutions by torch.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/registry.h"

typedef struct bench {
    dd_backend *b;
    ddit_err err;
} bench;

typedef ddit_status (*bench_fn)(bench *c, const void *args);

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best of the runs in one second, at least seven. */
static double best_of(bench *c, bench_fn fn, const void *args) {
    double best = 1e30, start = seconds();
    for (int i = 0; i < 7 || seconds() - start < 1.0; i++) {
        double begin = seconds();
        if (fn(c, args)) {
            fprintf(stderr, "%s\n", c->err.text);
            exit(1);
        }
        double spent = seconds() - begin;
        if (spent < best) best = spent;
    }
    return best;
}

static void *memory(bench *c, size_t bytes) {
    void *p;
    if (dd_op_alloc(c->b, &p, bytes, "benchmark", &c->err)) exit(1);
    return p;
}

/* Values between -1 and 1, or their bf16. */
static dd_tensor filled(bench *c, dd_dtype dtype, int64_t rows, int64_t cols) {
    dd_tensor t = dd_tensor_2d(memory(c, (size_t)(rows * cols) * 4), dtype, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        float v = (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
        if (dtype == DD_DTYPE_F32) ((float *)t.data)[i] = v;
        else ((uint16_t *)t.data)[i] = dd_bf16_from_f32(v);
    }
    return t;
}

static void report(const char *what, double best, double bytes) {
    printf("%-46s %9.3f ms %7.1f GB/s\n", what, best * 1e3, bytes / best / 1e9);
    fflush(stdout);
}

static ddit_status run_copy(bench *c, const void *args) {
    const dd_tensor *t = args; /* to, from */
    return dd_op_affine(c->b, t[0], 1.0f, t[1], 0.0f, NULL, DD_ACTIVATION_NONE, &c->err);
}

static ddit_status run_norm(bench *c, const void *args) { return dd_op_norm(c->b, args, &c->err); }
static ddit_status run_qk(bench *c, const void *args) { return dd_op_qk_norm_rope(c->b, args, &c->err); }
static ddit_status run_group(bench *c, const void *args) { return dd_op_group_norm(c->b, args, &c->err); }
static ddit_status run_conv(bench *c, const void *args) { return dd_op_conv2d(c->b, args, &c->err); }

static void passes(bench *c, int64_t rows, int heads, int64_t head_size) {
    dd_dtype act = c->b->activation;
    int64_t width = heads * head_size;
    double values = (double)(rows * width), narrow = act == DD_DTYPE_BF16 ? 2 : 4;
    char what[96];
    dd_tensor x = filled(c, DD_DTYPE_F32, rows, width), copy = filled(c, DD_DTYPE_F32, rows, width);
    dd_tensor y = filled(c, act, rows, width);
    dd_tensor vector = filled(c, DD_DTYPE_F32, 1, width), rope = filled(c, DD_DTYPE_F32, rows, head_size);
    dd_tensor row = dd_tensor_1d(vector.data, DD_DTYPE_F32, width), weight = dd_tensor_1d(vector.data, DD_DTYPE_F32, head_size);
    const dd_tensor same[] = {copy, x}, cast[] = {y, x};
    snprintf(what, sizeof what, "copy %ld x %ld f32", (long)rows, (long)width);
    report(what, best_of(c, run_copy, same), values * 8);
    snprintf(what, sizeof what, "cast %ld x %ld f32 -> %s", (long)rows, (long)width, dd_dtype_name(act));
    report(what, best_of(c, run_copy, cast), values * (4 + narrow));
    const dd_norm_args norm = {.y = y, .x = x, .eps = 1e-6f, .scale = &row, .shift = &row};
    snprintf(what, sizeof what, "layer norm + modulation %ld x %ld f32 -> %s", (long)rows, (long)width, dd_dtype_name(act));
    report(what, best_of(c, run_norm, &norm), values * (4 + narrow));
    const dd_qk_norm_rope_args qk = {.x = y, .heads = heads, .weight = &weight, .rope = &rope, .eps = 1e-6f};
    snprintf(what, sizeof what, "qk norm + rope %ld x %d x %ld %s", (long)rows, heads, (long)head_size, dd_dtype_name(act));
    report(what, best_of(c, run_qk, &qk), values * 2 * narrow);
    void *all[] = {x.data, copy.data, y.data, vector.data, rope.data};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) dd_op_free(c->b, all[i]);
}

static void group_norm(bench *c, int64_t side, int64_t channels) {
    dd_dtype act = c->b->activation;
    char what[96];
    dd_tensor x = filled(c, act, side * side, channels), y = filled(c, act, side * side, channels);
    dd_tensor vector = filled(c, DD_DTYPE_F32, 1, channels), row = dd_tensor_1d(vector.data, DD_DTYPE_F32, channels);
    const dd_group_norm_args args = {y, x, 32, 1e-6f, &row, &row, DD_ACTIVATION_SILU};
    snprintf(what, sizeof what, "group norm + SiLU %ld x %ld x %ld %s", (long)side, (long)side, (long)channels,
             dd_dtype_name(act));
    double bytes = (double)(side * side * channels) * (act == DD_DTYPE_BF16 ? 6 : 12); /* read twice, written once */
    report(what, best_of(c, run_group, &args), bytes);
    dd_op_free(c->b, x.data);
    dd_op_free(c->b, y.data);
    dd_op_free(c->b, vector.data);
}

static void conv(bench *c, int64_t side, int64_t in, int64_t out, int kernel) {
    dd_dtype act = c->b->activation;
    dd_tensor x = filled(c, act, side * side, in), y = filled(c, act, side * side, out);
    dd_tensor filter = filled(c, DD_DTYPE_F32, out, in * kernel * kernel);
    dd_weight_desc desc = {.name = "filter", .kind = DD_WEIGHT_CONV2D, .dtype = DD_DTYPE_F32, .out = out, .in = in};
    desc.kh = desc.kw = kernel;
    desc.data = filter.data;
    dd_weight *w;
    if (dd_op_weight_prepare(c->b, &w, &desc, &c->err)) {
        fprintf(stderr, "%s\n", c->err.text);
        exit(1);
    }
    const dd_conv2d_args args = {.y = y, .x = x, .height = side, .width = side, .w = w};
    double best = best_of(c, run_conv, &args);
    double flop = 2.0 * (double)(side * side * in * out) * kernel * kernel;
    printf("conv %dx%d %4ld x %-4ld %4ld -> %-4ld %s %17s %9.3f ms %7.0f GFLOP/s\n", kernel, kernel, (long)side, (long)side,
           (long)in, (long)out, dd_dtype_name(act), "", best * 1e3, flop / best / 1e9);
    fflush(stdout);
    dd_op_weight_free(c->b, w);
    dd_op_free(c->b, x.data);
    dd_op_free(c->b, y.data);
    dd_op_free(c->b, filter.data);
}

int main(int argc, char **argv) {
    bench c = {0};
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    dd_precision precision = argc > 2 && !strcmp(argv[2], "f32") ? DD_PRECISION_F32 : DD_PRECISION_AUTO;
    if (dd_backend_open(&c.b, "cpu", precision, threads, &dd_allocator_libc, &c.err)) {
        fprintf(stderr, "%s\n", c.err.text);
        return 1;
    }
    printf("%s\n", c.b->device);
    passes(&c, 4608, 24, 128);
    passes(&c, 280, 4, 64);
    group_norm(&c, 256, 128);
    conv(&c, 256, 128, 128, 3);
    conv(&c, 64, 512, 512, 3);
    conv(&c, 64, 512, 512, 1);
    conv(&c, 256, 32, 32, 3);
    conv(&c, 256, 32, 3, 3);
    dd_backend_close(c.b);
    return 0;
}
