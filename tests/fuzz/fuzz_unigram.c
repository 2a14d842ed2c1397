/* Any bytes as a SentencePiece model and a prompt: byte 0 says how many of the following bytes are the prompt, the rest is the
 * file. An accepted model must encode every valid prompt into ids of its vocabulary. */
#include <stdlib.h>

#include "tokenizer/unigram.h"
#include "tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_LENGTH = 32 };

static void check(bool holds) {
    if (!holds) abort();
}

static void check_encoding(const dd_unigram *tok, const char *text, size_t length) {
    int32_t ids[MAX_LENGTH];
    size_t total = 0;
    ddit_err err = {0};
    ddit_status status = dd_unigram_encode(tok, text, length, MAX_LENGTH, ids, &total, &err);
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    check((status == DDIT_ERR_ARGUMENT) == !dd_utf8_check(text, length, NULL));
    if (status != DDIT_OK) return;
    check(total >= 1);
    for (size_t i = 0; i < MAX_LENGTH; i++) check(ids[i] >= 0 && ids[i] < dd_unigram_vocab_size(tok));
    check(ids[total < MAX_LENGTH ? total - 1 : MAX_LENGTH - 1] == dd_unigram_eos_id(tok));
    for (size_t i = total; i < MAX_LENGTH; i++) check(ids[i] == dd_unigram_pad_id(tok));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || (size_t)data[0] + 1 > size) return 0;
    const char *text = (const char *)data + 1;
    size_t length = data[0];
    dd_unigram *tok;
    ddit_err err = {0};
    ddit_status status = dd_unigram_open_memory(&tok, &dd_allocator_libc, "fuzz", data + 1 + length, size - 1 - length, &err);
    check((status == DDIT_OK) == (tok != NULL));
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    if (status != DDIT_OK) return 0;
    check_encoding(tok, text, length);
    dd_unigram_close(tok);
    return 0;
}
