/* Output files that appear whole or not at all: written under a temporary name in the same folder, then renamed. */
#ifndef DD_BASE_OUT_FILE_H
#define DD_BASE_OUT_FILE_H

#include <stdio.h>

#include "base/alloc.h"

typedef struct dd_out_file {
    FILE *stream;     /* owned; write here */
    char *path;       /* owned: the final name */
    char *temp_path;  /* owned: the name written to until commit */
    const dd_allocator *allocator;
} dd_out_file;

/* Opens a temporary file beside `path`. Errors: DDIT_ERR_OUTPUT_PATH (the folder does not exist), DDIT_ERR_WRITE. On failure
 * *file is zeroed. On success the caller ends with exactly one of commit and discard. */
ddit_status dd_out_file_open(dd_out_file *file, const dd_allocator *a, const char *path, ddit_err *err);

/* Flushes, syncs and renames. On failure (disk full …) the temporary file is removed. Either way *file is zeroed.
 * Errors: DDIT_ERR_WRITE, with the path and the system's reason. */
ddit_status dd_out_file_commit(dd_out_file *file, ddit_err *err);

/* Removes the temporary file; a zeroed file is accepted. */
void dd_out_file_discard(dd_out_file *file);

#endif
