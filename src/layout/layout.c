#include "layout/layout.h"

#include <stdio.h>
#include <string.h>

#include "base/scan.h"

enum { MAX_SIDE = 1 << 15, MAX_CELLS = 1 << 26 };

int dd_factor_index(int factor) { return factor == 1 ? 0 : factor == 2 ? 1 : factor == 4 ? 2 : -1; }

int dd_factor_at(int index) { return 1 << index; }

static int ceil_div(int x, int y) { return (x + y - 1) / y; }

int dd_layout_max_cells(dd_grid grid) { return grid.rows * grid.cols; }

ddit_status dd_layout_init(dd_layout *layout, const dd_allocator *a, dd_grid grid, ddit_err *err) {
    *layout = (dd_layout){.allocator = a};
    ddit_status status;
    if (grid.rows < 1 || grid.cols < 1 || grid.patch < 1 || grid.rows > MAX_SIDE / grid.patch ||
        grid.cols > MAX_SIDE / grid.patch || grid.rows > MAX_CELLS / grid.cols) {
        status = dd_fail(err, DDIT_ERR_ARGUMENT,
                         "a layout of %d x %d cells of %d latent pixels was asked for; 1 to %d pixels a side "
                         "and %d cells are possible", grid.rows, grid.cols, grid.patch, MAX_SIDE, MAX_CELLS);
        goto done;
    }
    size_t cells = (size_t)grid.rows * (size_t)grid.cols;
    layout->grid = grid;
    DD_GO(dd_alloc(a, &layout->factor, cells, sizeof *layout->factor, "a layout", err));
    DD_GO(dd_alloc(a, &layout->origin, cells, 2 * sizeof *layout->origin, "a layout", err));
    DD_GO(dd_alloc(a, &layout->position, cells, 2 * sizeof *layout->position, "a layout", err));
    dd_layout_set_uniform(layout, 1);
    return DDIT_OK;
done:
    dd_layout_deinit(layout);
    return status;
}

void dd_layout_deinit(dd_layout *layout) {
    if (!layout->allocator) return;
    dd_free(layout->allocator, layout->factor);
    dd_free(layout->allocator, layout->origin);
    dd_free(layout->allocator, layout->position);
    *layout = (dd_layout){0};
}

/* Adds the cells of one factor in raster order: those whose first base cell is marked with it. */
static void add_cells(dd_layout *layout, int factor) {
    dd_grid grid = layout->grid;
    int index = dd_factor_index(factor), n = layout->cell_total;
    float half = 0.5f * (float)(factor - 1); /* from the first base cell to the centre */
    layout->cell_begin[index] = n;
    for (int row = 0; row < grid.rows; row += factor) {
        for (int col = 0; col < grid.cols; col += factor) {
            if (layout->factor[(size_t)row * (size_t)grid.cols + (size_t)col] != factor) continue;
            layout->origin[2 * n] = row * grid.patch;
            layout->origin[2 * n + 1] = col * grid.patch;
            layout->position[2 * n] = (float)row + half;
            layout->position[2 * n + 1] = (float)col + half;
            n++;
        }
    }
    layout->cell_count[index] = n - layout->cell_total;
    layout->cell_total = n;
}

/* Makes cells, counts and shares from layout->factor. */
static void build(dd_layout *layout) {
    size_t area[DD_FACTOR_COUNT] = {0}, cells = (size_t)layout->grid.rows * (size_t)layout->grid.cols;
    for (size_t i = 0; i < cells; i++) area[dd_factor_index(layout->factor[i])]++;
    layout->cell_total = 0;
    for (int i = 0; i < DD_FACTOR_COUNT; i++) {
        add_cells(layout, dd_factor_at(i));
        layout->text_share[i] = (float)((double)area[i] / (double)cells);
    }
}

/* Marks the size x size base cells from (row, col) on, as far as they lie inside the grid. */
static void mark(dd_layout *layout, int row, int col, int size, int factor) {
    int cols = layout->grid.cols;
    int end_row = row + size < layout->grid.rows ? row + size : layout->grid.rows;
    int width = col + size < cols ? size : cols - col;
    if (width <= 0) return;
    for (int r = row; r < end_row; r++) memset(layout->factor + (size_t)r * (size_t)cols + col, factor, (size_t)width);
}

static bool inside(dd_grid grid, int row, int col, int size) { return row + size <= grid.rows && col + size <= grid.cols; }

void dd_layout_set_uniform(dd_layout *layout, int factor) {
    memset(layout->factor, factor, (size_t)layout->grid.rows * (size_t)layout->grid.cols);
    build(layout);
}

