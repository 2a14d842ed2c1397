#include "tokenizer/clip_special_tokens.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/clip_text.h"

enum { MAX_ADDED = 4096, MAX_TOKEN_TEXT = 1024, DEFAULT_MAX_LENGTH = 77 };

ddit_status dd_clip_parse_json(json_t **out, const dd_clip_file *file, ddit_err *err) {
    json_error_t error;
    *out = json_loadb(file->data, file->size, JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: not valid JSON at line %d, column %d: %.200s", file->name, error.line,
                       error.column, error.text);
    if (json_is_object(*out)) return DDIT_OK;
    json_decref(*out);
    *out = NULL;
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: found another JSON value, expected an object {...}", file->name);
}

/* The text of a special token: "text" or {"content": "text", "normalized": …}. NULL: there is none (missing or null). */
static ddit_status token_text(const char *name, const char *key, const json_t *value, const char **text, bool *normalized,
                              ddit_err *err) {
    *text = NULL;
    *normalized = false;
    if (!value || json_is_null(value)) return DDIT_OK;
    if (json_is_object(value)) {
        const json_t *flag = json_object_get(value, "normalized");
        *normalized = !flag || json_is_true(flag); /* the default of transformers' AddedToken */
        if (json_is_true(json_object_get(value, "single_word")))
            return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: token \"%.100s\" is \"single_word\", which is not supported", name,
                           key);
        value = json_object_get(value, "content");
    }
    const char *found = json_string_value(value);
    if (!found || !*found || strlen(found) > MAX_TOKEN_TEXT)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: \"%.100s\" has no text, expected a token of 1 to %d bytes", name, key,
                       MAX_TOKEN_TEXT);
    *text = found;
    return DDIT_OK;
}

static ddit_status grow_added(dd_clip_vocab *vocab, ddit_err *err) {
    if (vocab->added_count < vocab->added_capacity) return DDIT_OK;
    size_t capacity = vocab->added_capacity ? 2 * vocab->added_capacity : 8;
    dd_clip_added *added;
    DD_TRY(dd_alloc(vocab->allocator, &added, capacity, sizeof *added, "the added tokens", err));
    if (vocab->added_count > 0) memcpy(added, vocab->added, vocab->added_count * sizeof *added);
    dd_free(vocab->allocator, vocab->added);
    vocab->added = added;
    vocab->added_capacity = capacity;
    return DDIT_OK;
}

/* Adds the token, or changes its flag if its id is there already: what is said last counts. */
static ddit_status add_token(dd_clip_vocab *vocab, const char *text, int32_t id, bool normalized, ddit_err *err) {
    dd_clip_added token = {.id = id, .normalized = normalized};
    if (normalized) DD_TRY(dd_clip_text_normalize(vocab->allocator, text, strlen(text), &token.text, &token.length, err));
    else DD_TRY(dd_strndup(vocab->allocator, &token.text, text, token.length = strlen(text), err));
    for (size_t i = 0; i < vocab->added_count; i++) {
        if (vocab->added[i].id != id) continue;
        dd_free(vocab->allocator, vocab->added[i].text);
        vocab->added[i] = token;
        return DDIT_OK;
    }
    ddit_status status = grow_added(vocab, err);
    if (status == DDIT_OK) vocab->added[vocab->added_count++] = token;
    else dd_free(vocab->allocator, token.text);
    return status;
}

/* The id of a token that vocab.json or added_tokens_decoder holds; -1 if neither does. */
static int32_t find_id(const json_t *tokens, const json_t *decoder, const char *text) {
    const json_t *id = json_object_get(tokens, text);
    if (id) return (int32_t)json_integer_value(id);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (content && strcmp(content, text) == 0) return (int32_t)strtol(key, NULL, 10);
    }
    return -1;
}

typedef struct configs {
    const dd_clip_files *files;
    json_t *config, *map;  /* owned, may be NULL */
    const json_t *decoder; /* "added_tokens_decoder", in config, or NULL */
    const json_t *tokens;
} configs;

