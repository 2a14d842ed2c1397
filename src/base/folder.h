/* Folders, and paths of what lies in them. */
#ifndef DD_BASE_FOLDER_H
#define DD_BASE_FOLDER_H

#include "base/alloc.h"

/* Makes a folder unless it is there; its parent must be. Errors: DDIT_ERR_OUTPUT_PATH (the parent is missing), DDIT_ERR_WRITE,
 * with the path and the system's reason. */
ddit_status dd_make_folder(const char *path, ddit_err *err);

/* "folder/name", owned by the caller. */
ddit_status dd_path_join(const dd_allocator *a, char **out, const char *folder, const char *name, ddit_err *err);

#endif
