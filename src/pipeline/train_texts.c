/* Prompts of a training: reading them and what the text encoders make of them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/train.h"
#include "tokenizer/utf8.h"

enum { MAX_PROMPTS = 100000, MAX_FILE = 256 << 20, FIRST_ROOM = 64 };

uint64_t dd_train_texts_hash(const dd_train_texts *texts) {
    uint64_t hash = DD_HASH_BEGIN;
    for (int i = 0; i < texts->count; i++) hash = dd_hash(hash, texts->lines[i], strlen(texts->lines[i]) + 1);
    return hash;
}

void dd_train_texts_deinit(dd_train_texts *texts, const dd_allocator *a) {
    for (int i = 0; i < texts->count; i++) {
        dd_free(a, texts->lines[i]);
        dd_prompt_embedding_deinit(&texts->embedded[i], a);
    }
    dd_free(a, texts->lines);
    dd_free(a, texts->embedded);
    dd_free(a, texts->prompts);
    *texts = (dd_train_texts){0};
}

/* Moves *items to an array of `room` items. */
static ddit_status grow(const dd_allocator *a, void *items, int count, int room, size_t size, ddit_err *err) {
    void **old = items, *larger;
    DD_TRY(dd_alloc(a, &larger, (size_t)room, size, "the prompts", err));
    if (count) memcpy(larger, *old, (size_t)count * size);
    dd_free(a, *old);
    *old = larger;
    return DDIT_OK;
}

ddit_status dd_train_texts_add(dd_train_texts *t, const dd_allocator *a, const char *line, size_t length, ddit_err *err) {
    if (t->count == t->room) {
        int room = t->room ? 2 * t->room : FIRST_ROOM;
        DD_TRY(grow(a, &t->lines, t->count, room, sizeof *t->lines, err));
        DD_TRY(grow(a, &t->embedded, t->count, room, sizeof *t->embedded, err));
        DD_TRY(grow(a, &t->prompts, t->count, room, sizeof *t->prompts, err));
        t->room = room;
    }
    DD_TRY(dd_strndup(a, &t->lines[t->count], line, length, err));
    t->count++;
    return DDIT_OK;
}

ddit_status dd_train_text_check(const char *text, size_t length, const char *where, ddit_err *err) {
    if (dd_prompt_check(text, length, err) == DDIT_OK) return DDIT_OK;
    if (err) err->code = DDIT_ERR_FORMAT;
    return dd_fail_prefix(err, DDIT_ERR_FORMAT, where);
}

static ddit_status add_line(dd_train_texts *t, const dd_allocator *a, const char *path, int number, const char *line,
                            size_t length, ddit_err *err) {
    const char *zero = memchr(line, 0, length);
    if (zero)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s, line %d: found a NUL at byte %td, expected text with a prompt a line", path,
                       number, zero - line + 1);
    while (length && (line[length - 1] == '\r' || line[length - 1] == ' ' || line[length - 1] == '\t')) length--;
    while (length && (*line == ' ' || *line == '\t')) line++, length--;
    if (length == 0 || *line == '#') return DDIT_OK;
    char where[DDIT_ERR_TEXT_SIZE / 2];
    snprintf(where, sizeof where, "%s, line %d", path, number);
    DD_TRY(dd_train_text_check(line, length, where, err));
    if (t->count == MAX_PROMPTS)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s, line %d: found more than %d prompts, which is the most", path, number,
                       MAX_PROMPTS);
    return dd_train_texts_add(t, a, line, length, err);
}

ddit_status dd_train_texts_read(dd_train_texts *t, const dd_allocator *a, const char *path, ddit_err *err) {
    char *data;
    size_t size;
    DD_TRY(dd_read_file(a, path, MAX_FILE, &data, &size, err));
    ddit_status status = DDIT_OK;
    size_t at = size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; /* the mark some editors begin UTF-8 with */
    for (int number = 1; at < size && status == DDIT_OK; number++) {
        const char *end = memchr(data + at, '\n', size - at);
        size_t length = end ? (size_t)(end - data) - at : size - at;
        status = add_line(t, a, path, number, data + at, length, err);
        at += length + 1;
    }
    dd_free(a, data);
    if (status == DDIT_OK && t->count == 0)
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: found no prompt, expected a text file with a prompt a line", path);
    return status;
}

uint64_t dd_train_texts_bytes(const ddit_model *model, const dd_train_settings *s, int count) {
    const dd_flux_config *c = &model->config.transformer;
    uint64_t text = (uint64_t)s->run.max_sequence_length * (uint64_t)c->joint_attention_dim;
    return (uint64_t)count * (text + (uint64_t)c->pooled_projection_dim) * sizeof(float);
}
