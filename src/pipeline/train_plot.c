#include "pipeline/train_plot.h"

#include "media/plot.h"
#include "media/png.h"

enum { WIDTH = 960, HEIGHT = 540 };

ddit_status dd_train_plot_write(const dd_loss_log *log, const char *path, bool all, const dd_allocator *a, ddit_err *err) {
    double *columns = NULL; /* step, loss_x2, loss_x4: [3, count] */
    uint8_t *rgb = NULL;
    size_t n = log->count;
    ddit_status status;
    DD_GO(dd_alloc_raw(a, &columns, 3 * n + 1, sizeof *columns, "the loss picture", err));
    DD_GO(dd_alloc_raw(a, &rgb, (size_t)WIDTH * HEIGHT * 3, 1, "the loss picture", err));
    for (size_t i = 0; i < n; i++) {
        columns[i] = (double)log->rows[i].step;
        columns[n + i] = log->rows[i].loss_x2;
        columns[2 * n + i] = log->rows[i].loss_x4;
    }
    const dd_plot_series series[] = {{all ? "factor 1" : "factor 2", columns, columns + n, n},
                                     {"factor 4", columns, columns + 2 * n, n}};
    const dd_plot plot = {"ddit train", "step", "loss", series, 2, true, WIDTH, HEIGHT};
    DD_GO(dd_plot_draw(&plot, a, rgb, err));
    DD_GO(dd_png_write(a, path, WIDTH, HEIGHT, rgb, NULL, 0, err));
done:
    dd_free(a, columns);
    dd_free(a, rgb);
    return status;
}
