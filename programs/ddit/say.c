#include "say.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("ddit: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_COMMAND;
}

int exit_of(ddit_status status) {
    switch (status) {
        case DDIT_OK: return EXIT_DONE;
        case DDIT_ERR_INTERNAL:
        case DDIT_ERR_DIVERGED:
        case DDIT_ERR_BACKEND: return EXIT_INTERNAL;
        case DDIT_ERR_ARGUMENT:
        case DDIT_ERR_OUTPUT_PATH: return EXIT_COMMAND;
        case DDIT_ERR_NOT_FOUND:
        case DDIT_ERR_READ:
        case DDIT_ERR_FORMAT:
        case DDIT_ERR_MISMATCH:
        case DDIT_ERR_UNSUPPORTED: return EXIT_INPUT;
        case DDIT_ERR_NO_MEMORY:
        case DDIT_ERR_WRITE: return EXIT_RESOURCE;
        case DDIT_ERR_CANCELLED: return EXIT_CANCELLED;
    }
    return EXIT_INTERNAL;
}

int say_failure(ddit_status status, const ddit_err *err) {
    say("%s", err && err->text[0] ? err->text : ddit_status_text(status));
    return exit_of(status);
}

int finish_output(int status) {
    errno = 0;
    if (!ferror(stdout) && fflush(stdout) == 0) return status;
    say("standard output cannot be written: %s", errno ? strerror(errno) : "an earlier write failed");
    return EXIT_RESOURCE;
}