void dd_layout_set_choices(dd_layout *layout, const uint8_t *choice, const uint8_t *quad) {
    int block_rows = ceil_div(layout->grid.rows, 4), block_cols = ceil_div(layout->grid.cols, 4);
    for (int b = 0; b < block_rows * block_cols; b++) {
        int row = b / block_cols * 4, col = b % block_cols * 4;
        if (choice[b] == 4) {
            mark(layout, row, col, 4, 4);
            continue;
        }
        for (int q = 0; q < 4; q++) mark(layout, row + q / 2 * 2, col + q % 2 * 2, 2, quad[b * 4 + q]);
    }
    build(layout);
}

/* The sentence for a character that does not fit. The text may have been cut or changed by hand in a trace. */
static ddit_status wrong_character(ddit_err *err, const char *text, const char *at, const char *expected) {
    char found[DD_FOUND_SIZE];
    return dd_fail(err, DDIT_ERR_ARGUMENT, "layout string, character %td: found %s, expected %s", at - text + 1,
                   dd_found(found, at), expected);
}

/* Reads one 4p block at *at and marks it. */
static ddit_status parse_block(dd_layout *layout, const char *text, const char **at, int row, int col, ddit_err *err) {
    const char *p = *at;
    if (*p == '4') {
        if (!inside(layout->grid, row, col, 4))
            return wrong_character(err, text, p, "'(' because this 4p block hangs over the edge of the latent");
        mark(layout, row, col, 4, 4);
        *at = p + 1;
        return DDIT_OK;
    }
    if (*p != '(') return wrong_character(err, text, p, "'4' or '('");
    p++;
    for (int q = 0; q < 4; q++, p++) {
        int r = row + q / 2 * 2, c = col + q % 2 * 2;
        if (*p != '1' && *p != '2') return wrong_character(err, text, p, "'2' or '1'");
        if (*p == '2' && !inside(layout->grid, r, c, 2))
            return wrong_character(err, text, p, "'1' because this quadrant hangs over the edge of the latent");
        mark(layout, r, c, 2, *p - '0');
    }
    if (*p != ')') return wrong_character(err, text, p, "')'");
    *at = p + 1;
    return DDIT_OK;
}

ddit_status dd_layout_set_string(dd_layout *layout, const char *text, ddit_err *err) {
    dd_grid grid = layout->grid;
    const char *at = text;
    ddit_status status = DDIT_OK;
    for (int row = 0; row < grid.rows; row += 4)
        for (int col = 0; col < grid.cols; col += 4) DD_GO(parse_block(layout, text, &at, row, col, err));
    if (*at) {
        char expected[64];
        snprintf(expected, sizeof expected, "the end after %d blocks", ceil_div(grid.rows, 4) * ceil_div(grid.cols, 4));
        status = wrong_character(err, text, at, expected);
    }
done:
    if (status != DDIT_OK) memset(layout->factor, 1, (size_t)grid.rows * (size_t)grid.cols);
    build(layout);
    return status;
}

size_t dd_layout_string_size(dd_grid grid) {
    return (size_t)ceil_div(grid.rows, 4) * (size_t)ceil_div(grid.cols, 4) * strlen("(1111)") + 1;
}

void dd_layout_to_string(const dd_layout *layout, char *text) {
    dd_grid grid = layout->grid;
    char *out = text;
    for (int row = 0; row < grid.rows; row += 4) {
        for (int col = 0; col < grid.cols; col += 4) {
            const uint8_t *block = layout->factor + (size_t)row * (size_t)grid.cols + col;
            if (*block == 4) {
                if (!inside(grid, row, col, 4)) goto no_form;
                *out++ = '4';
                continue;
            }
            *out++ = '(';
            for (int q = 0; q < 4; q++) {
                int dr = q / 2 * 2, dc = q % 2 * 2;
                bool there = inside(grid, row + dr, col + dc, 1);
                int factor = there ? block[dr * grid.cols + dc] : 1;
                if (factor == 2 && !inside(grid, row + dr, col + dc, 2)) goto no_form;
                *out++ = (char)('0' + factor);
            }
            *out++ = ')';
        }
    }
    *out = '\0';
    return;
no_form:
    *text = '\0';
}

int dd_layout_uniform_factor(const dd_layout *layout) {
    for (int i = 0; i < DD_FACTOR_COUNT; i++)
        if (layout->cell_count[i] == layout->cell_total) return dd_factor_at(i);
    return 0;
}
