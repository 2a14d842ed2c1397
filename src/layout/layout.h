/* dd_layout: which cells the latent is cut into at one step. One cell is one token.
 *
 * Words: the base patch is p latent pixels (2 for FLUX). A cell of factor k (1, 2, 4) covers k*p x k*p latent pixels. Cells
 * are kept by factor (1, then 2, then 4), raster order inside a factor: that is the order of the image tokens. A layout is
 * immutable after it is made and knows nothing of weights or tensors.
 *
 * Where k*p does not divide the latent, uniform layouts have cells that hang over the right and bottom edge; whoever reads
 * them repeats the edge, whoever writes them crops.
 */
#ifndef DD_LAYOUT_LAYOUT_H
#define DD_LAYOUT_LAYOUT_H

#include "base/alloc.h"

enum { DD_FACTOR_COUNT = 3 }; /* factors 1, 2, 4 have the indices 0, 1, 2 */

/* Index of a factor (1 -> 0, 2 -> 1, 4 -> 2), -1 for anything else; and back. */
int dd_factor_index(int factor);
int dd_factor_at(int index);

/* The grid a layout lives on, in units of base cells (p x p latent pixels). */
typedef struct dd_grid {
    int rows, cols; /* latent height / p, width / p */
    int patch;      /* p, latent pixels */
} dd_grid;

typedef struct dd_layout {
    dd_grid grid;
    int cell_count[DD_FACTOR_COUNT]; /* cells of factor 1, 2, 4 */
    int cell_begin[DD_FACTOR_COUNT]; /* first image token of the factor */
    int cell_total;
    float text_share[DD_FACTOR_COUNT]; /* share of the latent's area covered by the factor's cells; sums to 1 */
    uint8_t *factor;   /* owned [grid.rows, grid.cols]: factor of the cell that covers each base cell */
    int32_t *origin;   /* owned [cell_total, 2]: row and column of each cell's first latent pixel */
    float *position;   /* owned [cell_total, 2]: row and column of the cell's centre in base cells: k*i + (k-1)/2 */
    const dd_allocator *allocator;
} dd_layout;

/* Upper bound of cell_total on a grid: every cell of factor 1. */
int dd_layout_max_cells(dd_grid grid);

/* Makes room for any layout of the grid, so that dd_layout_set_* never allocate; the layout is then uniform 1. Free with
 * dd_layout_deinit (accepts a zeroed one). Errors: DDIT_ERR_ARGUMENT for sides below 1 or too many cells, DDIT_ERR_NO_MEMORY;
 * the layout is then zeroed. */
ddit_status dd_layout_init(dd_layout *layout, const dd_allocator *a, dd_grid grid, ddit_err *err);
void dd_layout_deinit(dd_layout *layout);

/* All cells of one factor (1, 2 or 4). */
void dd_layout_set_uniform(dd_layout *layout, int factor);

/* From the string form: 4p blocks in raster order, each `4` or `(qqqq)`, q = `2` or `1` (`1` = four cells of factor 1), raster
 * order of the 2p quadrants. Blocks or quadrants that hang over the edge hold only the cells inside it: a `4` over the edge
 * is refused; quadrants and base cells wholly outside are left out but their letter must be there (`1`).
 * Errors: DDIT_ERR_ARGUMENT with the position of the wrong character (1 = first), what was found and expected; layout is then
 * uniform 1. */
ddit_status dd_layout_set_string(dd_layout *layout, const char *text, ddit_err *err);

/* From a decision per aligned 4p block and 2p quadrant: choice[block] = 4, or 0 = see quadrants; quad[block*4+q] = 2 or 1.
 * Blocks in raster order of ceil(rows/4) x ceil(cols/4). Preconditions as for the string. */
void dd_layout_set_choices(dd_layout *layout, const uint8_t *choice, const uint8_t *quad);

/* The string form, into text (NUL-terminated, always fits dd_layout_string_size bytes); "" for a layout with cells over the
 * edge, which has none. Uniform(1) is all `(1111)`. */
void dd_layout_to_string(const dd_layout *layout, char *text);
size_t dd_layout_string_size(dd_grid grid);

/* The factor if all cells have the same, else 0. */
int dd_layout_uniform_factor(const dd_layout *layout);

#endif
