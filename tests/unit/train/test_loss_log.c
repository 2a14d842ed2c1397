#include "train/loss_log.h"

#include <locale.h>

#include "train_test.h"

enum { ROWS = 17 };

/* Row of a step: some have no sample of a kind. */
static dd_loss_row row_of(int64_t step) {
    uint64_t seed = (uint64_t)step;
    double x = 0.5 + 0.3 * dd_test_random(&seed);
    return (dd_loss_row){step, 1.5 * (double)step, step % 3 ? x : NAN, step % 4 ? x / 3e5 : NAN, 1e-4 / (double)step};
}

static void add(dd_test *t, dd_loss_log *log, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; step++) {
        dd_loss_row row = row_of(step);
        DD_OK(t, dd_loss_log_add(log, &row, &t->err));
    }
}

static void text_of_rows(dd_test *t) {
    static const char expected[] = "step,seconds,loss_x2,loss_x4,lr\n"
                                   "1,0.5,0.25,,0.0001\n"
                                   "2,123456.789,,1.23456789e-07,1e-05\n"
                                   "3,2,0.333333333,-4,0\n";
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
    dd_loss_log log;
    size_t size;
    DD_NEED(t, test_folder(folder));
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where there is one: a decimal comma */
    DD_NEED_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 0, &t->err));
    const dd_loss_row rows[] = {
        {1, 0.5, 0.25, NAN, 1e-4}, {2, 123456.789, NAN, 1.23456789e-7, 1e-5}, {3, 2, 1.0 / 3, -4, 0}};
    for (int i = 0; i < 3; i++) DD_OK(t, dd_loss_log_add(&log, &rows[i], &t->err));
    setlocale(LC_ALL, "C");
    DD_OK(t, dd_loss_log_flush(&log, &t->err));
    char *data = test_read(test_path(path, folder, "loss.csv"), &size);
    DD_CHECK(t, data && strcmp(data, expected) == 0);
    dd_free(&dd_allocator_libc, data);
    dd_loss_log_close(&log);
    dd_loss_log_close(&log);
    test_files(folder, true);
}

/* A whole run's file; the caller frees it. */
static char *whole_run(dd_test *t, size_t *size) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
    dd_loss_log log;
    if (!test_folder(folder) || dd_loss_log_open(&log, &dd_allocator_libc, folder, 0, &t->err) != DDIT_OK) return NULL;
    add(t, &log, 1, ROWS);
    dd_loss_log_close(&log);
    char *data = test_read(test_path(path, folder, "loss.csv"), size);
    test_files(folder, true);
    return data;
}

/* Killed after any byte and resumed from the last of the checkpoints (every 5 steps) whose rows were written: the same file. */
static void survives_every_cut(dd_test *t) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
    size_t size, again;
    char *whole = whole_run(t, &size);
    DD_NEED(t, whole && test_folder(folder));
    test_path(path, folder, "loss.csv");
    for (size_t cut = 0; cut <= size; cut++) {
        int64_t rows = -1;
        for (size_t i = 0; i < cut; i++) rows += whole[i] == '\n';
        int64_t last = rows < 0 ? 0 : rows / 5 * 5;
        dd_loss_log log;
        DD_CHECK(t, test_write(path, whole, cut));
        DD_NEED_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, last, &t->err));
        DD_CHECK(t, log.count == (size_t)last);
        for (size_t i = 0; i < log.count; i++) {
            dd_loss_row row = row_of((int64_t)i + 1), *read = &log.rows[i];
            DD_CHECK(t, read->step == row.step && fabs(read->lr / row.lr - 1) < 1e-8);
            DD_CHECK(t, isnan(row.loss_x2) ? isnan(read->loss_x2) : fabs(read->loss_x2 / row.loss_x2 - 1) < 1e-8);
            DD_CHECK(t, isnan(row.loss_x4) ? isnan(read->loss_x4) : fabs(read->loss_x4 / row.loss_x4 - 1) < 1e-8);
        }
        add(t, &log, last + 1, ROWS);
        DD_CHECK(t, log.count == ROWS);
        dd_loss_log_close(&log);
        char *data = test_read(path, &again);
        DD_CHECK(t, data && again == size && memcmp(data, whole, size) == 0);
        dd_free(&dd_allocator_libc, data);
    }
    dd_free(&dd_allocator_libc, whole);
    test_files(folder, true);
}

