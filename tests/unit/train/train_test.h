/* A folder of its own for each case of the tests of this room. */
#ifndef DD_TRAIN_TEST_H
#define DD_TRAIN_TEST_H

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mapped_file.h"
#include "harness.h"

enum { TEST_PATH_SIZE = 128 };

static inline bool test_folder(char folder[TEST_PATH_SIZE]) {
    snprintf(folder, TEST_PATH_SIZE, "/tmp/ddit-test-train-XXXXXX");
    return mkdtemp(folder) != NULL;
}

static inline const char *test_path(char path[TEST_PATH_SIZE * 2], const char *folder, const char *name) {
    snprintf(path, TEST_PATH_SIZE * 2, "%s/%s", folder, name);
    return path;
}

/* Number of files, hidden ones included; with `remove`, of those removed, and the folder is removed too. */
static inline int test_files(const char *folder, bool remove) {
    int count = 0;
    DIR *dir = opendir(folder);
    if (!dir) return -1;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[TEST_PATH_SIZE * 4];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (remove) unlink(path);
        count++;
    }
    closedir(dir);
    if (remove) rmdir(folder);
    return count;
}

static inline bool test_write(const char *path, const void *data, size_t size) {
    FILE *stream = fopen(path, "wb");
    if (!stream) return false;
    bool good = fwrite(data, 1, size, stream) == size;
    return fclose(stream) == 0 && good;
}

/* The file's bytes, NUL-terminated, freed by dd_free(&dd_allocator_libc, …). */
static inline char *test_read(const char *path, size_t *size) {
    char *data;
    return dd_read_file(&dd_allocator_libc, path, 1 << 24, &data, size, NULL) == DDIT_OK ? data : NULL;
}

/* Stands in for a full disk: no file of this process may grow over `bytes`; RLIM_INFINITY ends it. */
static inline void test_limit_files(rlim_t bytes) {
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
}

#endif
