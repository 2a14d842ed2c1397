#include "tokenizer/unigram_normalize.h"

#include <string.h>

#include "tokenizer/utf8.h"

enum { MAX_NORMALIZED = 1 << 20 };

static const char SPACE_SYMBOL[] = "\xE2\x96\x81"; /* U+2581, how SentencePiece writes a space */

static ddit_status append(dd_text_buffer *out, const dd_allocator *a, const char *text, size_t length, ddit_err *err) {
    if (length == 0) return DDIT_OK;
    if (length > MAX_NORMALIZED - out->size)
        return dd_fail(err, DDIT_ERR_FORMAT, "the normalisation rules of the text model make more than %d bytes of the prompt",
                       MAX_NORMALIZED);
    if (length > out->capacity - out->size) {
        size_t capacity = 2 * (out->size + length) + 64;
        char *data;
        DD_TRY(dd_alloc_raw(a, &data, capacity, 1, "the normalised prompt", err));
        if (out->size > 0) memcpy(data, out->data, out->size);
        dd_free(a, out->data);
        out->data = data;
        out->capacity = capacity;
    }
    memcpy(out->data + out->size, text, length);
    out->size += length;
    return DDIT_OK;
}

/* Length of the longest protected text that begins text[0..length), 0 if there is none. */
static size_t match_protected(const dd_piece_trie *trie, const char *text, size_t length) {
    size_t longest = 0;
    if (!trie->nodes) return 0;
    for (size_t i = 0, node = 0; i < length; i++) {
        node = dd_piece_trie_step(trie, (uint32_t)node, (uint8_t)text[i]);
        if (node == 0) break;
        if (trie->nodes[node].id >= 0) longest = i + 1;
    }
    return longest;
}

/* What the first characters of text become: part->data[0..size). Returns how many bytes of text that stands for (> 0). */
static size_t normalize_prefix(const dd_sp_normalizer *n, const char *text, size_t length, dd_bytes *part) {
    size_t used = match_protected(&n->protected_texts, text, length);
    if (used == 0) {
        const char *replacement;
        used = dd_charsmap_match(&n->charsmap, text, length, &replacement);
        if (used > 0) {
            *part = (dd_bytes){(const uint8_t *)replacement, strlen(replacement)};
            return used;
        }
        used = dd_utf8_length((uint8_t)text[0]);
    }
    *part = (dd_bytes){(const uint8_t *)text, used};
    return used;
}

static ddit_status append_space(const dd_sp_normalizer *n, dd_text_buffer *out, const dd_allocator *a, ddit_err *err) {
    return n->escape_whitespaces ? append(out, a, SPACE_SYMBOL, 3, err) : append(out, a, " ", 1, err);
}

static ddit_status append_part(const dd_sp_normalizer *n, dd_text_buffer *out, const dd_allocator *a, dd_bytes part,
                               ddit_err *err) {
    while (part.size > 0) {
        size_t run = 0;
        while (run < part.size && part.data[run] != ' ') run++;
        DD_TRY(append(out, a, (const char *)part.data, run, err));
        if (run < part.size) {
            DD_TRY(append_space(n, out, a, err));
            run++;
        }
        part.data += run;
        part.size -= run;
    }
    return DDIT_OK;
}

static void trim_end(const dd_sp_normalizer *n, dd_text_buffer *out) {
    const char *space = n->escape_whitespaces ? SPACE_SYMBOL : " ";
    size_t size = strlen(space);
    while (out->size >= size && memcmp(out->data + out->size - size, space, size) == 0) out->size -= size;
}

ddit_status dd_sp_normalize(const dd_sp_normalizer *n, const dd_allocator *a, const char *text, size_t length,
                            dd_text_buffer *out, ddit_err *err) {
    size_t at = 0;
    dd_bytes part;
    while (n->remove_extra_whitespaces && at < length) {
        size_t used = normalize_prefix(n, text + at, length - at, &part);
        if (part.size != 1 || part.data[0] != ' ') break;
        at += used;
    }
    if (at == length) return DDIT_OK;
    if (!n->whitespace_as_suffix && n->add_dummy_prefix) DD_TRY(append_space(n, out, a, err));
    bool after_space = n->remove_extra_whitespaces;
    while (at < length) {
        at += normalize_prefix(n, text + at, length - at, &part);
        while (after_space && part.size > 0 && part.data[0] == ' ') {
            part.data++;
            part.size--;
        }
        if (part.size > 0) {
            DD_TRY(append_part(n, out, a, part, err));
            after_space = n->remove_extra_whitespaces && part.data[part.size - 1] == ' ';
        }
    }
    if (n->remove_extra_whitespaces) trim_end(n, out);
    if (n->whitespace_as_suffix && n->add_dummy_prefix) DD_TRY(append_space(n, out, a, err));
    return DDIT_OK;
}
