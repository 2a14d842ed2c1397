/* What CLIP's tokenizer knows after its files have been read: see clip_bpe.h for the files. */
#ifndef DD_TOKENIZER_CLIP_VOCAB_H
#define DD_TOKENIZER_CLIP_VOCAB_H

#include "tokenizer/clip_bpe.h"

/* "left and right become id"; lower ranks go first. */
typedef struct dd_clip_merge {
    int32_t left, right; /* left -1: an empty place of the table */
    int32_t id, rank;
} dd_clip_merge;

/* A token that is found as a whole in the text before anything else is done. */
typedef struct dd_clip_added {
    char *text;       /* owned; as searched: if normalized, then itself normalised */
    size_t length;    /* > 0 */
    int32_t id;
    bool normalized;  /* searched in the normalised text instead of the raw one */
} dd_clip_added;

typedef struct dd_clip_vocab {
    const dd_allocator *allocator;
    int32_t byte_ids[256];     /* of the symbol of each byte inside a word; the unknown id if the vocabulary lacks it */
    int32_t byte_end_ids[256]; /* the same with </w>: at the end of a word */
    dd_clip_merge *merges;     /* owned hash table of merge_mask + 1 places */
    size_t merge_mask;
    dd_clip_added *added; /* owned */
    size_t added_count, added_capacity;
    int32_t start_id, end_id, pad_id, unk_id, size;
    size_t max_length;
} dd_clip_vocab;

/* Errors as dd_clip_bpe_open_memory; on failure *vocab is zeroed. */
ddit_status dd_clip_vocab_init(dd_clip_vocab *vocab, const dd_allocator *a, const dd_clip_files *files, ddit_err *err);

/* Frees; a zeroed vocabulary is accepted. */
void dd_clip_vocab_deinit(dd_clip_vocab *vocab);

/* The merge of left and right, NULL if there is none. */
const dd_clip_merge *dd_clip_vocab_merge(const dd_clip_vocab *vocab, int32_t left, int32_t right);

#endif
