/* What is shown while a training runs, on standard error: processor and memory, then one line updated in place on a terminal;
 * elsewhere a line now and then, or with -v a line per step. The library reports on rank 0 alone, so that under mpirun one rank
 * speaks. */
#ifndef DDIT_PROGRAM_TRAIN_LINE_H
#define DDIT_PROGRAM_TRAIN_LINE_H

#include <ddit/ddit.h>
#include <stdbool.h>

#include "status_line.h"

enum { TRAIN_LINE_KINDS = 4, TRAIN_LINE_PATH = 1024 };

typedef struct train_line {
    const char *device; /* borrowed: shown with the plan */
    status_line shown;
    bool quiet, per_step;
    bool stopping; /* Ctrl-C was seen and answered */
    double mean[TRAIN_LINE_KINDS]; /* losses, averaged over the last steps (train) */
    int seen[TRAIN_LINE_KINDS];    /* steps that had such a loss */
    char phase[16];                /* of the last line */
    int64_t shown_step;            /* of the last plain line */
    double shown_at;               /* clock of the last plain line */
    int64_t step;                  /* the newest finished step */
    char saved[TRAIN_LINE_PATH];   /* the newest checkpoint, "" if there is none */
} train_line;

void train_line_init(train_line *line, const char *device, bool quiet, bool verbose);

/* ddit_train_params.progress with the line as user: shows, and stops after Ctrl-C. */
int train_line_update(void *line, const ddit_train_progress *progress);

/* Empties the line, so that something else can be printed. */
void train_line_clear(train_line *line);

#endif
