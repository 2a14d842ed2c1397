/* The loss picture of a training run. */
#ifndef DD_PIPELINE_TRAIN_PLOT_H
#define DD_PIPELINE_TRAIN_PLOT_H

#include "train/loss_log.h"

/* Draws the losses of all rows over their steps (logarithmic) to a PNG at `path`, which appears whole or not at all. all: the
 * rows are of a training of every weight, whose first loss is of factor 1. Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE,
 * memory. */
ddit_status dd_train_plot_write(const dd_loss_log *log, const char *path, bool all, const dd_allocator *a, ddit_err *err);

#endif
