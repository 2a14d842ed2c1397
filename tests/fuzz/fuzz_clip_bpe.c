/* Any bytes as the files of a CLIP tokenizer and a prompt, parted by zero bytes: vocab.json, merges.txt, tokenizer_config.json,
 * special_tokens_map.json, prompt. An accepted tokenizer must encode every valid prompt into ids of its vocabulary. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/clip_bpe.h"
#include "tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_LENGTH = 32 };

static void check(bool holds) {
    if (!holds) abort();
}

/* The bytes up to the next zero; nothing is left after the last part. */
static dd_clip_file next_part(const char **at, size_t *left, const char *name) {
    const char *begin = *at, *zero = *left > 0 ? memchr(begin, 0, *left) : NULL;
    size_t size = zero ? (size_t)(zero - begin) : *left, used = zero ? size + 1 : size;
    *at += used;
    *left -= used;
    return (dd_clip_file){name, size > 0 ? begin : NULL, size};
}

static void check_encoding(const dd_clip_bpe *tok, const char *text, size_t length) {
    int32_t ids[MAX_LENGTH];
    size_t total = 0;
    ddit_err err = {0};
    ddit_status status = dd_clip_bpe_encode(tok, text, length, MAX_LENGTH, ids, &total, &err);
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    check((status == DDIT_OK) == (dd_utf8_check(text, length, NULL) && length <= DD_PROMPT_MAX_BYTES));
    if (status != DDIT_OK) return;
    check(total >= 2 && ids[0] == dd_clip_bpe_start_id(tok));
    for (size_t i = 0; i < MAX_LENGTH; i++) check(ids[i] >= 0 && ids[i] < dd_clip_bpe_vocab_size(tok));
    check(ids[total < MAX_LENGTH ? total - 1 : MAX_LENGTH - 1] == dd_clip_bpe_end_id(tok));
    for (size_t i = total; i < MAX_LENGTH; i++) check(ids[i] == dd_clip_bpe_pad_id(tok));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *at = (const char *)data;
    dd_clip_files files;
    files.vocab = next_part(&at, &size, "vocab.json");
    files.merges = next_part(&at, &size, "merges.txt");
    files.tokenizer_config = next_part(&at, &size, "tokenizer_config.json");
    files.special_tokens_map = next_part(&at, &size, "special_tokens_map.json");
    dd_clip_bpe *tok;
    ddit_err err = {0};
    ddit_status status = dd_clip_bpe_open_memory(&tok, &dd_allocator_libc, &files, &err);
    check((status == DDIT_OK) == (tok != NULL));
    check(status == DDIT_OK || (err.code == status && err.text[0] != '\0'));
    if (status != DDIT_OK) return 0;
    check_encoding(tok, size > 0 ? at : "", size);
    dd_clip_bpe_close(tok);
    return 0;
}