/* The token named `key`: from the map, which transformers reads last, unless the newer added_tokens_decoder is there. */
static ddit_status named_token(dd_clip_vocab *vocab, const configs *c, const char *key, const char *fallback, int32_t *id,
                               ddit_err *err) {
    const json_t *in_map = json_object_get(c->map, key), *in_config = json_object_get(c->config, key);
    bool from_map = in_map && !(c->decoder && in_config);
    const char *name = from_map ? c->files->special_tokens_map.name : c->files->tokenizer_config.name;
    const char *text;
    bool normalized;
    DD_TRY(token_text(name, key, from_map ? in_map : in_config, &text, &normalized, err));
    if (!text) text = fallback;
    *id = find_id(c->tokens, c->decoder, text);
    if (*id < 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found no token \"%.100s\", which is the %s (do the files belong together?)",
                       c->files->vocab.name, text, key);
    return add_token(vocab, text, *id, normalized, err);
}

/* The entries of added_tokens_decoder: {"49406": {"content": …}}. */
static ddit_status read_decoder(dd_clip_vocab *vocab, const configs *c, ddit_err *err) {
    const char *name = c->files->tokenizer_config.name, *key;
    int32_t count = (int32_t)json_object_size(c->tokens);
    json_t *value;
    if (json_object_size(c->decoder) > MAX_ADDED)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: found %zu added tokens, at most %d are supported", name,
                       json_object_size(c->decoder), MAX_ADDED);
    json_object_foreach((json_t *)(uintptr_t)c->decoder, key, value) {
        const char *text;
        bool normalized;
        DD_TRY(token_text(name, key, value, &text, &normalized, err));
        char *end;
        errno = 0;
        long number = strtol(key, &end, 10);
        const json_t *known = text ? json_object_get(c->tokens, text) : NULL;
        bool fits = known ? number == json_integer_value(known) : number >= count && number < (long)count + MAX_ADDED;
        if (!text || errno || *end || end == key || !fits)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: added token \"%.20s\" (\"%.100s\") does not fit the vocabulary of %d tokens", name, key,
                           text ? text : "", count);
        if (number >= vocab->size) vocab->size = (int32_t)number + 1;
        DD_TRY(add_token(vocab, text, (int32_t)number, normalized, err));
    }
    return DDIT_OK;
}

static ddit_status read_max_length(dd_clip_vocab *vocab, const configs *c, ddit_err *err) {
    vocab->max_length = DEFAULT_MAX_LENGTH;
    const json_t *value = json_object_get(c->config, "model_max_length");
    /* transformers writes 1e30 for "no limit", as an integer or a real: then CLIP's own 77 holds */
    if (!value || json_is_null(value) || (json_is_number(value) && json_number_value(value) > 1e6)) return DDIT_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 2)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: \"model_max_length\" is not a whole number of at least 2",
                       c->files->tokenizer_config.name);
    vocab->max_length = (size_t)json_integer_value(value);
    return DDIT_OK;
}

static ddit_status read_all(dd_clip_vocab *vocab, configs *c, ddit_err *err) {
    if (c->files->tokenizer_config.data) DD_TRY(dd_clip_parse_json(&c->config, &c->files->tokenizer_config, err));
    if (c->files->special_tokens_map.data) DD_TRY(dd_clip_parse_json(&c->map, &c->files->special_tokens_map, err));
    c->decoder = json_object_get(c->config, "added_tokens_decoder");
    if (c->decoder && !json_is_object(c->decoder))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: \"added_tokens_decoder\" is not an object {...}",
                       c->files->tokenizer_config.name);
    vocab->size = (int32_t)json_object_size(c->tokens);
    DD_TRY(named_token(vocab, c, "bos_token", "<|startoftext|>", &vocab->start_id, err));
    DD_TRY(named_token(vocab, c, "eos_token", "<|endoftext|>", &vocab->end_id, err));
    DD_TRY(named_token(vocab, c, "unk_token", "<|endoftext|>", &vocab->unk_id, err));
    DD_TRY(named_token(vocab, c, "pad_token", "<|endoftext|>", &vocab->pad_id, err));
    if (c->decoder) DD_TRY(read_decoder(vocab, c, err));
    return read_max_length(vocab, c, err);
}

ddit_status dd_clip_read_special_tokens(dd_clip_vocab *vocab, const dd_clip_files *files, const json_t *tokens, ddit_err *err) {
    configs c = {.files = files, .tokens = tokens};
    ddit_status status = read_all(vocab, &c, err);
    json_decref(c.config);
    json_decref(c.map);
    return status;
}
