/* How far the matrix products are from the processor's peak, rung by rung: multiply-adds in registers, one product in cache,
 * linear layers and attention at FLUX's sizes and at the embedded model's. Prints GFLOP/s by processor time of one thread
 * (other programs on the machine then disturb little) and, with more threads, by the clock.
 *
 *     gcc -O2 -std=c17 -D_GNU_SOURCE -Isrc -Iinclude bench/gemm_ladder.c build/src/libddit.a -fopenmp -ldnnl -lm -o gemm_ladder
 *     ./gemm_ladder [threads] [f32] [onednn] [small]
 */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/gemm.h"

typedef struct ladder {
    dd_backend *b;
    clockid_t clock;
    dd_dtype act;
    ddit_err err;
} ladder;

static double now(const ladder *l) {
    struct timespec t;
    clock_gettime(l->clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(const ladder *l, ddit_status status) {
    if (!status) return;
    fprintf(stderr, "%s\n", l->err.text);
    exit(1);
}

/* Small numbers of both signs, so that nothing overflows or becomes denormal. */
static void *numbers(ladder *l, dd_dtype dtype, size_t count) {
    void *memory = NULL;
    check(l, dd_alloc_raw(&dd_allocator_libc, &memory, count, 4, "numbers", &l->err));
    uint32_t x = 1;
    for (size_t i = 0; i < count; i++) {
        x = x * 1664525u + 1013904223u;
        float v = (float)(int32_t)x * (1.0f / 2147483648.0f);
        if (dtype == DD_DTYPE_BF16) ((uint16_t *)memory)[i] = dd_bf16_from_f32(v);
        else ((float *)memory)[i] = v;
    }
    return memory;
}

/* 24 independent sums of vectors in registers: the peak. */
__attribute__((target("avx512f,avx512bf16"))) static float registers_bf16(long n) {
    __m512 sum[24];
    for (int i = 0; i < 24; i++) sum[i] = _mm512_setzero_ps();
    __m512bh a = (__m512bh)_mm512_set1_epi32(1), b = (__m512bh)_mm512_set1_epi32(2);
    for (long i = 0; i < n; i++) {
        __asm__ volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
        for (int j = 0; j < 24; j++) sum[j] = _mm512_dpbf16_ps(sum[j], a, b);
    }
    for (int j = 1; j < 24; j++) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) static float registers_f32(long n) {
    __m512 sum[24];
    for (int i = 0; i < 24; i++) sum[i] = _mm512_setzero_ps();
    __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(2);
    for (long i = 0; i < n; i++) {
        __asm__ volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
        for (int j = 0; j < 24; j++) sum[j] = _mm512_fmadd_ps(a, b, sum[j]);
    }
    for (int j = 1; j < 24; j++) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_cvtss_f32(sum[0]);
}

static void peak(const ladder *l) {
    const long n = 4000000;
    volatile float keep = 0;
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double start = now(l);
        keep = l->act == DD_DTYPE_BF16 ? registers_bf16(n) : registers_f32(n);
        double seconds = now(l) - start;
        if (seconds < best) best = seconds;
    }
    (void)keep;
    printf("%-40s %9.0f GFLOP/s per thread\n", "registers only",
           (l->act == DD_DTYPE_BF16 ? 64 : 32) * 24.0 * (double)n / best * 1e-9);
}

static void linear(ladder *l, int64_t m, int64_t n, int64_t k, dd_activation activation, bool residual, int repeats) {
    void *weight = numbers(l, l->act, (size_t)(n * k)), *x = numbers(l, l->act, (size_t)(m * k));
    void *y = numbers(l, DD_DTYPE_F32, (size_t)(m * n)), *row = numbers(l, DD_DTYPE_F32, (size_t)n);
    dd_weight_desc desc = {.name = "weight", .kind = DD_WEIGHT_LINEAR, .dtype = l->act, .out = n, .in = k, .data = weight,
                           .bias = row, .bias_dtype = DD_DTYPE_F32};
    dd_weight *w;
    check(l, l->b->ops->weight_prepare(l->b, &w, &desc, &l->err));
    dd_tensor ty = dd_tensor_2d(y, residual ? DD_DTYPE_F32 : l->act, m, n), tg = dd_tensor_1d(row, DD_DTYPE_F32, n);
    dd_linear_args a = {.y = ty, .x = dd_tensor_2d(x, l->act, m, k), .w = w, .activation = activation,
                        .gate = residual ? &tg : NULL, .add = residual ? &ty : NULL};
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double start = now(l);
        check(l, l->b->ops->linear(l->b, &a, &l->err));
        double seconds = now(l) - start;
        if (seconds < best) best = seconds;
    }
    char name[64];
    snprintf(name, sizeof name, "linear %dx%dx%d%s%s", (int)m, (int)n, (int)k, activation ? " gelu" : "",
             residual ? " gate add" : "");
    printf("%-40s %9.0f GFLOP/s %10.3f ms\n", name, 2.0 * (double)(m * n * k) / best * 1e-9, best * 1e3);
    l->b->ops->weight_free(l->b, w);
    dd_free(&dd_allocator_libc, weight);
    dd_free(&dd_allocator_libc, x);
    dd_free(&dd_allocator_libc, y);
    dd_free(&dd_allocator_libc, row);
}

