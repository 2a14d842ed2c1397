/* A hash for names and keys of files. Not for secrets, and not alone where two things with one hash would do harm. */
#ifndef DD_BASE_HASH_H
#define DD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define DD_HASH_BEGIN UINT64_C(0xcbf29ce484222325)

/* FNV-1a, 64 bit: the hash of what was hashed before (DD_HASH_BEGIN: nothing), followed by these bytes. */
static inline uint64_t dd_hash(uint64_t hash, const void *bytes, size_t count) {
    const uint8_t *at = (const uint8_t *)bytes;
    for (size_t i = 0; i < count; i++) hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

#endif