static void foreign_files(dd_test *t) {
#define HEADER "step,seconds,loss_x2,loss_x4,lr\n"
    static const struct { const char *text, *part; } cases[] = { /* part NULL: accepted */
        {"my notes\n", "no log of losses"},
        {HEADER "1,1,1,1,1\nsomething\n2,1,1,1,1\n", "line 3"},
        {HEADER "1,1,1,1,1\n1,1,1,1,1\n2,1,1,1,1\n", "line 3"},
        {HEADER "1,1,1,1\n2,1,1,1,1\n", "line 2"},
        {HEADER "1,1,1,1,1,1\n2,1,1,1,1\n", "line 2"},
        {HEADER "1.5,1,1,1,1\n2,1,1,1,1\n", "line 2"},
        {HEADER "1,1,1e,1,1\n2,1,1,1,1\n", "line 2"},
        {HEADER ",1,1,1,1\n2,1,1,1,1\n", "line 2"},
        {HEADER "1,1,1,1,1\n2,1,\n", NULL},
        {HEADER "1,1,inf,-1e+3,1\n", NULL},
        {"", NULL},
        {"step,sec", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
        dd_loss_log log;
        size_t size;
        DD_NEED(t, test_folder(folder));
        DD_CHECK(t, test_write(test_path(path, folder, "loss.csv"), cases[i].text, strlen(cases[i].text)));
        if (cases[i].part) {
            DD_FAILS(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 9, &t->err), DDIT_ERR_FORMAT, cases[i].part);
            DD_CHECK(t, !log.stream && !log.path);
            char *data = test_read(path, &size);
            DD_CHECK(t, data && strcmp(data, cases[i].text) == 0); /* untouched */
            dd_free(&dd_allocator_libc, data);
        } else {
            DD_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 9, &t->err));
            DD_CHECK(t, log.count <= 1);
            dd_loss_log_close(&log);
        }
        test_files(folder, true);
    }
#undef HEADER
}

static void full_disk(dd_test *t) {
    char folder[TEST_PATH_SIZE], missing[TEST_PATH_SIZE * 2];
    dd_loss_log log;
    dd_loss_row row = row_of(1);
    DD_NEED(t, test_folder(folder));
    DD_FAILS(t, dd_loss_log_open(&log, &dd_allocator_libc, test_path(missing, folder, "missing"), 0, &t->err),
             DDIT_ERR_OUTPUT_PATH, "missing");
    DD_NEED_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 0, &t->err));
    DD_OK(t, dd_loss_log_add(&log, &row, &t->err));
    long size = ftell(log.stream);
    test_limit_files((rlim_t)size + 10);
    row = row_of(2);
    ddit_status status = dd_loss_log_add(&log, &row, &t->err);
    test_limit_files(RLIM_INFINITY);
    DD_CHECK(t, status == DDIT_ERR_WRITE && strstr(t->err.text, "loss.csv") && log.count == 1);
    add(t, &log, 2, 3); /* there is room again */
    dd_loss_log_close(&log);
    DD_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 3, &t->err));
    DD_CHECK(t, log.count == 3);
    dd_loss_log_close(&log);
    test_files(folder, true);
}

static void memory(dd_test *t) {
    char folder[TEST_PATH_SIZE];
    dd_loss_log log;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, dd_loss_log_open(&log, &dd_allocator_libc, folder, 0, &t->err));
    add(t, &log, 1, 300);
    dd_loss_log_close(&log);
    ddit_status status = DDIT_ERR_NO_MEMORY;
    for (size_t n = 1; status != DDIT_OK && n < 50; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        status = dd_loss_log_open(&log, &a.allocator, folder, 300, &t->err);
        DD_CHECK(t, status == DDIT_OK || (status == DDIT_ERR_NO_MEMORY && a.live == 0));
        if (status == DDIT_OK) DD_CHECK(t, log.count == 300);
        dd_loss_log_close(&log);
        DD_CHECK(t, a.live == 0);
    }
    DD_CHECK(t, status == DDIT_OK);
    test_files(folder, true);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"text of rows", text_of_rows}, {"survives every cut", survives_every_cut}, {"foreign files", foreign_files},
        {"full disk", full_disk},       {"memory", memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
