/* Ctrl-C: the first one asks the run to stop at the next step, the second one kills the program as usual. */
#ifndef DDIT_PROGRAM_INTERRUPT_H
#define DDIT_PROGRAM_INTERRUPT_H

#include <stdbool.h>

/* Takes SIGINT and SIGTERM, and ignores SIGPIPE, so that a closed pipe is a failed write like any other. */
void interrupt_install(void);

bool interrupt_asked(void);

#endif
