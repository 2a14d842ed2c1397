/* Random mixed layouts: valid over edges, within the bound, between uniform 1 and 2 on average, functions of seed and sample;
 * and the random order of samples. */
#include "harness.h"
#include "train/mixed_layout.h"
#include "train/shuffle.h"

static const dd_grid grids[] = {{16, 16, 2}, {64, 64, 2}, {5, 7, 2}, {1, 1, 2}, {4, 3, 2}, {9, 32, 2}, {2, 2, 2}};
enum { GRIDS = sizeof grids / sizeof *grids, DRAWS = 200 };

/* Every base cell is covered by one cell of an allowed factor, aligned and inside the grid. */
static void check_layout(dd_test *t, const dd_layout *layout, const bool *factor) {
    dd_grid g = layout->grid;
    int area = 0;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        int k = dd_factor_at(f);
        DD_CHECK(t, f == 0 || factor[f] || layout->cell_count[f] == 0);
        area += k * k * layout->cell_count[f];
        for (int c = layout->cell_begin[f]; c < layout->cell_begin[f] + layout->cell_count[f]; c++) {
            int row = layout->origin[2 * c] / g.patch, col = layout->origin[2 * c + 1] / g.patch;
            DD_CHECK(t, row % k == 0 && col % k == 0 && row + k <= g.rows && col + k <= g.cols);
        }
    }
    DD_CHECK(t, area == g.rows * g.cols);
}

static void valid(dd_test *t) {
    static const bool factors[3][DD_FACTOR_COUNT] = {{false, true, true}, {false, true, false}, {false, false, true}};
    for (int i = 0; i < GRIDS * 3; i++) {
        const bool *factor = factors[i % 3];
        dd_grid g = grids[i / 3];
        dd_mixed_layouts m;
        dd_layout layout, again;
        DD_NEED_OK(t, dd_mixed_layouts_init(&m, &dd_allocator_libc, g, factor, &t->err));
        DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, g, &t->err));
        DD_NEED_OK(t, dd_layout_init(&again, &dd_allocator_libc, g, &t->err));
        char *text = malloc(dd_layout_string_size(g));
        for (uint64_t n = 0; n < DRAWS; n++) {
            dd_mixed_layouts_draw(&m, 11, n, &layout);
            check_layout(t, &layout, factor);
            DD_CHECK(t, layout.cell_total <= m.most && m.most <= g.rows * g.cols);
            dd_layout_to_string(&layout, text);
            DD_OK(t, dd_layout_set_string(&again, text, &t->err));
        }
        free(text);
        dd_layout_deinit(&layout);
        dd_layout_deinit(&again);
        dd_mixed_layouts_deinit(&m);
    }
}

static void varied(dd_test *t) {
    const bool factor[DD_FACTOR_COUNT] = {false, true, true};
    dd_grid g = grids[0];
    dd_mixed_layouts m;
    dd_layout layout;
    DD_NEED_OK(t, dd_mixed_layouts_init(&m, &dd_allocator_libc, g, factor, &t->err));
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, g, &t->err));
    double cells = 0, share[DD_FACTOR_COUNT] = {0};
    int mixed = 0, total = g.rows * g.cols;
    for (uint64_t n = 0; n < 1000; n++) {
        dd_mixed_layouts_draw(&m, 1, n, &layout);
        cells += layout.cell_total / 1000.0;
        mixed += dd_layout_uniform_factor(&layout) == 0;
        for (int f = 0; f < DD_FACTOR_COUNT; f++) share[f] += (double)layout.text_share[f] / 1000;
    }
    DD_CHECK(t, cells > 0.2 * total && cells < 0.5 * total);
    DD_CHECK(t, mixed > 900);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) DD_CHECK(t, share[f] > 0.15);
    dd_mixed_layouts_draw(&m, 1, 7, &layout);
    char *first = malloc(dd_layout_string_size(g)), *second = malloc(dd_layout_string_size(g));
    dd_layout_to_string(&layout, first);
    dd_mixed_layouts_draw(&m, 2, 7, &layout);
    dd_layout_to_string(&layout, second);
    DD_CHECK(t, strcmp(first, second) != 0);
    dd_mixed_layouts_draw(&m, 1, 7, &layout);
    dd_layout_to_string(&layout, second);
    DD_CHECK(t, strcmp(first, second) == 0);
    free(first);
    free(second);
    dd_layout_deinit(&layout);
    dd_mixed_layouts_deinit(&m);
}

static void without_memory(dd_test *t) {
    const bool factor[DD_FACTOR_COUNT] = {false, true, true};
    for (size_t n = 1; n <= 2; n++) {
        dd_test_allocator a;
        dd_mixed_layouts m;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        DD_FAILS(t, dd_mixed_layouts_init(&m, &a.allocator, grids[0], factor, &t->err), DDIT_ERR_NO_MEMORY, NULL);
        dd_mixed_layouts_deinit(&m);
        DD_CHECK(t, a.live == 0);
    }
}

static void order_is_complete(dd_test *t) {
    static const uint64_t counts[] = {1, 2, 3, 7, 64, 1000, 16384};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        uint64_t n = counts[i], moved = 0;
        uint8_t *seen = calloc(n, 1);
        for (uint64_t place = 0; place < n; place++) {
            uint64_t element = dd_shuffle_at(5, 0, n, place);
            DD_CHECK(t, element < n && !seen[element]);
            seen[element] = 1;
            moved += element != dd_shuffle_at(5, 1, n, place);
        }
        DD_CHECK(t, n < 8 || moved > n / 2);
        free(seen);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"layouts are valid on any grid", valid},
        {"layouts are varied and repeat", varied},
        {"no memory", without_memory},
        {"a shuffled order holds everything once", order_is_complete},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
