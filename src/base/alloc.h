/* Host memory. Every allocation of the library goes through a dd_allocator, so that an embedding program can count, limit or
 * refuse them; tests make the n-th one fail.
 */
#ifndef DD_BASE_ALLOC_H
#define DD_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct dd_allocator {
    void *(*alloc)(void *user, size_t size); /* 64-byte aligned, or NULL; size > 0 */
    void (*free)(void *user, void *memory);  /* accepts NULL */
    void *user;
} dd_allocator;

/* The C library's memory, 64-byte aligned. */
extern const dd_allocator dd_allocator_libc;

/* Allocates count * size bytes, zeroed. *out is NULL on failure. Zero bytes give a non-NULL pointer that must be freed.
 * Errors: DDIT_ERR_NO_MEMORY, naming `what` and the bytes wanted (also when the product overflows). */
ddit_status dd_alloc(const dd_allocator *a, void *out, size_t count, size_t size, const char *what, ddit_err *err);

/* The same without zeroing: for large buffers that are written before they are read. */
ddit_status dd_alloc_raw(const dd_allocator *a, void *out, size_t count, size_t size, const char *what, ddit_err *err);

/* Frees; NULL is accepted. */
void dd_free(const dd_allocator *a, void *memory);

/* A NUL-terminated copy of text[0..length). */
ddit_status dd_strndup(const dd_allocator *a, char **out, const char *text, size_t length, ddit_err *err);
ddit_status dd_strdup(const dd_allocator *a, char **out, const char *text, ddit_err *err);

/* *out = x * y resp. x + y; false when the result does not fit. The one place for size arithmetic on foreign numbers. */
static inline bool dd_mul_u64(uint64_t x, uint64_t y, uint64_t *out) { return !__builtin_mul_overflow(x, y, out); }
static inline bool dd_add_u64(uint64_t x, uint64_t y, uint64_t *out) { return !__builtin_add_overflow(x, y, out); }

#endif
