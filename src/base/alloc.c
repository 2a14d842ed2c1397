#include "base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

static void *libc_alloc(void *user, size_t size) {
    (void)user;
    size_t padded = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    return padded < size ? NULL : aligned_alloc(ALIGNMENT, padded);
}

static void libc_free(void *user, void *memory) {
    (void)user;
    free(memory);
}

const dd_allocator dd_allocator_libc = {libc_alloc, libc_free, NULL};

ddit_status dd_alloc_raw(const dd_allocator *a, void *out, size_t count, size_t size, const char *what, ddit_err *err) {
    void *memory = NULL;
    uint64_t bytes = 0;
    if (dd_mul_u64(count, size, &bytes) && bytes <= PTRDIFF_MAX) memory = a->alloc(a->user, bytes ? (size_t)bytes : 1);
    memcpy(out, &memory, sizeof memory);
    if (memory) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory: %s needs %zu x %zu bytes", what, count, size);
}

ddit_status dd_alloc(const dd_allocator *a, void *out, size_t count, size_t size, const char *what, ddit_err *err) {
    DD_TRY(dd_alloc_raw(a, out, count, size, what, err));
    void *memory;
    memcpy(&memory, out, sizeof memory);
    memset(memory, 0, count * size);
    return DDIT_OK;
}

void dd_free(const dd_allocator *a, void *memory) {
    if (memory) a->free(a->user, memory);
}

ddit_status dd_strndup(const dd_allocator *a, char **out, const char *text, size_t length, ddit_err *err) {
    DD_TRY(dd_alloc_raw(a, out, length + 1, 1, "a string", err));
    memcpy(*out, text, length);
    (*out)[length] = '\0';
    return DDIT_OK;
}

ddit_status dd_strdup(const dd_allocator *a, char **out, const char *text, ddit_err *err) {
    return dd_strndup(a, out, text, strlen(text), err);
}
