#include "train/mixed_layout.h"

#include <math.h>

#include "base/counter_rng.h"
#include "train/streams.h"

static int block_rows(dd_grid g) { return (g.rows + 3) / 4; }
static int block_cols(dd_grid g) { return (g.cols + 3) / 4; }
static int block_count(dd_grid g) { return block_rows(g) * block_cols(g); }

static int clip(int from, int size, int end) { return from >= end ? 0 : from + size <= end ? size : end - from; }

/* Base cells of the size x size square at (row, col) that lie inside the grid. */
static int cells_inside(dd_grid g, int row, int col, int size) { return clip(row, size, g.rows) * clip(col, size, g.cols); }

static int block_row(dd_grid g, int b) { return b / block_cols(g) * 4; }
static int block_col(dd_grid g, int b) { return b % block_cols(g) * 4; }
static int quad_row(dd_grid g, int b, int q) { return block_row(g, b) + q / 2 * 2; }
static int quad_col(dd_grid g, int b, int q) { return block_col(g, b) + q % 2 * 2; }

static bool block_fits(dd_grid g, const bool *factor, int b) {
    return factor[2] && cells_inside(g, block_row(g, b), block_col(g, b), 4) == 16;
}

static bool quad_fits(dd_grid g, const bool *factor, int b, int q) {
    return factor[1] && cells_inside(g, quad_row(g, b, q), quad_col(g, b, q), 2) == 4;
}

int dd_mixed_layouts_most(dd_grid g, const bool factor[DD_FACTOR_COUNT]) {
    int fewest = 0, most = g.rows * g.cols * 3 / 5;
    for (int b = 0; b < block_count(g); b++) {
        bool coarse = block_fits(g, factor, b);
        for (int q = 0; q < 4 && !coarse; q++)
            fewest += quad_fits(g, factor, b, q) ? 1 : cells_inside(g, quad_row(g, b, q), quad_col(g, b, q), 2);
        fewest += coarse;
    }
    return most > fewest ? most : fewest;
}

uint64_t dd_mixed_layouts_bytes(dd_grid grid) { return 5 * (uint64_t)block_count(grid); }

ddit_status dd_mixed_layouts_init(dd_mixed_layouts *m, const dd_allocator *a, dd_grid grid, const bool factor[DD_FACTOR_COUNT],
                                  ddit_err *err) {
    *m = (dd_mixed_layouts){.grid = grid, .most = dd_mixed_layouts_most(grid, factor), .allocator = a};
    for (int f = 0; f < DD_FACTOR_COUNT; f++) m->factor[f] = factor[f];
    size_t blocks = (size_t)block_count(grid);
    ddit_status status;
    DD_GO(dd_alloc(a, &m->choice, blocks, 1, "a mixed layout", err));
    DD_GO(dd_alloc(a, &m->quad, blocks, 4, "a mixed layout", err));
done:
    if (status != DDIT_OK) dd_mixed_layouts_deinit(m);
    return status;
}

void dd_mixed_layouts_deinit(dd_mixed_layouts *m) {
    if (!m->allocator) return;
    dd_free(m->allocator, m->choice);
    dd_free(m->allocator, m->quad);
    *m = (dd_mixed_layouts){0};
}

/* ---------------------------------------------------------------------------------------------- drawing */

/* The numbers of one layout, taken in order. */
typedef struct draws {
    uint64_t seed, stream, next;
} draws;

static double uniform(draws *d, double low, double high) {
    return low + (high - low) * dd_counter_uniform(d->seed, d->stream, d->next++);
}

/* How coarse a place should be: larger is coarser; against two limits. */
typedef struct field {
    bool around;                 /* distance from a centre, or chance alone */
    double row, col, blur;       /* the centre, and how much chance is added */
    double split4, split2;       /* a block is coarse from split4 on, a quadrant from split2 on */
} field;

static field draw_field(draws *d) {
    field f = {.around = uniform(d, 0, 1) < 0.5};
    f.row = uniform(d, 0, 1);
    f.col = uniform(d, 0, 1);
    f.blur = uniform(d, 0, 0.3);
    f.split2 = f.around ? uniform(d, 0.1, 0.45) : uniform(d, 0, 0.7);
    f.split4 = f.around ? f.split2 + uniform(d, 0.05, 0.4) : uniform(d, 0.4, 1);
    return f;
}

static double coarseness(const field *f, draws *d, dd_grid g, double row, double col) {
    double chance = uniform(d, 0, 1);
    if (!f->around) return chance;
    double y = row / g.rows - f->row, x = col / g.cols - f->col;
    return sqrt(y * y + x * x) + f->blur * (chance - 0.5);
}

static void draw_block(dd_mixed_layouts *m, const field *f, draws *d, int b) {
    dd_grid g = m->grid;
    bool coarse = coarseness(f, d, g, block_row(g, b) + 2, block_col(g, b) + 2) >= f->split4;
    m->choice[b] = coarse && block_fits(g, m->factor, b) ? 4 : 0;
    for (int q = 0; q < 4; q++) {
        coarse = coarseness(f, d, g, quad_row(g, b, q) + 1, quad_col(g, b, q) + 1) >= f->split2;
        m->quad[4 * b + q] = coarse && quad_fits(g, m->factor, b, q) ? 2 : 1;
    }
}

static int block_cells(const dd_mixed_layouts *m, int b) {
    if (m->choice[b] == 4) return 1;
    int cells = 0;
    for (int q = 0; q < 4; q++)
        cells += m->quad[4 * b + q] == 2 ? 1 : cells_inside(m->grid, quad_row(m->grid, b, q), quad_col(m->grid, b, q), 2);
    return cells;
}

/* Makes a block as coarse as can be without factor 4 where factor 2 is there. */
static void coarsen(dd_mixed_layouts *m, int b, bool to_4) {
    if (to_4 && block_fits(m->grid, m->factor, b)) m->choice[b] = 4;
    for (int q = 0; q < 4; q++)
        if (quad_fits(m->grid, m->factor, b, q)) m->quad[4 * b + q] = 2;
}

/* Memory is planned for `most` cells: blocks are made coarser, from a random one on, until the layout fits. */
static void bound(dd_mixed_layouts *m, draws *d) {
    int blocks = block_count(m->grid), cells = 0;
    for (int b = 0; b < blocks; b++) cells += block_cells(m, b);
    int start = (int)uniform(d, 0, blocks);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < blocks && cells > m->most; i++) {
            int b = (start + i) % blocks, before = block_cells(m, b);
            coarsen(m, b, round > 0 || !m->factor[1]);
            cells += block_cells(m, b) - before;
        }
    }
}

void dd_mixed_layouts_draw(dd_mixed_layouts *m, uint64_t seed, uint64_t sample, dd_layout *layout) {
    draws d = {.seed = seed, .stream = dd_stream_of(DD_STREAM_MIXED_LAYOUT, sample)};
    field f = draw_field(&d);
    for (int b = 0; b < block_count(m->grid); b++) draw_block(m, &f, &d, b);
    bound(m, &d);
    dd_layout_set_choices(layout, m->choice, m->quad);
}
