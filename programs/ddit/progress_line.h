/* What is shown while a picture is made: one line on a terminal, updated in place; elsewhere nothing, or with -v a line per
 * step. */
#ifndef DDIT_PROGRAM_PROGRESS_LINE_H
#define DDIT_PROGRAM_PROGRESS_LINE_H

#include <ddit/ddit.h>
#include <stdbool.h>

#include "status_line.h"

typedef struct progress_line {
    status_line shown;
    bool per_step;     /* -v */
    int picture, pictures;
} progress_line;

void progress_line_init(progress_line *line, bool quiet, bool verbose, int pictures);

/* ddit_params.progress with the line as user: shows, and cancels after Ctrl-C. */
int progress_line_update(void *line, const ddit_progress *progress);

/* For work that the library does not report, e.g. "opening". */
void progress_line_phase(progress_line *line, const char *phase);

/* Empties the line, so that something else can be printed. */
void progress_line_clear(progress_line *line);

#endif
