/* Random layouts of cells of several sizes, such as `region` makes, for training.
 *
 * Every aligned block of 4 x 4 base cells is one cell of factor 4 or is split; every quadrant of a split block is one cell of
 * factor 2 or four of factor 1. Half of the layouts are fine around a random centre and coarse far from it, as pictures are;
 * in the other half every block and quadrant is drawn by itself. How much is coarse is drawn for each layout. Cells never hang
 * over the edge.
 */
#ifndef DD_TRAIN_MIXED_LAYOUT_H
#define DD_TRAIN_MIXED_LAYOUT_H

#include "layout/layout.h"

typedef struct dd_mixed_layouts {
    dd_grid grid;
    bool factor[DD_FACTOR_COUNT]; /* which may occur; factor 1 always may */
    int most;                     /* cells that no layout exceeds */
    uint8_t *choice, *quad;       /* owned: scratch, see dd_layout_set_choices */
    const dd_allocator *allocator;
} dd_mixed_layouts;

/* The most cells of a layout that dd_mixed_layouts_draw makes: three fifths of those of factor 1, or what the smallest possible
 * layout has if that is more. */
int dd_mixed_layouts_most(dd_grid grid, const bool factor[DD_FACTOR_COUNT]);

/* Errors: DDIT_ERR_NO_MEMORY; *m is then zeroed. deinit accepts a zeroed one. */
ddit_status dd_mixed_layouts_init(dd_mixed_layouts *m, const dd_allocator *a, dd_grid grid, const bool factor[DD_FACTOR_COUNT],
                                  ddit_err *err);
void dd_mixed_layouts_deinit(dd_mixed_layouts *m);

/* Sets `layout` (dd_layout_init of the same grid) to the layout of (seed, sample). Allocates nothing. */
void dd_mixed_layouts_draw(dd_mixed_layouts *m, uint64_t seed, uint64_t sample, dd_layout *layout);

/* Bytes it owns. */
uint64_t dd_mixed_layouts_bytes(dd_grid grid);

#endif
