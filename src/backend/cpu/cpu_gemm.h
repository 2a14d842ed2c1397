/* What the files around matrix products share: linear weights, plans, scratch. Private to the room. */
#ifndef DD_BACKEND_CPU_CPU_GEMM_H
#define DD_BACKEND_CPU_CPU_GEMM_H

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/tile_kernels.h"

/* A linear weight; a dd_weight * of this kind is a dd_cpu_weight *. */
typedef struct dd_cpu_weight {
    dd_weight_info info; /* first, as in every weight of this backend */
    const dd_gemm_engine *engine;
    const dd_gemm_plan *plan; /* borrowed from the backend; used as thread dd_cpu.weight_thread + own number */
    void *packed;             /* owned: B operand of engine, info.out columns of depth info.in */
    float *bias;              /* owned [out], or NULL */
    unsigned uses;            /* dd_weight_use */
    struct dd_cpu_weight *transposed; /* owned: W^T without bias, so that dy W is its forward product; NULL without that use */
} dd_cpu_weight;

/* LoRA ranks (all overlays of a call together) for which reserve sets scratch aside; more grow it in the first call. */
enum { DD_CPU_LORA_RESERVE = 512 };

/* A plan for (engine, kind, m, n, k), made once and kept by the backend; *out may be NULL on success. */
ddit_status dd_cpu_plan_get(dd_cpu *cpu, const dd_gemm_engine *engine, dd_gemm_kind kind, int m, int n, int64_t k,
                            const dd_gemm_plan **out, ddit_err *err);
void dd_cpu_plans_free(dd_cpu *cpu);

/* Makes cpu->scratch and cpu->shared at least this large; what was in them is lost. */
ddit_status dd_cpu_scratch(dd_cpu *cpu, size_t per_thread, size_t shared, ddit_err *err);

/* The calling thread's slice of cpu->scratch. */
static inline char *dd_cpu_slice(const dd_cpu *cpu, int thread) {
    return (char *)cpu->scratch + (size_t)thread * cpu->scratch_per_thread;
}

/* linear whose epilogue is y = scale * product, or y += it (y then is F32), in place of what the arguments ask for. */
typedef struct dd_linear_end {
    float scale;
    bool add;
} dd_linear_end;
ddit_status dd_cpu_linear_ending(dd_cpu *cpu, const dd_linear_args *a, const dd_linear_end *end, ddit_err *err);

/* Bytes of scratch a thread needs for a linear of this depth with overlays of `ranks` ranks in total. */
size_t dd_cpu_linear_scratch(const dd_gemm_engine *e, int64_t k, int64_t ranks);

/* Plans for attention of this head size, and the bytes of scratch that a problem of this size needs. */
ddit_status dd_cpu_attention_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads, int64_t width, size_t *per_thread,
                                     size_t *shared, ddit_err *err);

static inline size_t dd_cpu_align(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* A tile of products, and behind it the memory in which an engine may add aside. */
static inline size_t dd_cpu_tile_bytes(const dd_gemm_engine *e) {
    return (size_t)e->rows * (size_t)e->cols * sizeof(float) * (e->adds_aside ? 2 : 1);
}

/* Where value [row, col] of a matrix is. */
static inline const void *dd_cpu_at(const dd_tensor *t, int64_t row, int64_t col) {
    return (const char *)t->data + (size_t)(row * t->ld + col) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

/* Asks for the lines of a tile of y and of what is read with it while the product runs: they are rows apart, where no hardware
 * prefetcher follows. */
static inline void dd_cpu_fetch_tile(const dd_tensor *t, int64_t row, int m, int64_t col, int n) {
    const int line = 64;
    int bytes = n * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
    for (int i = 0; i < m; i++) {
        const char *p = (const char *)dd_cpu_at(t, row + i, col);
        for (int b = 0; b < bytes; b += line) __builtin_prefetch(p + b, 1, 2);
    }
}

#endif
