/* Any bytes as the captions of a folder of pictures: once as captions.jsonl, once as the text beside a picture. What is accepted
 * gives every picture a caption of at least one character. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "media/picture_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PATH_SIZE = 128 };

static void check(bool holds) {
    if (!holds) abort();
}

static void put(const char *folder, const char *name, const uint8_t *data, size_t size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void take(const char *folder, const char *name) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

static void read_folder(const char *folder, int pictures) {
    dd_picture_folder f;
    ddit_err err = {0};
    ddit_status status = dd_picture_folder_read(&f, &dd_allocator_libc, folder, &err);
    check((status == DDIT_OK) == (f.entries != NULL) && (status != DDIT_OK || f.count == pictures));
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    for (int i = 0; i < f.count; i++) check(f.entries[i].caption[0] != '\0');
    dd_picture_folder_deinit(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t caption[] = "apple";
    char folder[] = "/tmp/ddit-captions-XXXXXX";
    check(mkdtemp(folder) != NULL);
    put(folder, "a.png", caption, 0);
    put(folder, "b.jpg", caption, 0);
    put(folder, "b.txt", caption, sizeof caption - 1);
    put(folder, "captions.jsonl", data, size);
    read_folder(folder, 2);
    take(folder, "captions.jsonl");
    put(folder, "a.txt", data, size);
    read_folder(folder, 2);
    static const char *const names[] = {"a.png", "b.jpg", "a.txt", "b.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) take(folder, names[i]);
    check(rmdir(folder) == 0);
    return 0;
}
