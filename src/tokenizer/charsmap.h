/* SentencePiece's precompiled normalisation rules (charsmap): a table "these bytes become those bytes", applied by longest
 * match. The file stores u32 size of the trie, the trie (a Darts double array of u32 units, little-endian) and the
 * replacements as zero-terminated strings.
 * Source: google/sentencepiece normalizer.cc; unit layout of darts-clone.
 */
#ifndef DD_TOKENIZER_CHARSMAP_H
#define DD_TOKENIZER_CHARSMAP_H

#include "tokenizer/sentencepiece_model.h"

typedef struct dd_charsmap {
    const dd_allocator *allocator;
    uint32_t *units; /* owned; NULL: no rules */
    size_t unit_count;
    char *pool; /* owned: the replacements, ends with a zero byte */
    size_t pool_size;
} dd_charsmap;

/* Copies and checks the rules; an empty blob gives a map without rules. Everything a lookup relies on is checked here: sizes,
 * that every unit stays inside the trie, that every value is the start of a valid UTF-8 string. A trie with cycles is harmless:
 * each step of a lookup consumes a byte of the text. Errors: DDIT_ERR_FORMAT (names file and offset), DDIT_ERR_NO_MEMORY;
 * *map is then zeroed. */
ddit_status dd_charsmap_init(dd_charsmap *map, const dd_allocator *a, const char *name, dd_bytes blob, ddit_err *err);

/* Frees; a zeroed map is accepted. */
void dd_charsmap_deinit(dd_charsmap *map);

/* The longest rule that begins text[0..length): returns the number of bytes it replaces, 0 if none does. *replacement is then
 * a zero-terminated string that lives as long as the map. */
size_t dd_charsmap_match(const dd_charsmap *map, const char *text, size_t length, const char **replacement);

#endif
