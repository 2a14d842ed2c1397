/* Rotary position tables for cells of any size. */
#ifndef DD_DIT_FLUX_ROPE_H
#define DD_DIT_FLUX_ROPE_H

#include "format/config.h"
#include "layout/layout.h"

/* cos and sin of every position a cell's centre can have: multiples of 1/2 (k*i + (k-1)/2 for k = 1, 2, 4). */
typedef struct dd_flux_rope {
    int head_dim;
    int width[3];        /* axes_dims_rope: frame, row, column */
    int positions;       /* 0, 1/2, 1, ... */
    float *axis[2];      /* owned, host: row and column axis [positions, width]: pairs (cos, sin) */
    const dd_allocator *allocator;
} dd_flux_rope;

/* For grids up to `grid`. Angles in float64, stored as float32 (diffusers' FluxPosEmbed). Cells: docs/method.md 1. */
ddit_status dd_flux_rope_init(dd_flux_rope *rope, const dd_allocator *a, const dd_flux_config *config, dd_grid grid,
                              ddit_err *err);
void dd_flux_rope_deinit(dd_flux_rope *rope);

/* rows [text + layout cells, head_dim]: no rotation for text, the cells' centres for the rest. */
void dd_flux_rope_rows(const dd_flux_rope *rope, int text, const dd_layout *layout, float *rows);

#endif
