/* Opening the cpu backend: which engine and which kernels this processor gets. */
#include <cpuid.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu_gemm.h"
#include "backend/cpu/cpu_grad.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/onednn.h"
#include "backend/ref/ref.h"

/* ------------------------------------------------------------------------------------------------ the processor */

/* Whether the operating system saves these registers is part of __builtin_cpu_supports. */
static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

static bool has_avx512_bf16(void) {
    __builtin_cpu_init();
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* AMX-BF16 as CPUID tells it (leaf 7, EDX bits 22 and 24), and tile state enabled by the system (XCR0 bits 17 and 18). */
static bool has_amx_bf16(void) {
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    if (!has_avx512() || !__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if (!(edx & 1u << 22) || !(edx & 1u << 24)) return false;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 0x60000u) == 0x60000u;
}

bool dd_cpu_has_bf16(void) { return has_avx512_bf16() || has_amx_bf16(); }

const dd_tile_kernels *dd_tile_kernels_best(void) {
    if (has_avx512_bf16()) return &dd_tile_kernels_avx512bf16;
    if (has_avx512()) return &dd_tile_kernels_avx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &dd_tile_kernels_avx2 : &dd_tile_kernels_baseline;
}

/* "AMD EPYC 9755 …" from CPUID, without the spaces and hypes around it; "x86-64" if the processor does not say. */
static void processor_name(char name[49]) {
    unsigned words[12];
    memcpy(name, "x86-64", sizeof "x86-64");
    if (__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    char text[49];
    memcpy(text, words, 48);
    text[48] = 0;
    const char *from = text;
    while (*from == ' ') from++;
    size_t length = strlen(from);
    while (length > 0 && from[length - 1] == ' ') length--;
    if (length == 0) return;
    memcpy(name, from, length);
    name[length] = 0;
}

/* ------------------------------------------------------------------------------------------------ the table */

static void cpu_close(dd_backend *b) {
    dd_cpu *cpu = dd_cpu_of(b);
    dd_pool_free(cpu->pool);
    dd_cpu_conv_close(cpu);
    dd_cpu_plans_free(cpu);
    dd_free(b->allocator, cpu->scratch);
    dd_free(b->allocator, cpu->shared);
    dd_free(b->allocator, cpu);
}

static void describe(dd_cpu *cpu) {
    char name[49];
    processor_name(name);
    int threads = cpu->base.threads;
    snprintf(cpu->device, sizeof cpu->device, "%s (%s), %d thread%s", name, cpu->engine->name, threads,
             threads == 1 ? "" : "s");
}

/* Scratch and plans of its own; only the plans of weights are the parent's. Convolution weights keep plans that a call may add
 * to, so lanes have no convolution. */
static ddit_status lane_open(dd_backend *b, int index, dd_backend **lane, ddit_err *err) {
    const dd_cpu *parent = dd_cpu_of(b);
    dd_cpu *cpu = NULL;
    *lane = NULL;
    DD_TRY(dd_alloc(b->allocator, &cpu, 1, sizeof *cpu, "a lane of the cpu backend", err));
    cpu->base = (dd_backend){.ops = &cpu->ops, .allocator = b->allocator, .activation = b->activation, .threads = 1,
                             .device = cpu->device};
    cpu->kernels = parent->kernels;
    cpu->tiles = parent->tiles;
    cpu->engine = parent->engine;
    cpu->engine_f32 = parent->engine_f32;
    cpu->weight_thread = index;
    cpu->ops = parent->ops;
    cpu->ops.weight_prepare = NULL;
    cpu->ops.weight_update = NULL;
    cpu->ops.conv2d = NULL;
    cpu->ops.lane_open = NULL;
    describe(cpu);
    ddit_status status = dd_pool_create(&cpu->pool, b->allocator, 1, NULL, err);
    if (status) dd_free(b->allocator, cpu);
    else *lane = &cpu->base;
    return status;
}

/* ref's table with this backend's slots. Its weights are of another kind, so every op that takes one is replaced. */
static void fill_table(dd_backend_ops *ops) {
    *ops = dd_ref_ops;
    ops->name = "cpu";
    ops->close = cpu_close;
    ops->weight_prepare = dd_cpu_weight_prepare;
    ops->weight_free = dd_cpu_weight_free;
    ops->weight_info = dd_cpu_weight_info;
    ops->reserve = dd_cpu_reserve;
    ops->linear = dd_cpu_linear;
    ops->attention = dd_cpu_attention;
    ops->conv2d = dd_cpu_conv2d;
    ops->norm = dd_cpu_norm;
    ops->group_norm = dd_cpu_group_norm;
    ops->qk_norm_rope = dd_cpu_qk_norm_rope;
    ops->affine = dd_cpu_affine;
    ops->upsample2x = dd_cpu_upsample2x;
    ops->cells_gather = dd_cpu_cells_gather;
    ops->cells_scatter = dd_cpu_cells_scatter;
    ops->patch_stats = dd_cpu_patch_stats;
    ops->weight_update = dd_cpu_weight_update;
    ops->lane_open = lane_open;
    ops->grad = &dd_cpu_grad_ops;
}

/* AMX is several times faster than vectors and oneDNN uses it; without AMX our own kernels are ahead of oneDNN's. */
static void choose_engines(dd_cpu *cpu, const dd_cpu_options *o) {
    bool own = has_avx512_bf16() && !o->only_onednn;
    cpu->engine_f32 = own ? &dd_gemm_avx512_f32 : &dd_gemm_onednn_f32;
    const dd_gemm_engine *bf16 = own && !has_amx_bf16() ? &dd_gemm_avx512_bf16 : &dd_gemm_onednn_bf16;
    cpu->engine = o->activation == DD_DTYPE_BF16 ? bf16 : cpu->engine_f32;
}

ddit_status dd_cpu_open(dd_backend **out, const dd_allocator *a, const dd_cpu_options *o, ddit_err *err) {
    *out = NULL;
    if (o->threads < 1) return dd_fail(err, DDIT_ERR_ARGUMENT, "%d threads were asked for; at least 1 is needed", o->threads);
    if (o->activation != DD_DTYPE_F32 && o->activation != DD_DTYPE_BF16)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the cpu backend computes in BF16 or F32, not %s",
                       dd_dtype_name(o->activation));
    if (o->activation == DD_DTYPE_BF16 && !dd_cpu_has_bf16())
        return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                       "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX); use float32");
    dd_cpu *cpu = NULL;
    DD_TRY(dd_alloc(a, &cpu, 1, sizeof *cpu, "the cpu backend", err));
    ddit_status status = dd_pool_create(&cpu->pool, a, o->threads, dd_onednn_one_thread, err);
    if (status != DDIT_OK) {
        dd_free(a, cpu);
        return status;
    }
    cpu->base.allocator = a;
    cpu->base.activation = o->activation;
    cpu->base.threads = o->threads;
    cpu->base.device = cpu->device;
    fill_table(&cpu->ops);
    cpu->base.ops = &cpu->ops;
    cpu->kernels = dd_cpu_kernels_best();
    cpu->tiles = dd_tile_kernels_best();
    choose_engines(cpu, o);
    describe(cpu);
    *out = &cpu->base;
    return DDIT_OK;
}
