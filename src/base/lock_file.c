#include "base/lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

ddit_status dd_lock_file_take(dd_lock_file *lock, const char *path, bool *taken, ddit_err *err) {
    *lock = (dd_lock_file){0};
    *taken = false;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be opened: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        *taken = true;
        close(fd);
        return DDIT_OK;
    }
    *lock = (dd_lock_file){.fd = fd, .held = true};
    return DDIT_OK;
}

void dd_lock_file_drop(dd_lock_file *lock) {
    if (lock->held) close(lock->fd);
    *lock = (dd_lock_file){0};
}
