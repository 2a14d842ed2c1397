#include "tokenizer/charsmap.h"

#include <string.h>

#include "tokenizer/utf8.h"

enum { BLOCK_UNITS = 256 }; /* darts-clone builds in blocks of this size, so offset ^ label never leaves the array */

/* A unit of darts-clone: a value (bit 31 set, value in bits 0-30) or a node: label in bits 0-7, bit 8: the unit at the node's
 * offset is a value, bits 10-30: offset, times 256 if bit 9 is set. */
static bool unit_is_value(uint32_t unit) { return unit >> 31; }
static uint32_t unit_value(uint32_t unit) { return unit & 0x7FFFFFFFu; }
static bool unit_has_value(uint32_t unit) { return unit >> 8 & 1; }
static uint32_t unit_offset(uint32_t unit) { return (unit & 0x7FFFFFFFu) >> 10 << (unit >> 9 & 1) * 8; }
static uint32_t unit_label(uint32_t unit) { return unit & 0x800000FFu; }

static ddit_status check_units(const dd_charsmap *map, const char *name, ddit_err *err) {
    for (size_t i = 0; i < map->unit_count; i++) {
        uint32_t unit = map->units[i];
        if (unit_is_value(unit)) continue;
        size_t child = i ^ unit_offset(unit);
        if (child >= map->unit_count)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: unit %zu of the normalisation trie points to unit %zu, expected less than %zu", name,
                           i, child, map->unit_count);
        if (!unit_has_value(unit)) continue;
        uint32_t leaf = map->units[child];
        if (!unit_is_value(leaf))
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: unit %zu of the normalisation trie is 0x%08X, expected a value (bit 31 set)", name,
                           child, (unsigned)leaf);
        uint32_t value = unit_value(leaf);
        if (value >= map->pool_size || ((uint8_t)map->pool[value] & 0xC0) == 0x80)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: unit %zu of the normalisation trie has the value %u, expected the start of a character in %zu "
                               "bytes", name, child, (unsigned)value, map->pool_size);
    }
    if (unit_is_value(map->units[0]))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: the root of the normalisation trie is a value, expected a node", name);
    return DDIT_OK;
}

static ddit_status check_sizes(const char *name, dd_bytes blob, size_t *trie_size, ddit_err *err) {
    if (blob.size < 4)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: the normalisation rules have %zu bytes, expected at least 4", name,
                       blob.size);
    size_t size = (size_t)blob.data[0] | (size_t)blob.data[1] << 8 | (size_t)blob.data[2] << 16 | (size_t)blob.data[3] << 24;
    size_t left = blob.size - 4;
    if (size == 0 || size >= left || size % (BLOCK_UNITS * 4) != 0)
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: the normalisation trie says it has %zu bytes, expected a multiple of %d below the %zu bytes left",
                           name, size,
                       BLOCK_UNITS * 4, left);
    if (blob.data[blob.size - 1] != 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: the normalisation rules end with byte 0x%02X, expected a zero", name,
                       (unsigned)blob.data[blob.size - 1]);
    size_t bad = 0;
    if (!dd_utf8_check((const char *)blob.data + 4 + size, left - size, &bad))
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: the replacements of the normalisation rules are not valid UTF-8 at their byte %zu", name, bad);
    *trie_size = size;
    return DDIT_OK;
}

ddit_status dd_charsmap_init(dd_charsmap *map, const dd_allocator *a, const char *name, dd_bytes blob, ddit_err *err) {
    *map = (dd_charsmap){.allocator = a};
    if (blob.size == 0) return DDIT_OK;
    ddit_status status = DDIT_OK;
    size_t trie_size = 0;
    DD_GO(check_sizes(name, blob, &trie_size, err));
    map->unit_count = trie_size / 4;
    map->pool_size = blob.size - 4 - trie_size;
    DD_GO(dd_alloc_raw(a, &map->units, map->unit_count, sizeof *map->units, "the normalisation trie", err));
    DD_GO(dd_alloc_raw(a, &map->pool, map->pool_size, 1, "the normalisation rules", err));
    for (size_t i = 0; i < map->unit_count; i++) {
        const uint8_t *b = blob.data + 4 + 4 * i;
        map->units[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    }
    memcpy(map->pool, blob.data + 4 + trie_size, map->pool_size);
    DD_GO(check_units(map, name, err));
done:
    if (status != DDIT_OK) dd_charsmap_deinit(map);
    return status;
}

void dd_charsmap_deinit(dd_charsmap *map) {
    if (map->allocator) {
        dd_free(map->allocator, map->units);
        dd_free(map->allocator, map->pool);
    }
    *map = (dd_charsmap){0};
}

size_t dd_charsmap_match(const dd_charsmap *map, const char *text, size_t length, const char **replacement) {
    if (!map->units) return 0;
    size_t longest = 0;
    size_t node = unit_offset(map->units[0]); /* where the children of the node reached so far begin */
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        size_t child = node ^ byte;
        if (byte == 0 || child >= map->unit_count) break; /* label 0 is where values live, so no rule holds a zero byte */
        uint32_t unit = map->units[child];
        if (unit_label(unit) != byte) break;
        node = child ^ unit_offset(unit);
        if (unit_has_value(unit)) {
            longest = i + 1;
            *replacement = map->pool + unit_value(map->units[node]);
        }
    }
    return longest;
}
