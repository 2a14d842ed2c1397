#include "dit/flux_rope.h"

#include <math.h>
#include <string.h>

enum { BASE = 10000 };

static void fill_axis(float *table, int positions, int width) {
    for (int p = 0; p < positions; p++)
        for (int j = 0; j < width / 2; j++) {
            double angle = 0.5 * p * pow(BASE, -2.0 * j / width);
            table[p * width + 2 * j] = (float)cos(angle);
            table[p * width + 2 * j + 1] = (float)sin(angle);
        }
}

ddit_status dd_flux_rope_init(dd_flux_rope *rope, const dd_allocator *a, const dd_flux_config *config, dd_grid grid,
                              ddit_err *err) {
    *rope = (dd_flux_rope){.head_dim = config->attention_head_dim, .allocator = a};
    memcpy(rope->width, config->axes_dims_rope, sizeof rope->width);
    int longest = grid.rows > grid.cols ? grid.rows : grid.cols;
    rope->positions = 2 * (longest + 4); /* cells of factor 4 may hang over the edge by up to 3 */
    for (int i = 0; i < 2; i++) {
        int width = rope->width[i + 1];
        ddit_status status =
            dd_alloc(a, &rope->axis[i], (size_t)rope->positions * (size_t)width, sizeof(float), "the positions", err);
        if (status != DDIT_OK) {
            dd_flux_rope_deinit(rope);
            return status;
        }
        fill_axis(rope->axis[i], rope->positions, width);
    }
    return DDIT_OK;
}

void dd_flux_rope_deinit(dd_flux_rope *rope) {
    if (!rope->allocator) return;
    dd_free(rope->allocator, rope->axis[0]);
    dd_free(rope->allocator, rope->axis[1]);
    *rope = (dd_flux_rope){0};
}

static void no_rotation(float *pairs, int width) {
    for (int j = 0; j < width; j += 2) {
        pairs[j] = 1.0f;
        pairs[j + 1] = 0.0f;
    }
}

void dd_flux_rope_rows(const dd_flux_rope *rope, int text, const dd_layout *layout, float *rows) {
    const int *width = rope->width;
    for (int r = 0; r < text; r++) no_rotation(rows + (size_t)r * (size_t)rope->head_dim, rope->head_dim);
    for (int cell = 0; cell < layout->cell_total; cell++) {
        float *row = rows + (size_t)(text + cell) * (size_t)rope->head_dim;
        no_rotation(row, width[0]); /* the frame axis: one frame, position 0 */
        row += width[0];
        for (int i = 0; i < 2; i++) {
            int position = (int)(2.0f * layout->position[2 * cell + i]);
            memcpy(row, rope->axis[i] + (size_t)position * (size_t)width[i + 1], (size_t)width[i + 1] * sizeof *row);
            row += width[i + 1];
        }
    }
}
