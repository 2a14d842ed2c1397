/* loss.csv and loss.png of a run. Columns: step, seconds, loss_x2, loss_x4, lr; an empty field where a step had no such sample. */
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

/* Opens FOLDER/loss.csv. Rows after `last_step` are dropped (they belong to steps that a resumed run does again); 0 starts anew.
 * Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE, DDIT_ERR_FORMAT for a file that is no loss log. */
ddit_status dd_loss_log_open(dd_loss_log *log, const dd_allocator *a, const char *folder, int64_t last_step, ddit_err *err);
ddit_status dd_loss_log_add(dd_loss_log *log, const dd_loss_row *row, ddit_err *err);
ddit_status dd_loss_log_flush(dd_loss_log *log, ddit_err *err);
void dd_loss_log_close(dd_loss_log *log);

#endif
