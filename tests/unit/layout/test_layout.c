/* dd_layout: every kind of layout against properties that a slow walk over the latent's base cells can state. */
#include "harness.h"
#include "layout/layout.h"

/* Every latent pixel inside is covered exactly once, cells come by factor in raster order, positions are centres, shares are
 * shares of area. */
static void check_tiling(dd_test *t, const dd_layout *layout) {
    dd_grid g = layout->grid;
    int height = g.rows * g.patch, width = g.cols * g.patch, n = 0;
    uint8_t *covered = calloc((size_t)height * (size_t)width, 1);
    DD_NEED(t, covered);
    for (int i = 0; i < DD_FACTOR_COUNT; i++) {
        int factor = dd_factor_at(i), side = factor * g.patch, before = -1;
        long area = 0;
        DD_CHECK(t, layout->cell_begin[i] == n);
        for (int c = 0; c < layout->cell_count[i]; c++, n++) {
            int row = layout->origin[2 * n], col = layout->origin[2 * n + 1];
            DD_CHECK(t, row % side == 0 && col % side == 0 && row < height && col < width);
            DD_CHECK(t, row * width + col > before);
            before = row * width + col;
            DD_CHECK(t, layout->position[2 * n] == (float)(row / side * factor) + (float)(factor - 1) / 2);
            DD_CHECK(t, layout->position[2 * n + 1] == (float)(col / side * factor) + (float)(factor - 1) / 2);
            for (int y = row; y < row + side && y < height; y++)
                for (int x = col; x < col + side && x < width; x++, area++) covered[y * width + x]++;
        }
        DD_CHECK(t, fabs((double)layout->text_share[i] - (double)area / height / width) < 1e-7);
    }
    DD_CHECK(t, n == layout->cell_total && n <= dd_layout_max_cells(g));
    for (int i = 0; i < height * width; i++) DD_CHECK(t, covered[i] == 1);
    DD_CHECK(t, fabsf(layout->text_share[0] + layout->text_share[1] + layout->text_share[2] - 1) < 1e-6f);
    free(covered);
}

static void factors(dd_test *t) {
    for (int i = 0; i < DD_FACTOR_COUNT; i++) DD_CHECK(t, dd_factor_index(dd_factor_at(i)) == i);
    DD_CHECK(t, dd_factor_index(3) == -1 && dd_factor_index(0) == -1 && dd_factor_index(8) == -1);
}

static void uniform(dd_test *t) {
    static const dd_grid grids[] = {{16, 16, 2}, {4, 4, 2}, {17, 25, 2}, {6, 7, 1}, {1, 1, 2}, {5, 8, 2}, {3, 2, 3}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        dd_layout layout;
        DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, grids[i], &t->err));
        DD_CHECK(t, dd_layout_uniform_factor(&layout) == 1);
        for (int k = 4; k >= 1; k /= 2) {
            dd_layout_set_uniform(&layout, k);
            check_tiling(t, &layout);
            DD_CHECK(t, layout.cell_total == ((grids[i].rows + k - 1) / k) * ((grids[i].cols + k - 1) / k));
            DD_CHECK(t, dd_layout_uniform_factor(&layout) == k);
            DD_CHECK(t, layout.text_share[dd_factor_index(k)] == 1.0f);
        }
        dd_layout_deinit(&layout);
    }
}

static void mixed_by_hand(dd_test *t) {
    dd_layout layout;
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){8, 8, 2}, &t->err));
    DD_NEED_OK(t, dd_layout_set_string(&layout, "4(2111)(2222)(1121)", &t->err));
    check_tiling(t, &layout);
    DD_CHECK(t, layout.cell_count[0] == 24 && layout.cell_count[1] == 6 && layout.cell_count[2] == 1);
    DD_CHECK(t, layout.cell_begin[0] == 0 && layout.cell_begin[1] == 24 && layout.cell_begin[2] == 30);
    DD_CHECK(t, layout.origin[0] == 0 && layout.origin[1] == 12); /* first base cell: second quadrant of the second block */
    DD_CHECK(t, layout.origin[2 * 24] == 0 && layout.origin[2 * 24 + 1] == 8);
    DD_CHECK(t, layout.position[2 * 24] == 0.5f && layout.position[2 * 24 + 1] == 4.5f);
    DD_CHECK(t, layout.position[2 * 30] == 1.5f && layout.position[2 * 30 + 1] == 1.5f);
    DD_CHECK(t, layout.text_share[2] == 0.25f && layout.text_share[1] == 0.375f && layout.text_share[0] == 0.375f);
    DD_CHECK(t, dd_layout_uniform_factor(&layout) == 0);
    dd_layout_deinit(&layout);
}

/* A random quadtree of the grid in the form of dd_layout_set_choices. */
static void random_choices(dd_grid g, uint64_t *state, uint8_t *choice, uint8_t *quad) {
    int block_cols = (g.cols + 3) / 4, blocks = (g.rows + 3) / 4 * block_cols;
    for (int b = 0; b < blocks; b++) {
        int row = b / block_cols * 4, col = b % block_cols * 4;
        choice[b] = row + 4 <= g.rows && col + 4 <= g.cols && dd_test_random(state) < 0 ? 4 : 0;
        for (int q = 0; q < 4; q++) {
            bool whole = row + q / 2 * 2 + 2 <= g.rows && col + q % 2 * 2 + 2 <= g.cols;
            quad[4 * b + q] = whole && dd_test_random(state) < 0 ? 2 : 1;
        }
    }
}

