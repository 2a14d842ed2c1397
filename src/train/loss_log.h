/* loss.csv of a run. Columns: step, seconds, loss_x2, loss_x4, lr; an empty field where a step had no such sample. Numbers have
 * 9 significant digits and a point, whatever the locale.
 */
#ifndef DD_TRAIN_LOSS_LOG_H
#define DD_TRAIN_LOSS_LOG_H

#include <stdio.h>

#include "base/alloc.h"

typedef struct dd_loss_row {
    int64_t step;   /* 1 = after the first step */
    double seconds; /* trained so far, earlier parts of a resumed run included */
    double loss_x2, loss_x4; /* NaN: none */
    double lr;
} dd_loss_row;

typedef struct dd_loss_log {
    char *path;         /* owned */
    FILE *stream;       /* owned; appended to */
    dd_loss_row *rows;  /* owned [count] */
    size_t count, room;
    const dd_allocator *allocator;
} dd_loss_log;

/* Opens FOLDER/loss.csv. Rows after `last_step` are dropped (they belong to steps that a resumed run does again), and so is a
 * last line that was not finished; what stays is not touched. 0 starts anew. *log is zeroed on failure.
 * Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE, DDIT_ERR_FORMAT for a file that is no loss log. */
ddit_status dd_loss_log_open(dd_loss_log *log, const dd_allocator *a, const char *folder, int64_t last_step, ddit_err *err);

/* Appends a row, given to the system at once: it survives the end of the process. On DDIT_ERR_WRITE the file ends with the row
 * before. */
ddit_status dd_loss_log_add(dd_loss_log *log, const dd_loss_row *row, ddit_err *err);

/* Waits until the rows are on the disk: call it before a checkpoint is saved. */
ddit_status dd_loss_log_flush(dd_loss_log *log, ddit_err *err);

/* A zeroed log is accepted. */
void dd_loss_log_close(dd_loss_log *log);

#endif
