/* A small line plot as an RGB picture: losses over steps. Draws its own axes, ticks and labels (an 8x8 or similar bitmap font
 * for digits, letters and a few signs that is part of this room). */
#ifndef DD_MEDIA_PLOT_H
#define DD_MEDIA_PLOT_H

#include "base/alloc.h"

typedef struct dd_plot_series {
    const char *label;
    const double *x, *y; /* [count]; NaN values of y are left out */
    size_t count;
} dd_plot_series;

typedef struct dd_plot {
    const char *title, *x_label, *y_label;
    const dd_plot_series *series;
    int series_count; /* at most 4 */
    bool log_y;
    int width, height;
} dd_plot;

/* rgb [height, width, 3], written. Points are drawn pale and their running mean strongly. Errors: DDIT_ERR_ARGUMENT, memory. */
ddit_status dd_plot_draw(const dd_plot *plot, const dd_allocator *a, uint8_t *rgb, ddit_err *err);

#endif
