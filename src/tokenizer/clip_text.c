#include "tokenizer/clip_text.h"

#include <utf8proc.h>

#include "tokenizer/utf8.h"

typedef struct code_range {
    uint32_t first, last;
} code_range;

typedef struct case_range {
    uint32_t first, last;
    int32_t delta; /* lower case = code + delta */
} case_range;

/* Letters and numbers of Unicode 16 that utf8proc 2.8.0 (Unicode 15) does not know. */
static const code_range NEW_LETTERS[] = {
    {0x1C89, 0x1C8A}, {0xA7CB, 0xA7CD}, {0xA7DA, 0xA7DC}, {0x105C0, 0x105F3}, {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85},
    {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C},
    {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
static const code_range NEW_NUMBERS[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
    {0x1E5F1, 0x1E5FA}};

/* Lower case that Unicode 16 and 17 (and Rust) have and utf8proc 2.8.0 has not. */
static const case_range NEW_LOWER[] = {
    {0x1C89, 0x1C89, 1}, {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1}, {0xA7D2, 0xA7D2, 1}, {0xA7D4,
    0xA7D4, 1}, {0xA7DA, 0xA7DA, 1}, {0xA7DC, 0xA7DC, -42561}, {0x10D50, 0x10D65, 32}, {0x16EA0, 0x16EB8, 27}};

/* Marks (and one second half of a composition, U+11930) newer than the oracle's NFC data: it takes them for characters that
 * neither move nor compose, so the text can be normalised piece by piece around them. */
static const code_range NFC_UNKNOWN[] = {
    {0x07FD, 0x07FD}, {0x0898, 0x089F}, {0x08CA, 0x08D3}, {0x09FE, 0x09FE}, {0x0C3C, 0x0C3C}, {0x0D3B, 0x0D3C},
    {0x0EBA, 0x0EBA}, {0x1715, 0x1715}, {0x1ABF, 0x1ACE}, {0x1DF6, 0x1DFA}, {0xA82C, 0xA82C}, {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}};

#define COUNT(table) (sizeof(table) / sizeof *(table))

static bool in_ranges(const code_range *ranges, size_t count, uint32_t code) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code < ranges[middle].first) high = middle;
        else if (code > ranges[middle].last) low = middle + 1;
        else return true;
    }
    return false;
}

/* White_Space of Unicode, as Oniguruma's \s has it. */
static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

dd_char_class dd_clip_char_class(uint32_t code) {
    if (is_space(code)) return DD_CHAR_SPACE;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) return DD_CHAR_LETTER;
    if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return DD_CHAR_NUMBER;
    if (code < NEW_LETTERS[0].first) return DD_CHAR_OTHER;
    if (in_ranges(NEW_LETTERS, COUNT(NEW_LETTERS), code)) return DD_CHAR_LETTER;
    return in_ranges(NEW_NUMBERS, COUNT(NEW_NUMBERS), code) ? DD_CHAR_NUMBER : DD_CHAR_OTHER;
}

static uint32_t lower_case(uint32_t code) {
    for (size_t i = 0; code >= NEW_LOWER[0].first && i < COUNT(NEW_LOWER); i++)
        if (code >= NEW_LOWER[i].first && code <= NEW_LOWER[i].last) return (uint32_t)((int32_t)code + NEW_LOWER[i].delta);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
}

/* NFC of text[0..length) as code points: *codes is allocated, the caller frees it (also on failure). */
static ddit_status compose(const dd_allocator *a, const char *text, size_t length, int32_t **codes, size_t *count,
                           ddit_err *err) {
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    utf8proc_ssize_t decomposed = utf8proc_decompose((const uint8_t *)text, (utf8proc_ssize_t)length, NULL, 0, options);
    if (decomposed < 0) return dd_fail(err, DDIT_ERR_INTERNAL, "utf8proc: %s", utf8proc_errmsg(decomposed));
    size_t room = (size_t)decomposed + 1; /* utf8proc wants one element to spare */
    DD_TRY(dd_alloc_raw(a, codes, room, sizeof **codes, "normalising the prompt", err));
    decomposed = utf8proc_decompose((const uint8_t *)text, (utf8proc_ssize_t)length, *codes, decomposed, options);
    if (decomposed >= 0) decomposed = utf8proc_normalize_utf32(*codes, decomposed, options);
    if (decomposed < 0) return dd_fail(err, DDIT_ERR_INTERNAL, "utf8proc: %s", utf8proc_errmsg(decomposed));
    *count = (size_t)decomposed;
    return DDIT_OK;
}

typedef struct writer {
    char *data; /* owned */
    size_t size, capacity;
    bool after_space;
} writer;

/* Room for `codes` more characters, each of which becomes at most two (U+0130) of four bytes, and a zero. */
static ddit_status reserve(writer *w, const dd_allocator *a, size_t codes, ddit_err *err) {
    size_t needed = w->size + 8 * codes + 1;
    if (needed <= w->capacity) return DDIT_OK;
    char *data;
    DD_TRY(dd_alloc_raw(a, &data, 2 * needed, 1, "the normalised prompt", err));
    for (size_t i = 0; i < w->size; i++) data[i] = w->data[i];
    dd_free(a, w->data);
    w->data = data;
    w->capacity = 2 * needed;
    return DDIT_OK;
}

static void write_code(writer *w, uint32_t code) {
    bool space = is_space(code);
    if (space) {
        if (!w->after_space) w->data[w->size++] = ' ';
    } else if (code == 0x130) { /* the one character whose lower case is two: i and a dot above */
        w->size += dd_utf8_encode('i', w->data + w->size);
        w->size += dd_utf8_encode(0x307, w->data + w->size);
    } else {
        w->size += dd_utf8_encode(lower_case(code), w->data + w->size);
    }
    w->after_space = space;
}

/* Writes the part of the text before the next character the oracle's NFC does not know. */
static ddit_status write_part(writer *w, const dd_allocator *a, const char *text, size_t length, ddit_err *err) {
    if (length == 0) return DDIT_OK;
    int32_t *codes = NULL;
    size_t count = 0;
    ddit_status status = DDIT_OK;
    DD_GO(compose(a, text, length, &codes, &count, err));
    DD_GO(reserve(w, a, count, err));
    for (size_t i = 0; i < count; i++) write_code(w, (uint32_t)codes[i]);
done:
    dd_free(a, codes);
    return status;
}

ddit_status dd_clip_text_normalize(const dd_allocator *a, const char *text, size_t length, char **out, size_t *out_length,
                                   ddit_err *err) {
    writer w = {0};
    ddit_status status = DDIT_OK;
    size_t begin = 0;
    *out = NULL;
    *out_length = 0;
    for (size_t at = 0, used; at < length; at += used) {
        uint32_t code = dd_utf8_decode(text + at, &used);
        if (code < NFC_UNKNOWN[0].first || !in_ranges(NFC_UNKNOWN, COUNT(NFC_UNKNOWN), code)) continue;
        DD_GO(write_part(&w, a, text + begin, at - begin, err));
        DD_GO(reserve(&w, a, 1, err));
        write_code(&w, code);
        begin = at + used;
    }
    DD_GO(write_part(&w, a, text + begin, length - begin, err));
    DD_GO(reserve(&w, a, 0, err));
    w.data[w.size] = '\0';
    *out = w.data;
    *out_length = w.size;
    return DDIT_OK;
done:
    dd_free(a, w.data);
    return status;
}
