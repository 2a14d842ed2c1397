/* The tokenizer of T5 and UMT5: SentencePiece's unigram model.
 *
 *     dd_unigram *tok;
 *     DD_TRY(dd_unigram_open(&tok, allocator, "model/tokenizer_2/spiece.model", err));
 *     int32_t ids[512];
 *     size_t total;
 *     status = dd_unigram_encode(tok, prompt, strlen(prompt), 512, ids, &total, err);
 *     dd_unigram_close(tok);
 *
 * The ids equal those of the `sentencepiece` package's encode() for the same file, followed by </s>. transformers' T5 tokenizer
 * gives the same for ordinary text but treats leading spaces, line ends and special tokens written in the prompt otherwise.
 * A tokenizer does not change after open and may be used by several threads at once.
 */
#ifndef DD_TOKENIZER_UNIGRAM_H
#define DD_TOKENIZER_UNIGRAM_H

#include "base/alloc.h"

typedef struct dd_unigram dd_unigram;

/* Opens a spiece.model. The file is read and closed again. On failure *out is NULL.
 * Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT, DDIT_ERR_UNSUPPORTED (no unigram model), DDIT_ERR_NO_MEMORY. */
ddit_status dd_unigram_open(dd_unigram **out, const dd_allocator *a, const char *path, ddit_err *err);

/* The same from memory, which may be freed afterwards; `name` stands for the file in error sentences. */
ddit_status dd_unigram_open_memory(dd_unigram **out, const dd_allocator *a, const char *name, const void *data, size_t size,
                                   ddit_err *err);

/* NULL is accepted. */
void dd_unigram_close(dd_unigram *tok);

/* Encodes text[0..length), UTF-8, at most DD_PROMPT_MAX_BYTES.
 * ids          [max_length] out: the pieces, cut to max_length - 1, then </s>, then padding. max_length >= 1.
 * count_total  out, may be NULL: ids with </s> before cutting; more than max_length means that something was cut.
 * Errors: DDIT_ERR_ARGUMENT (invalid UTF-8, too long, max_length 0; ids untouched), DDIT_ERR_FORMAT (rules that
 * blow the text up beyond all measure), DDIT_ERR_NO_MEMORY. Memory: about 20 bytes per byte of text, freed before returning.
 * Source: Kudo 2018 (subword regularization), section 3.2, in the arithmetic of google/sentencepiece unigram_model.cc. */
ddit_status dd_unigram_encode(const dd_unigram *tok, const char *text, size_t length, size_t max_length, int32_t *ids,
                              size_t *count_total, ddit_err *err);

/* Number of pieces (ids are below it), and the ids of </s> and padding (0 if the file names no padding piece, as T5 has it). */
int32_t dd_unigram_vocab_size(const dd_unigram *tok);
int32_t dd_unigram_eos_id(const dd_unigram *tok);
int32_t dd_unigram_pad_id(const dd_unigram *tok);

#endif
