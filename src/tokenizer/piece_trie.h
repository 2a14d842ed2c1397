/* A byte trie over the pieces of a vocabulary: finds every piece that begins at a place of a text, one byte at a time. */
#ifndef DD_TOKENIZER_PIECE_TRIE_H
#define DD_TOKENIZER_PIECE_TRIE_H

#include "tokenizer/sentencepiece_model.h"

typedef struct dd_trie_node {
    uint32_t first_child; /* children are neighbours, in ascending order of label */
    int32_t id;           /* of the piece that ends here, or -1 */
    uint16_t child_count; /* 0 to 256 */
    uint8_t label;        /* the byte that leads here */
} dd_trie_node;

typedef struct dd_piece_trie {
    const dd_allocator *allocator;
    dd_trie_node *nodes; /* owned; node 0 is the root; NULL if there are no pieces */
    uint32_t node_count;
} dd_piece_trie;

typedef struct dd_trie_entry {
    dd_bytes text; /* not empty */
    int32_t id;
} dd_trie_entry;

/* Builds the trie of entries[0..count), which are put in order. Memory: at most one node per byte of text, and one.
 * *duplicate is the id of a text that was there before, or -1: the trie is then not built. Errors: DDIT_ERR_NO_MEMORY,
 * DDIT_ERR_FORMAT (more than 2^31 bytes); *trie is then zeroed. */
ddit_status dd_piece_trie_init(dd_piece_trie *trie, const dd_allocator *a, dd_trie_entry *entries, size_t count,
                               int32_t *duplicate, ddit_err *err);

/* Frees; a zeroed trie is accepted. */
void dd_piece_trie_deinit(dd_piece_trie *trie);

/* The child of `node` by `byte`; 0 (the root, which is nobody's child) if there is none. trie->nodes must not be NULL. */
uint32_t dd_piece_trie_step(const dd_piece_trie *trie, uint32_t node, uint8_t byte);

#endif
