/* Held-out losses, and the table of them in the run's folder. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number_text.h"
#include "base/out_file.h"
#include "base/scan.h"
#include "pipeline/train.h"

enum { PART = 256, MAX_TABLE = 16 << 20 };

static const char header[] = "step,loss_x1,loss_x2,loss_x4,loss_mixed,samples\n";

static void put_number(FILE *out, double value) {
    char text[DD_NUMBER_SIZE] = "";
    if (!isnan(value)) dd_number_text(text, value);
    fprintf(out, "%s,", text);
}

/* Rows of steps before this one; those after it belong to a run that was stopped and is done again. */
static void keep_rows(FILE *out, const char *table, int64_t step) {
    const char *line = strchr(table, '\n');
    for (line = line ? line + 1 : NULL; line && *line;) {
        const char *end = strchr(line, '\n');
        if (!end) break;
        if (strtoll(line, NULL, 10) < step) fwrite(line, 1, (size_t)(end - line) + 1, out);
        line = end + 1;
    }
}

/* eval.csv, owned by the caller; NULL if there is none. */
static char *read_table(const dd_train_run *run, const char *path) {
    char *table = NULL;
    size_t size;
    if (dd_read_file(run->a, path, MAX_TABLE, &table, &size, NULL) != DDIT_OK) return NULL;
    if (strncmp(table, header, sizeof header - 1) == 0) return table;
    dd_free(run->a, table);
    return NULL;
}

static ddit_status write_row(dd_train_run *run, int samples, const double *loss, ddit_err *err) {
    char *path = NULL, *table = NULL;
    dd_out_file out = {0};
    int64_t step = run->optimizer.step;
    ddit_status status;
    DD_GO(dd_train_path(run, &path, "eval.csv", err));
    table = read_table(run, path);
    DD_GO(dd_out_file_open(&out, run->a, path, err));
    fputs(header, out.stream);
    if (table) keep_rows(out.stream, table, step);
    fprintf(out.stream, "%" PRId64 ",", step);
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) put_number(out.stream, loss[k]);
    fprintf(out.stream, "%d\n", samples);
    DD_GO(dd_out_file_commit(&out, err));
done:
    dd_free(run->a, path);
    dd_free(run->a, table);
    return status;
}

/* The losses of a row behind its step; an empty field is NaN. One so small that it was written with an exponent is not read:
 * the row then counts as missing and is measured again. */
static bool read_losses(const char *at, double loss[DD_LAYOUT_KINDS]) {
    double found[DD_LAYOUT_KINDS];
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
        found[k] = NAN;
        if (*at++ != ',') return false;
        if (*at != ',' && !dd_scan_decimal(&at, &found[k])) return false;
    }
    memcpy(loss, found, sizeof found);
    return true;
}

bool dd_train_evaluated(const dd_train_run *run, int64_t step, double loss[DD_LAYOUT_KINDS]) {
    char *path;
    bool found = false;
    if (dd_train_path(run, &path, "eval.csv", NULL) != DDIT_OK) return false;
    char *table = read_table(run, path);
    for (const char *line = table; line && *line && !found;) {
        char *end;
        found = line != table && strtoll(line, &end, 10) == step && end > line && read_losses(end, loss);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    dd_free(run->a, table);
    dd_free(run->a, path);
    return found;
}

ddit_status dd_train_evaluate(dd_train_run *run, const float *values, bool all, double loss[DD_LAYOUT_KINDS], ddit_err *err) {
    int count = all || run->eval_count < PART ? run->eval_count : PART;
    if (!run->eval_source) return DDIT_OK;
    ddit_train_progress p = dd_train_progress("evaluate");
    p.step = run->optimizer.step;
    p.steps = run->s.steps;
    p.seconds = run->seconds;
    dd_train_tell(run, &p);
    DD_TRY(dd_trainer_evaluate(run->trainer, values, run->eval_source, count, loss, err));
    ddit_status status = run->rank == 0 && !run->s.measure_only ? write_row(run, count, loss, err) : DDIT_OK;
    DD_TRY(dd_comm_agree(run->comm, status, err));
    memcpy(p.loss, loss, sizeof p.loss);
    dd_train_tell(run, &p);
    return DDIT_OK;
}
