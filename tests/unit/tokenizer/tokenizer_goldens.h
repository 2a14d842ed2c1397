/* Reads tests/golden/tokenizer (see tools/make_tokenizer_goldens.py) and compares a tokenizer with it. */
#ifndef DD_TEST_TOKENIZER_GOLDENS_H
#define DD_TEST_TOKENIZER_GOLDENS_H

#include "base/mapped_file.h"
#include "harness.h"

enum { GOLDEN_MAX_IDS = 40000 };

/* A tokenizer under test: fills ids[max_length] and *total, as dd_clip_bpe_encode and dd_unigram_encode do. */
typedef ddit_status (*golden_encode)(const void *tok, const char *text, size_t length, size_t max_length, int32_t *ids,
                                     size_t *total,
                                     ddit_err *err);

typedef struct golden_case {
    char *text;
    size_t length;
    int32_t ids[GOLDEN_MAX_IDS];
    size_t count;
} golden_case;

/* The next line of *text that is no comment, zero-terminated in place; NULL at the end. */
static char *golden_line(char **text) {
    while (**text) {
        char *line = *text, *end = strchr(line, '\n');
        *text = end ? end + 1 : line + strlen(line);
        if (end) *end = '\0';
        if (*line != '#') return line;
    }
    return NULL;
}

static size_t golden_hex(char *line) {
    size_t length = strlen(line) / 2;
    for (size_t i = 0; i < length; i++) {
        char two[3] = {line[2 * i], line[2 * i + 1], 0};
        line[i] = (char)strtol(two, NULL, 16);
    }
    return length;
}

static void golden_check_cut(dd_test *t, const void *tok, golden_encode encode, const golden_case *c, size_t max_length,
                             int32_t pad) {
    int32_t ids[128];
    size_t total = 0;
    DD_NEED_OK(t, encode(tok, c->text, c->length, max_length, ids, &total, &t->err));
    DD_CHECK(t, total == c->count);
    for (size_t i = 0; i < max_length; i++) {
        bool last = i + 1 == max_length || i + 1 == c->count;
        int32_t expected = i >= c->count ? pad : last ? c->ids[c->count - 1] : c->ids[i];
        if (ids[i] != expected) {
            dd_test_fail(t, __FILE__, __LINE__, "cut to %zu, id %zu is %d, expected %d", max_length, i, ids[i], expected);
            return;
        }
    }
}

static void golden_check_case(dd_test *t, size_t line, const void *tok, golden_encode encode, const golden_case *c,
                              int32_t pad) {
    static int32_t ids[GOLDEN_MAX_IDS];
    size_t total = 0;
    DD_NEED_OK(t, encode(tok, c->text, c->length, GOLDEN_MAX_IDS, ids, &total, &t->err));
    if (total != c->count || memcmp(ids, c->ids, c->count * sizeof *ids) != 0) {
        size_t at = 0;
        while (at < total && at < c->count && ids[at] == c->ids[at]) at++;
        dd_test_fail(t, __FILE__, __LINE__, "string %zu (%.60s): %zu ids, expected %zu; id %zu is %d, expected %d", line,
                     c->text, total,
                     c->count, at, at < total ? ids[at] : -1, at < c->count ? c->ids[at] : -1);
    }
    golden_check_cut(t, tok, encode, c, 77, pad);
    golden_check_cut(t, tok, encode, c, 2, pad);
    golden_check_cut(t, tok, encode, c, 24, pad);
}

/* Every string of strings.txt against the ids of `file`. */
static void golden_check_all(dd_test *t, const char *file, const void *tok, golden_encode encode, int32_t pad) {
    const dd_allocator *a = &dd_allocator_libc;
    char *strings = NULL, *expected = NULL, path[200];
    size_t size, count = 0;
    static golden_case c;
    snprintf(path, sizeof path, "tests/golden/tokenizer/%s", file);
    DD_NEED_OK(t, dd_read_file(a, "tests/golden/tokenizer/strings.txt", 1 << 24, &strings, &size, &t->err));
    DD_NEED_OK(t, dd_read_file(a, path, 1 << 24, &expected, &size, &t->err));
    char *text_rest = strings, *ids_rest = expected, *line;
    while ((line = golden_line(&text_rest)) != NULL) {
        char *ids = golden_line(&ids_rest);
        DD_NEED(t, ids != NULL);
        c.length = golden_hex(line);
        c.text = line;
        c.text[c.length] = '\0';
        c.count = 0;
        for (char *end; c.count < GOLDEN_MAX_IDS; ids = end) {
            long id = strtol(ids, &end, 10);
            if (end == ids) break;
            c.ids[c.count++] = (int32_t)id;
        }
        golden_check_case(t, count++, tok, encode, &c, pad);
    }
    DD_CHECK(t, count >= 200);
    DD_CHECK(t, golden_line(&ids_rest) == NULL);
    dd_free(a, strings);
    dd_free(a, expected);
}

/* A damaged file must be refused with a sentence, or be usable. */
static void golden_check_sentence(dd_test *t, ddit_status status, const ddit_err *err) {
    if (status == DDIT_OK) return;
    DD_CHECK(t, status == DDIT_ERR_FORMAT || status == DDIT_ERR_UNSUPPORTED);
    DD_CHECK(t, err->code == status && strlen(err->text) > 10);
}

#endif
