/* A file mapped read-only into memory. */
#ifndef DD_BASE_MAPPED_FILE_H
#define DD_BASE_MAPPED_FILE_H

#include "base/alloc.h"

typedef struct dd_mapped_file {
    const uint8_t *data; /* owned mapping; NULL for an empty file */
    size_t size;
} dd_mapped_file;

/* Maps the whole regular file. Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ (a folder, no permission), naming the path; *file is
 * then zeroed. The caller closes it. */
ddit_status dd_mapped_file_open(dd_mapped_file *file, const char *path, ddit_err *err);

/* Unmaps; a zeroed file is accepted. */
void dd_mapped_file_close(dd_mapped_file *file);

/* Tells the system that data[offset..offset+size) will not be read soon, so that its pages need not stay resident. The
 * contents stay valid (they are read from the file again when touched). */
void dd_mapped_file_release(const dd_mapped_file *file, size_t offset, size_t size);

/* Reads a small file whole into NUL-terminated memory that the caller frees. Files over max_size are refused. */
ddit_status dd_read_file(const dd_allocator *a, const char *path, size_t max_size, char **data, size_t *size, ddit_err *err);

#endif
