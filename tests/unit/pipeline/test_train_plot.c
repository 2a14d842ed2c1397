#include "pipeline/train_plot.h"

#include <unistd.h>

#include "harness.h"
#include "media/png.h"

enum { ROWS = 50, PATH_SIZE = 64 };

static void writes_a_picture(dd_test *t) {
    dd_loss_row rows[ROWS];
    dd_loss_log log = {.rows = rows};
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/tmp/ddit-test-plot-%ld.png", (long)getpid());
    for (int i = 0; i < ROWS; i++) rows[i] = (dd_loss_row){i + 1, i, i % 2 ? 1.0 / (i + 1) : NAN, NAN, 1e-4};
    for (log.count = 0; log.count <= ROWS; log.count += ROWS / 2) {
        dd_png_info info;
        DD_NEED_OK(t, dd_train_plot_write(&log, path, false, &dd_allocator_libc, &t->err));
        DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err));
        DD_CHECK(t, info.width == 960 && info.height == 540);
        dd_png_info_deinit(&info);
    }
    unlink(path);
    log.count = ROWS;
    DD_FAILS(t, dd_train_plot_write(&log, "/nowhere/loss.png", true, &dd_allocator_libc, &t->err), DDIT_ERR_OUTPUT_PATH,
             "nowhere");
}

static void memory(dd_test *t) {
    dd_loss_row row = {1, 1, 0.5, 0.6, 1e-4};
    dd_loss_log log = {.rows = &row, .count = 1};
    char path[PATH_SIZE];
    ddit_status status = DDIT_ERR_NO_MEMORY;
    snprintf(path, sizeof path, "/tmp/ddit-test-plot-%ld.png", (long)getpid());
    for (size_t n = 1; status != DDIT_OK && n < 60; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        status = dd_train_plot_write(&log, path, false, &a.allocator, &t->err);
        DD_CHECK(t, (status == DDIT_OK || status == DDIT_ERR_NO_MEMORY) && a.live == 0);
        DD_CHECK(t, (status == DDIT_OK) == (access(path, F_OK) == 0));
    }
    DD_CHECK(t, status == DDIT_OK);
    unlink(path);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"writes a picture", writes_a_picture}, {"memory", memory}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