static void attention(ladder *l, int64_t tokens, int heads, int size, int repeats) {
    int64_t width = (int64_t)heads * size;
    void *qkv = numbers(l, l->act, (size_t)(3 * width * tokens)), *out = numbers(l, l->act, (size_t)(width * tokens));
    dd_tensor t = dd_tensor_2d(qkv, l->act, tokens, 3 * width);
    dd_attention_args a = {.out = dd_tensor_2d(out, l->act, tokens, width), .q = dd_tensor_cols(t, 0, width),
                           .k = dd_tensor_cols(t, width, width), .v = dd_tensor_cols(t, 2 * width, width), .heads = heads,
                           .scale = 0.1f};
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double start = now(l);
        check(l, l->b->ops->attention(l->b, &a, &l->err));
        double seconds = now(l) - start;
        if (seconds < best) best = seconds;
    }
    char name[64];
    snprintf(name, sizeof name, "attention %d tokens, %d heads of %d", (int)tokens, heads, size);
    printf("%-40s %9.0f GFLOP/s %10.3f ms\n", name, 4.0 * (double)(tokens * tokens * width) / best * 1e-9, best * 1e3);
    dd_free(&dd_allocator_libc, qkv);
    dd_free(&dd_allocator_libc, out);
}

int main(int argc, char **argv) {
    dd_cpu_options options = {.activation = DD_DTYPE_BF16, .threads = 1};
    bool small = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "f32")) options.activation = DD_DTYPE_F32;
        else if (!strcmp(argv[i], "onednn")) options.only_onednn = true;
        else if (!strcmp(argv[i], "small")) small = true;
        else options.threads = atoi(argv[i]);
    }
    ladder l = {.act = options.activation, .clock = options.threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC};
    check(&l, dd_cpu_open(&l.b, &dd_allocator_libc, &options, &l.err));
    printf("%s; GFLOP/s by %s\n", l.b->device, options.threads == 1 ? "processor time" : "the clock");
    if (dd_cpu_has_bf16()) peak(&l);
    if (!small) {
        linear(&l, 4096, 4096, 4096, DD_ACTIVATION_NONE, false, 3);
        linear(&l, 4608, 3072, 3072, DD_ACTIVATION_NONE, true, 3);
        linear(&l, 4608, 12288, 3072, DD_ACTIVATION_GELU_TANH, false, 2);
        linear(&l, 4608, 3072, 12288, DD_ACTIVATION_NONE, true, 2);
        linear(&l, 1536, 3072, 3072, DD_ACTIVATION_NONE, true, 5);
        linear(&l, 768, 3072, 3072, DD_ACTIVATION_NONE, true, 5);
        linear(&l, 50, 18432, 3072, DD_ACTIVATION_NONE, false, 5);
        linear(&l, 1, 3072, 3072, DD_ACTIVATION_NONE, false, 20);
        attention(&l, 4608, 24, 128, 2);
        attention(&l, 1536, 24, 128, 3);
        attention(&l, 768, 24, 128, 5);
    }
    const int64_t tokens[] = {280, 88, 40};
    for (int i = 0; i < 3; i++) {
        linear(&l, tokens[i], 256, 256, DD_ACTIVATION_NONE, true, 500);
        linear(&l, tokens[i], 1024, 256, DD_ACTIVATION_GELU_TANH, false, 500);
        linear(&l, tokens[i], 256, 1024, DD_ACTIVATION_NONE, true, 500);
        attention(&l, tokens[i], 4, 64, 500);
    }
    l.b->ops->close(l.b);
    return 0;
}
