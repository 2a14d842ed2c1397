/* The Unicode part of CLIP's tokenizer: normalisation of a text and classes of characters.
 *
 * transformers 5 gets these from three libraries with three Unicode versions (told from the characters they know): NFC from
 * unicode-normalization-alignments (9), lower case from Rust (17), \p{L} and \p{N} from Oniguruma (16). Here they come from
 * utf8proc (Unicode 15 in its version 2.8.0, Debian 12) and small tables of what differs, found by comparing every code point
 * with tokenizers 0.23.3. With utf8proc 2.8.0 nothing differs that was found; a newer utf8proc knows marks and compositions of
 * Unicode 16 and later that the oracle does not, so prompts with those few historic scripts may then give other ids.
 */
#ifndef DD_TOKENIZER_CLIP_TEXT_H
#define DD_TOKENIZER_CLIP_TEXT_H

#include "base/alloc.h"

typedef enum dd_char_class { DD_CHAR_OTHER, DD_CHAR_LETTER, DD_CHAR_NUMBER, DD_CHAR_SPACE } dd_char_class;

/* Class of a code point: letter \p{L}, number \p{N}, white space \s, or other. */
dd_char_class dd_clip_char_class(uint32_t code);

/* *out = text[0..length), valid UTF-8, in NFC, with every run of white space as one space, in lower case character by character
 * (so that no final sigma appears and U+0130 becomes two characters). *out is zero-terminated, the caller frees it.
 * Errors: DDIT_ERR_NO_MEMORY. */
ddit_status dd_clip_text_normalize(const dd_allocator *a, const char *text, size_t length, char **out, size_t *out_length,
                                   ddit_err *err);

#endif
