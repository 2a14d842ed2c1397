#include "base/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void forget(dd_out_file *file) {
    dd_free(file->allocator, file->path);
    dd_free(file->allocator, file->temp_path);
    *file = (dd_out_file){0};
}

ddit_status dd_out_file_open(dd_out_file *file, const dd_allocator *a, const char *path, ddit_err *err) {
    *file = (dd_out_file){.allocator = a};
    ddit_status status;
    size_t length = strlen(path);
    DD_GO(dd_strndup(a, &file->path, path, length, err));
    DD_GO(dd_alloc_raw(a, &file->temp_path, length + 32, 1, "a file name", err));
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        status = dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: is a folder; name a file in it", path);
        goto done;
    }
    /* Hidden, so that a folder watcher that globs *.png never sees the unfinished file. O_EXCL rather than mkstemp, because the
     * user's umask then decides the mode. */
    int fd = -1;
    for (int attempt = 0; attempt < 100; attempt++) {
        snprintf(file->temp_path, length + 32, "%.*s.%s.%ld.%d", folder, path, path + folder, (long)getpid(), attempt);
        fd = open(file->temp_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) break;
    }
    if (fd < 0) {
        int reason = errno;
        if (reason == ENOENT || reason == ENOTDIR)
            status =
                dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: the folder \"%.*s\" does not exist; make it first", path, folder, path);
        else
            status = dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s", path, strerror(reason));
        goto done;
    }
    file->stream = fdopen(fd, "wb");
    if (file->stream) return DDIT_OK;
    close(fd);
    unlink(file->temp_path);
    status = dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: cannot be opened: %s", path, strerror(errno));
done:
    forget(file);
    return status;
}

/* Until its folder is on the disk too, a power cut may bring the old file back. Some file systems cannot: no error. */
static void sync_folder(const dd_out_file *file) {
    char *path = file->temp_path; /* no longer needed */
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path] = '\0';
    int folder = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    fsync(folder);
    close(folder);
}

ddit_status dd_out_file_commit(dd_out_file *file, ddit_err *err) {
    errno = 0;
    bool good = !ferror(file->stream);
    good = fflush(file->stream) == 0 && good;
    good = good && fsync(fileno(file->stream)) == 0;
    int reason = errno;
    good = fclose(file->stream) == 0 && good;
    if (good && rename(file->temp_path, file->path) != 0) {
        reason = errno;
        good = false;
    }
    ddit_status status = DDIT_OK;
    if (!good) {
        unlink(file->temp_path);
        status = dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s", file->path, strerror(reason ? reason : EIO));
    } else sync_folder(file);
    forget(file);
    return status;
}

void dd_out_file_discard(dd_out_file *file) {
    if (!file->stream) return;
    fclose(file->stream);
    unlink(file->temp_path);
    forget(file);
}
