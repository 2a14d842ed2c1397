/* SentencePiece's normalisation of a text before it is cut into pieces. */
#ifndef DD_TOKENIZER_UNIGRAM_NORMALIZE_H
#define DD_TOKENIZER_UNIGRAM_NORMALIZE_H

#include "tokenizer/charsmap.h"
#include "tokenizer/piece_trie.h"

typedef struct dd_sp_normalizer {
    dd_charsmap charsmap;
    dd_piece_trie protected_texts; /* user-defined pieces: they pass unchanged */
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
} dd_sp_normalizer;

typedef struct dd_text_buffer {
    char *data; /* owned, by the allocator given to dd_sp_normalize */
    size_t size, capacity;
} dd_text_buffer;

/* Appends the normalised text[0..length), valid UTF-8, to *out (zeroed by the caller, freed by the caller also on failure).
 * Errors: DDIT_ERR_NO_MEMORY; DDIT_ERR_FORMAT when the rules make more than 1 MiB of it (NFKC makes at most 11 times as much).
 * Source: google/sentencepiece normalizer.cc, Normalizer::Normalize and NormalizePrefix. */
ddit_status dd_sp_normalize(const dd_sp_normalizer *n, const dd_allocator *a, const char *text, size_t length,
                            dd_text_buffer *out, ddit_err *err);

#endif
