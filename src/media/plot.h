/* A small line plot as an RGB picture: losses over steps. Draws its own axes, ticks and labels, with a bitmap font for digits,
 * letters and a few signs that is part of this room.
 */
#ifndef DD_MEDIA_PLOT_H
#define DD_MEDIA_PLOT_H

#include "base/alloc.h"

typedef struct dd_plot_series {
    const char *label;
    const double *x, *y; /* [count]; NaN values of y are left out */
    size_t count;
} dd_plot_series;

typedef struct dd_plot {
    const char *title, *x_label, *y_label; /* ASCII; NULL: none */
    const dd_plot_series *series;
    int series_count; /* at most 4 */
    bool log_y; /* values of 0 and below are left out */
    int width, height; /* 160 x 120 to 8192 x 8192 */
} dd_plot;

/* rgb [height, width, 3], written. Points are drawn pale and their running mean (over a twenty-fifth of the points) strongly;
 * series without any value are left out of the legend too. Errors: DDIT_ERR_ARGUMENT (size, number of series), memory. */
ddit_status dd_plot_draw(const dd_plot *plot, const dd_allocator *a, uint8_t *rgb, ddit_err *err);

#endif
