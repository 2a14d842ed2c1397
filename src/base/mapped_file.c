#include "base/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ddit_status open_regular(const char *path, int *fd, size_t *size, ddit_err *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return dd_fail(err, errno == ENOENT || errno == ENOTDIR ? DDIT_ERR_NOT_FOUND : DDIT_ERR_READ, "%s: %s", path,
                       errno == ENOENT || errno == ENOTDIR ? "there is no such file" : strerror(errno));
    struct stat info;
    if (fstat(*fd, &info) == 0 && S_ISREG(info.st_mode)) {
        *size = (size_t)info.st_size;
        return DDIT_OK;
    }
    close(*fd);
    *fd = -1;
    return dd_fail(err, DDIT_ERR_READ, "%s: found a folder or device where a file was expected", path);
}

ddit_status dd_mapped_file_open(dd_mapped_file *file, const char *path, ddit_err *err) {
    *file = (dd_mapped_file){0};
    int fd;
    size_t size;
    DD_TRY(open_regular(path, &fd, &size, err));
    if (size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            int reason = errno;
            close(fd);
            return dd_fail(err, reason == ENOMEM ? DDIT_ERR_NO_MEMORY : DDIT_ERR_READ, "%s: cannot map %zu bytes: %s", path,
                           size, strerror(reason));
        }
        *file = (dd_mapped_file){data, size};
    }
    close(fd);
    return DDIT_OK;
}

void dd_mapped_file_close(dd_mapped_file *file) {
    if (file->data) munmap((void *)(uintptr_t)file->data, file->size);
    *file = (dd_mapped_file){0};
}

void dd_mapped_file_release(const dd_mapped_file *file, size_t offset, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = (offset + page - 1) / page * page;
    size_t end = (offset + size) / page * page; /* only whole pages: neighbours keep theirs */
    if (end > begin) madvise((void *)(uintptr_t)(file->data + begin), end - begin, MADV_DONTNEED);
}

ddit_status dd_read_file(const dd_allocator *a, const char *path, size_t max_size, char **data, size_t *size, ddit_err *err) {
    *data = NULL;
    *size = 0;
    int fd;
    size_t bytes;
    DD_TRY(open_regular(path, &fd, &bytes, err));
    ddit_status status = DDIT_OK;
    if (bytes > max_size) {
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: the file has %zu bytes, at most %zu are accepted", path, bytes, max_size);
        goto done;
    }
    DD_GO(dd_alloc_raw(a, data, bytes + 1, 1, path, err));
    size_t have = 0;
    while (have < bytes) {
        ssize_t got = read(fd, *data + have, bytes - have);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            status = dd_fail(err, DDIT_ERR_READ, "%s: read %zu of %zu bytes: %s", path, have, bytes,
                             got < 0 ? strerror(errno) : "the file became shorter");
            goto done;
        }
        have += (size_t)got;
    }
    (*data)[bytes] = '\0';
    *size = bytes;
done:
    close(fd);
    if (status != DDIT_OK) {
        dd_free(a, *data);
        *data = NULL;
    }
    return status;
}
