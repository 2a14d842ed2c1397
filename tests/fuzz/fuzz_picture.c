/* Any bytes as a picture file: PNG, JPEG or WebP, whatever they begin like. An accepted one has the size that it says, and can
 * be brought to another. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "media/picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_PIECE = 1 << 24, SMALL = 16 };

static void check(bool holds) {
    if (!holds) abort();
}

/* Refuses what is large, so that a header of few bytes does not cost a second. */
static void *small_alloc(void *user, size_t size) {
    (void)user;
    return size <= MAX_PIECE ? dd_allocator_libc.alloc(dd_allocator_libc.user, size) : NULL;
}

static void small_free(void *user, void *memory) {
    (void)user;
    dd_allocator_libc.free(dd_allocator_libc.user, memory);
}

static const dd_allocator small = {.alloc = small_alloc, .free = small_free};

static void check_picture(const dd_picture *p) {
    dd_picture other;
    ddit_err err = {0};
    unsigned sum = 0;
    check(p->rgb && p->width >= 1 && p->height >= 1 && p->width <= DD_PICTURE_MAX_SIDE && p->height <= DD_PICTURE_MAX_SIDE);
    for (size_t i = 0; i < (size_t)p->width * (size_t)p->height * 3; i++) sum += p->rgb[i]; /* all of it is there */
    check(sum <= 255u * 3 * MAX_PIECE);
    if (p->width > 4096 || p->height > 4096) return;
    check(dd_picture_resize(&other, &small, p, SMALL, SMALL / 2, &err) == DDIT_OK || err.code == DDIT_ERR_NO_MEMORY);
    dd_picture_deinit(&other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    dd_picture picture;
    ddit_err err = {0};
    int fd = memfd_create("picture", MFD_CLOEXEC);
    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ddit_status status = dd_picture_read(&picture, &small, path, &err);
    check((status == DDIT_OK) == (picture.rgb != NULL));
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    if (status == DDIT_OK) check_picture(&picture);
    dd_picture_deinit(&picture);
    close(fd);
    return 0;
}
