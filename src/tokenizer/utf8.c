#include "tokenizer/utf8.h"

/* Bytes of the well-formed sequence at s[0..left), 0 if there is none. */
static size_t sequence_length(const uint8_t *s, size_t left) {
    uint8_t lead = s[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    size_t length = dd_utf8_length(lead);
    if (length > left) return 0;
    /* Only the second byte has a range that depends on the first: it excludes overlong forms, surrogates and > U+10FFFF. */
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return length;
}

bool dd_utf8_check(const char *text, size_t length, size_t *bad_offset) {
    const uint8_t *s = (const uint8_t *)text;
    for (size_t at = 0; at < length;) {
        size_t used = sequence_length(s + at, length - at);
        if (used == 0) {
            if (bad_offset) *bad_offset = at;
            return false;
        }
        at += used;
    }
    return true;
}

ddit_status dd_prompt_check(const char *text, size_t length, ddit_err *err) {
    if (length > DD_PROMPT_MAX_BYTES)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "the prompt has %zu bytes, at most %d are accepted (cut it after byte %d)",
                       length,
                       DD_PROMPT_MAX_BYTES, DD_PROMPT_MAX_BYTES);
    size_t bad = 0;
    if (!dd_utf8_check(text, length, &bad))
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "the prompt is not valid UTF-8: found byte 0x%02X at byte %zu, expected a whole character (save it as "
                           "UTF-8)", (unsigned)(uint8_t)text[bad], bad);
    return DDIT_OK;
}

uint32_t dd_utf8_decode(const char *text, size_t *used) {
    const uint8_t *s = (const uint8_t *)text;
    *used = dd_utf8_length(s[0]);
    switch (*used) {
    case 1: return s[0];
    case 2: return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    case 3: return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    default: return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    }
}

size_t dd_utf8_encode(uint32_t code, char *out) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t LEAD[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(LEAD[length] | code);
    return length;
}
