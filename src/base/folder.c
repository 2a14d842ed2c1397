#include "base/folder.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

ddit_status dd_make_folder(const char *path, ddit_err *err) {
    struct stat info;
    if (mkdir(path, 0777) == 0) return DDIT_OK;
    int reason = errno;
    if (reason == EEXIST && stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return DDIT_OK;
    if (reason == ENOENT) return dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: the folder it should lie in does not exist", path);
    return dd_fail(err, DDIT_ERR_WRITE, "%s: the folder cannot be made: %s", path, strerror(reason));
}

ddit_status dd_path_join(const dd_allocator *a, char **out, const char *folder, const char *name, ddit_err *err) {
    size_t length = strlen(folder), size = length + strlen(name) + 2;
    DD_TRY(dd_alloc_raw(a, out, size, 1, "a path", err));
    snprintf(*out, size, "%s%s%s", folder, length && folder[length - 1] == '/' ? "" : "/", name);
    return DDIT_OK;
}
