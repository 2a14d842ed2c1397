/* The cpu backend's own state and the list of its slots. Private to the room. */
#ifndef DD_BACKEND_CPU_CPU_STATE_H
#define DD_BACKEND_CPU_CPU_STATE_H

#include "backend/cpu/cpu.h"
#include "base/pool.h"

struct dd_gemm_engine;  /* gemm.h: matrix products of tiles */
struct dd_cpu_kernels;  /* kernels.h: row kernels of the best instruction set */
struct dd_tile_kernels; /* tile_kernels.h: what happens to tiles around matrix products, likewise */
typedef struct dd_cpu_plan dd_cpu_plan; /* cpu_weight.c */
struct dd_conv_state;   /* cpu_conv.c: oneDNN engine and convolution plans */

typedef struct dd_cpu {
    dd_backend base; /* first: a dd_backend * is a dd_cpu * */
    dd_pool *pool;   /* owned; run it through dd_cpu_run (rows.h) */
    const struct dd_cpu_kernels *kernels;
    const struct dd_gemm_engine *engine;      /* for the activation dtype */
    const struct dd_gemm_engine *engine_f32;  /* for full_precision weights */
    struct dd_conv_state *conv;               /* owned; made by the first convolution weight */
    const struct dd_tile_kernels *tiles;
    dd_cpu_plan *plans;                       /* owned list: what engines made for the shapes met so far */
    void *scratch;                            /* owned; a slice per thread. reserve makes it large enough, else a call does */
    size_t scratch_size, scratch_per_thread;
    void *shared;                             /* owned; scratch that all threads of a call see */
    size_t shared_size;
    int weight_thread;                        /* a lane: which thread of the weights' plans it is; else 0 */
    dd_backend_ops ops;                       /* base.ops points here: ref's table with this backend's slots */
    char device[96];
} dd_cpu;

static inline dd_cpu *dd_cpu_of(dd_backend *b) { return (dd_cpu *)b; }

/* cpu_linear.c, cpu_attention.c */
ddit_status dd_cpu_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err);
ddit_status dd_cpu_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err);
/* cpu_weight.c: linear weights; convolution weights go to dd_cpu_conv_weight_* */
ddit_status dd_cpu_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err);
void dd_cpu_weight_free(dd_backend *b, dd_weight *w);
dd_weight_info dd_cpu_weight_info(const dd_weight *w);
ddit_status dd_cpu_weight_update(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err);
ddit_status dd_cpu_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err);
/* cpu_conv.c. Every dd_weight of this backend begins with a dd_weight_info. */
ddit_status dd_cpu_conv_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err);
void dd_cpu_conv_weight_free(dd_backend *b, dd_weight *w);
ddit_status dd_cpu_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err);
void dd_cpu_conv_close(dd_cpu *cpu);
/* cpu_norm.c */
ddit_status dd_cpu_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err);
ddit_status dd_cpu_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err);
ddit_status dd_cpu_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err);
/* cpu_pointwise.c */
ddit_status dd_cpu_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                          dd_activation activation, ddit_err *err);
ddit_status dd_cpu_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err);
/* cpu_cells.c */
ddit_status dd_cpu_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err);
ddit_status dd_cpu_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err);
ddit_status dd_cpu_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err);

#endif
