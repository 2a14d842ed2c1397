/* Sentences on standard error and the exit statuses that scripts rely on. */
#ifndef DDIT_PROGRAM_SAY_H
#define DDIT_PROGRAM_SAY_H

#include <ddit/ddit.h>

enum { EXIT_DONE = 0, EXIT_INTERNAL = 1, EXIT_COMMAND = 2, EXIT_INPUT = 3, EXIT_RESOURCE = 4, EXIT_CANCELLED = 5 };

/* "ddit: " and the sentence and a line feed, on standard error. Returns EXIT_COMMAND, the status most callers want. */
__attribute__((format(printf, 1, 2))) int say(const char *format, ...);

/* Says err->text and returns the exit status that belongs to the code. */
int say_failure(ddit_status status, const ddit_err *err);

/* The exit status of a library status. */
int exit_of(ddit_status status);

/* Flushes standard output; says so and returns EXIT_RESOURCE if what was printed did not arrive, else `status`. */
int finish_output(int status);

#endif
