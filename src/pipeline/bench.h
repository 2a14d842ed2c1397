/* What ddit_bench is made of. Private to the room. */
#ifndef DD_PIPELINE_BENCH_H
#define DD_PIPELINE_BENCH_H

#include "pipeline/pipeline.h"

/* Seconds and floating-point operations by kind of op. */
typedef struct dd_bench_split {
    double linear, attention;
    double flops; /* 2 per multiplication and addition, of matrix products and attention */
} dd_bench_split;

/* A backend that hands every call on to another one and measures matrix products and attention on the way, so that model code
 * is measured as it is. Weights made through it belong to the other one. Slots that the transformer does not use are empty. */
typedef struct dd_bench_timer {
    dd_backend base;    /* what model code gets */
    dd_backend_ops ops;
    dd_backend *inner;  /* borrowed */
    dd_bench_split split;
} dd_bench_timer;

void dd_bench_timer_init(dd_bench_timer *timer, dd_backend *inner);

/* Random weights of one double and one single block (and of what stands around them) of a known width, with an adapter of rank
 * 32 for the factors 2 and 4. They go through a temporary folder in $TMPDIR (/tmp), which is removed again before this returns;
 * the mapped files live on. */
typedef struct dd_bench_shape {
    dd_flux_config config;
    int text_tokens;
    dd_weight_files *files; /* owned */
    dd_adapter adapter;     /* owned */
} dd_bench_shape;

/* name: "flux-dev" or "emoji". Errors: DDIT_ERR_ARGUMENT for another name, those of writing and reading files,
 * DDIT_ERR_NO_MEMORY; *shape is zeroed on failure. */
ddit_status dd_bench_shape_make(dd_bench_shape *shape, const dd_allocator *a, const char *name, ddit_err *err);
void dd_bench_shape_free(dd_bench_shape *shape);

/* What is measured: a transformer on the timer, and a picture size. */
typedef struct dd_bench_case {
    dd_bench_timer *timer;
    dd_flux_dit *dit;
    dd_grid grid;
    int text_tokens, trimmed_text;
    int repeats;
    const ddit_bench_params *callbacks;
} dd_bench_case;

enum { DD_BENCH_MAX_REPEATS = 1000 };

/* Medians over the repeats. */
typedef struct dd_bench_result {
    bool measured; /* the adapter has the factor */
    int text_tokens, image_tokens;
    double seconds, best, linear, attention, rest;
    double flops;
    double cost_share; /* of a step at factor 1, median of the ratios of neighbouring steps */
} dd_bench_result;

/* Steps at factors 1, 2, 4 in turn, `repeats` times after one warm-up; after each round the 4096^3 product, whose best rate
 * comes out in *gemm_flops (per second). Errors: those of the model, DDIT_ERR_CANCELLED. */
ddit_status dd_bench_measure(const dd_bench_case *c, dd_bench_result results[DD_FACTOR_COUNT], double *gemm_flops,
                             ddit_err *err);

#endif
