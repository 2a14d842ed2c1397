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
    const dd_gemm_plan *plan; /* borrowed from the backend */
    void *packed;             /* owned: B operand of engine, info.out columns of depth info.in */
    float *bias;              /* owned [out], or NULL */
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

/* Bytes of scratch a thread needs for a linear of this depth with overlays of `ranks` ranks in total. */
size_t dd_cpu_linear_scratch(const dd_gemm_engine *e, int64_t k, int64_t ranks);

/* Plans for attention of this head size, and the bytes of scratch that a problem of this size needs. */
ddit_status dd_cpu_attention_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads, int64_t width, size_t *per_thread,
                                     size_t *shared, ddit_err *err);

static inline size_t dd_cpu_align(size_t bytes) { return (bytes + 63) / 64 * 64; }

#endif
