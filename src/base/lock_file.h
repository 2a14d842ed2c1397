/* A file that one process at a time may hold. The system lets go of it when the process ends, however it ends, so that nothing
 * has to be cleaned up after a crash; the empty file stays. */
#ifndef DD_BASE_LOCK_FILE_H
#define DD_BASE_LOCK_FILE_H

#include <stdbool.h>

#include "base/err.h"

typedef struct dd_lock_file {
    int fd;
    bool held; /* fd is owned */
} dd_lock_file;

/* Makes `path` if it is not there and holds it, without waiting. *taken: somebody else holds it (lock->held is false then, and
 * the result DDIT_OK). A file system without locks lets everybody in.
 * Errors: DDIT_ERR_WRITE, with the path and the system's reason; *lock is then zeroed. */
ddit_status dd_lock_file_take(dd_lock_file *lock, const char *path, bool *taken, ddit_err *err);

/* Lets go; a zeroed lock is accepted. */
void dd_lock_file_drop(dd_lock_file *lock);

#endif
