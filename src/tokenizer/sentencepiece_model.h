/* Reads a SentencePiece model file (spiece.model): a protobuf message, read here without any protobuf library.
 *
 *     dd_sp_model model;
 *     DD_TRY(dd_sp_model_parse(&model, allocator, "spiece.model", bytes, size, err));
 *     ...
 *     dd_sp_model_deinit(&model);
 *
 * Only what encoding needs is kept. Stricter than protobuf: a known field of the wrong wire type, an unknown piece type, groups
 * and every length or number that does not fit are refused, with the file, the offset, what was found and what was expected.
 * Source: sentencepiece_model.proto of google/sentencepiece and the protobuf wire format description.
 */
#ifndef DD_TOKENIZER_SENTENCEPIECE_MODEL_H
#define DD_TOKENIZER_SENTENCEPIECE_MODEL_H

#include "base/alloc.h"

typedef enum dd_sp_type {
    DD_SP_NORMAL = 1,
    DD_SP_UNKNOWN = 2,
    DD_SP_CONTROL = 3,
    DD_SP_USER_DEFINED = 4,
    DD_SP_UNUSED = 5,
    DD_SP_BYTE = 6
} dd_sp_type;

typedef struct dd_bytes {
    const uint8_t *data; /* view into the file's bytes */
    size_t size;
} dd_bytes;

typedef struct dd_sp_piece {
    dd_bytes text; /* not empty, valid UTF-8 */
    float score;   /* log probability, finite */
    dd_sp_type type;
} dd_sp_piece;

typedef struct dd_sp_model {
    const dd_allocator *allocator;
    dd_sp_piece *pieces; /* owned array; the index is the id */
    size_t piece_count;  /* at least 1, fits int32 */
    dd_bytes charsmap;   /* precompiled normalisation rules, may be empty (see charsmap.h) */
    dd_bytes eos_piece, pad_piece;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    bool whitespace_as_suffix; /* the dummy prefix goes to the end instead */
    bool byte_fallback;        /* unknown characters become one BYTE piece per byte */
} dd_sp_model;

/* Parses bytes[0..size), which must outlive the model (its texts are views). `name` is used in error sentences. On failure
 * *model is zeroed. Errors: DDIT_ERR_FORMAT, DDIT_ERR_UNSUPPORTED (not a unigram model), DDIT_ERR_NO_MEMORY. */
ddit_status dd_sp_model_parse(dd_sp_model *model, const dd_allocator *a, const char *name, const uint8_t *bytes, size_t size,
                              ddit_err *err);

/* Frees what the model owns; a zeroed model is accepted. */
void dd_sp_model_deinit(dd_sp_model *model);

#endif
