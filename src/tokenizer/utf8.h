/* UTF-8: the check every prompt passes before a tokenizer sees it, and decoding of text that has passed. */
#ifndef DD_TOKENIZER_UTF8_H
#define DD_TOKENIZER_UTF8_H

#include "base/alloc.h"

/* The longest prompt that is accepted, in bytes. */
#define DD_PROMPT_MAX_BYTES 32000

/* True if text[0..length) is valid UTF-8 (Unicode table 3-7: no overlong forms, no surrogates, at most U+10FFFF). Otherwise
 * *bad_offset (if not NULL) is the offset of the first byte of the first ill-formed sequence. A zero byte is valid. */
bool dd_utf8_check(const char *text, size_t length, size_t *bad_offset);

/* The same as an error: DDIT_ERR_ARGUMENT with the byte position for invalid UTF-8 and for more than DD_PROMPT_MAX_BYTES. */
ddit_status dd_prompt_check(const char *text, size_t length, ddit_err *err);

/* Number of bytes of the character that begins with byte `lead`: 1 to 4 (1 for bytes that begin nothing). */
static inline size_t dd_utf8_length(uint8_t lead) { return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

/* The code point at text, which must be valid UTF-8; *used is its number of bytes. */
uint32_t dd_utf8_decode(const char *text, size_t *used);

/* Writes code (a Unicode scalar value) to out[4] and returns the number of bytes. */
size_t dd_utf8_encode(uint32_t code, char *out);

#endif
