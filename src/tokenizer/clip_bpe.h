/* The tokenizer of CLIP: byte-level BPE over normalised words.
 *
 *     dd_clip_bpe *tok;
 *     DD_TRY(dd_clip_bpe_open(&tok, allocator, "model/tokenizer", err));
 *     int32_t ids[77];
 *     size_t total;
 *     status = dd_clip_bpe_encode(tok, prompt, strlen(prompt), 77, ids, &total, err);
 *     dd_clip_bpe_close(tok);
 *
 * The ids equal those of transformers 5's CLIPTokenizer (Unicode NFC, lower case, words by a regular expression, merges by
 * rank), also for special tokens written out in the prompt; see clip_text.h for the Unicode versions behind that. It knows
 * nothing of the older slow tokenizer's ftfy and HTML unescaping. A tokenizer does not change after open and may be used by
 * several threads at once.
 */
#ifndef DD_TOKENIZER_CLIP_BPE_H
#define DD_TOKENIZER_CLIP_BPE_H

#include "base/alloc.h"

typedef struct dd_clip_bpe dd_clip_bpe;

/* One input file in memory: `name` stands for it in error sentences; data NULL: there is no such file. */
typedef struct dd_clip_file {
    const char *name;
    const char *data;
    size_t size;
} dd_clip_file;

typedef struct dd_clip_files {
    dd_clip_file vocab;              /* vocab.json: {"token": id}, ids 0 .. N-1; needed */
    dd_clip_file merges;             /* merges.txt: optional "#version" line, then "left right" by rank; needed */
    dd_clip_file tokenizer_config;   /* tokenizer_config.json: may be missing */
    dd_clip_file special_tokens_map; /* special_tokens_map.json: may be missing */
} dd_clip_files;

/* Opens the four files of a tokenizer folder. The files are read and closed again. On failure *out is NULL.
 * Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT, DDIT_ERR_UNSUPPORTED, DDIT_ERR_NO_MEMORY. */
ddit_status dd_clip_bpe_open(dd_clip_bpe **out, const dd_allocator *a, const char *folder, ddit_err *err);

/* The same from memory, which may be freed afterwards. */
ddit_status dd_clip_bpe_open_memory(dd_clip_bpe **out, const dd_allocator *a, const dd_clip_files *files, ddit_err *err);

/* NULL is accepted. */
void dd_clip_bpe_close(dd_clip_bpe *tok);

/* Encodes text[0..length), UTF-8, at most DD_PROMPT_MAX_BYTES.
 * ids          [max_length] out: start id, tokens cut to max_length - 2, end id, padding. max_length >= 2.
 * count_total  out, may be NULL: ids with start and end before cutting; more than max_length means that something was cut.
 * Errors: DDIT_ERR_ARGUMENT (invalid UTF-8, too long, max_length < 2; ids untouched), DDIT_ERR_NO_MEMORY.
 * Time: O(n log n) also for a single word of 32,000 bytes. Memory: freed before returning.
 * Source: Sennrich et al. 2016 (BPE); transformers 5 tokenization_clip.py; OpenAI CLIP simple_tokenizer.py. */
ddit_status dd_clip_bpe_encode(const dd_clip_bpe *tok, const char *text, size_t length, size_t max_length, int32_t *ids,
                               size_t *count_total, ddit_err *err);

/* One more than the largest id, added tokens included. */
int32_t dd_clip_bpe_vocab_size(const dd_clip_bpe *tok);
/* model_max_length of tokenizer_config.json, 77 if it does not say. */
size_t dd_clip_bpe_max_length(const dd_clip_bpe *tok);
int32_t dd_clip_bpe_start_id(const dd_clip_bpe *tok);
int32_t dd_clip_bpe_end_id(const dd_clip_bpe *tok);
int32_t dd_clip_bpe_pad_id(const dd_clip_bpe *tok);

#endif