static bool same(const dd_layout *x, const dd_layout *y) {
    size_t n = (size_t)x->cell_total * 2;
    return x->cell_total == y->cell_total && memcmp(x->cell_count, y->cell_count, sizeof x->cell_count) == 0 &&
           memcmp(x->origin, y->origin, n * sizeof *x->origin) == 0 &&
           memcmp(x->position, y->position, n * sizeof *x->position) == 0;
}

static void random_quadtrees(dd_test *t) {
    uint64_t state = 11;
    for (int round = 0; round < 200; round++) {
        dd_grid g = {1 + (int)(dd_test_random_u32(&state) % 21), 1 + (int)(dd_test_random_u32(&state) % 21), 2};
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        dd_layout a, b;
        DD_NEED_OK(t, dd_layout_init(&a, &counter.allocator, g, &t->err));
        DD_NEED_OK(t, dd_layout_init(&b, &counter.allocator, g, &t->err));
        uint8_t choice[36], quad[144];
        char text[36 * 6 + 1], again[36 * 6 + 1];
        DD_CHECK(t, dd_layout_string_size(g) <= sizeof text);
        size_t allocations = counter.total;
        random_choices(g, &state, choice, quad);
        dd_layout_set_choices(&a, choice, quad);
        check_tiling(t, &a);
        dd_layout_to_string(&a, text);
        DD_CHECK(t, strlen(text) < dd_layout_string_size(g) && *text);
        DD_OK(t, dd_layout_set_string(&b, text, &t->err));
        DD_CHECK(t, same(&a, &b));
        dd_layout_to_string(&b, again);
        DD_CHECK(t, strcmp(text, again) == 0);
        DD_CHECK(t, counter.total == allocations);
        dd_layout_deinit(&a);
        dd_layout_deinit(&b);
        DD_CHECK(t, counter.live == 0);
    }
}

static void strings_of_uniform(dd_test *t) {
    dd_layout layout;
    char text[64];
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){4, 6, 2}, &t->err));
    dd_layout_to_string(&layout, text);
    DD_CHECK(t, strcmp(text, "(1111)(1111)") == 0);
    dd_layout_set_uniform(&layout, 2);
    dd_layout_to_string(&layout, text);
    DD_CHECK(t, strcmp(text, "(2222)(2121)") == 0);
    dd_layout_set_uniform(&layout, 4); /* hangs over the edge: no string form */
    dd_layout_to_string(&layout, text);
    DD_CHECK(t, strcmp(text, "") == 0);
    dd_layout_deinit(&layout);
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){5, 4, 2}, &t->err));
    dd_layout_set_uniform(&layout, 2);
    dd_layout_to_string(&layout, text);
    DD_CHECK(t, strcmp(text, "") == 0);
    dd_layout_deinit(&layout);
}

static void malformed_strings(dd_test *t) {
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"", "character 1: found the end, expected '4' or '('"},
        {"44", "character 2: found '4', expected '(' because this 4p block hangs over the edge"},
        {"4(1112)", "character 6: found '2', expected '1' because this quadrant hangs over"},
        {"4(2111)x", "character 8: found 'x', expected the end after 2 blocks"},
        {"4(11", "character 5: found the end, expected '2' or '1'"},
        {"4(1111", "character 7: found the end, expected ')'"},
        {"4(1131)", "character 5: found '3', expected '2' or '1'"},
        {"2", "character 1: found '2', expected '4' or '('"},
        {"4\n", "character 2: found byte 0x0A"},
        {"4\xc3\xa4", "character 2: found byte 0xC3"},
    };
    dd_layout layout;
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){4, 7, 2}, &t->err));
    DD_OK(t, dd_layout_set_string(&layout, "4(2121)", &t->err));
    check_tiling(t, &layout);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DD_FAILS(t, dd_layout_set_string(&layout, cases[i].text, &t->err), DDIT_ERR_ARGUMENT, cases[i].complaint);
        DD_CHECK(t, dd_layout_uniform_factor(&layout) == 1);
        check_tiling(t, &layout);
    }
    dd_layout_deinit(&layout);
}

static void refusals(dd_test *t) {
    static const dd_grid bad[] = {{0, 4, 2}, {4, 0, 2}, {4, 4, 0}, {-1, 4, 2}, {1 << 20, 4, 2}, {1 << 14, 1 << 14, 2},
                                  {4, INT32_MAX, 1}};
    dd_layout layout;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DD_FAILS(t, dd_layout_init(&layout, &dd_allocator_libc, bad[i], &t->err), DDIT_ERR_ARGUMENT, "cells");
        DD_CHECK(t, !layout.allocator && !layout.factor);
        dd_layout_deinit(&layout);
    }
    for (size_t n = 1; n <= 3; n++) {
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        counter.fail_at = n;
        DD_FAILS(t, dd_layout_init(&layout, &counter.allocator, (dd_grid){4, 4, 2}, &t->err), DDIT_ERR_NO_MEMORY, NULL);
        DD_CHECK(t, counter.live == 0);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"factors", factors},
        {"uniform", uniform},
        {"mixed_by_hand", mixed_by_hand},
        {"random_quadtrees", random_quadtrees},
        {"strings_of_uniform", strings_of_uniform},
        {"malformed_strings", malformed_strings},
        {"refusals", refusals},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
