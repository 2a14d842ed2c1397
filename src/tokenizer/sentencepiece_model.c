#include "tokenizer/sentencepiece_model.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tokenizer/utf8.h"

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { TRAINER_MODEL_TYPE = 3, TRAINER_WS_SUFFIX = 24, TRAINER_BYTE_FALLBACK = 35, TRAINER_EOS = 47, TRAINER_PAD = 48 };
enum { NORM_CHARSMAP = 2, NORM_DUMMY_PREFIX = 3, NORM_REMOVE_EXTRA = 4, NORM_ESCAPE = 5 };

/* A message being read: bytes[at..end) are left. Nested messages are readers over a part of the same bytes. */
typedef struct reader {
    const char *name; /* file name for errors */
    const uint8_t *bytes;
    size_t at, end;
    ddit_err *err;
} reader;

typedef struct field {
    uint32_t number;
    unsigned wire;
    size_t start;   /* offset of the field's key */
    uint64_t value; /* varint and fixed */
    size_t at, end; /* contents of a WIRE_BYTES field */
} field;

static ddit_status read_varint(reader *r, uint64_t *value) {
    size_t start = r->at;
    *value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end)
            return dd_fail(r->err, DDIT_ERR_FORMAT,
                           "%s: at byte %zu a number is cut off by the end at byte %zu (truncated file?)",
                           r->name, start, r->end);
        uint8_t byte = r->bytes[r->at++];
        if (shift == 63 && byte > 1) break;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return DDIT_OK;
    }
    return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu found a number of more than 64 bits (damaged file?)", r->name,
                   start);
}

static ddit_status read_fixed(reader *r, size_t width, uint64_t *value) {
    if (r->end - r->at < width)
        return dd_fail(r->err, DDIT_ERR_FORMAT,
                       "%s: at byte %zu found %zu bytes, expected a number of %zu bytes (truncated file?)",
                       r->name, r->at, r->end - r->at, width);
    *value = 0;
    for (size_t i = 0; i < width; i++) *value |= (uint64_t)r->bytes[r->at + i] << (8 * i);
    r->at += width;
    return DDIT_OK;
}

/* Reads the next field whole (nested contents are only bounded, not read). The caller has checked r->at < r->end. */
static ddit_status read_field(reader *r, field *f) {
    *f = (field){.start = r->at};
    uint64_t key;
    DD_TRY(read_varint(r, &key));
    f->wire = (unsigned)(key & 7);
    uint64_t number = key >> 3;
    if (number == 0 || number > 0x1FFFFFFF)
        return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu found field number %" PRIu64
                       ", expected 1 to 536870911 (not a SentencePiece model?)", r->name, f->start, number);
    f->number = (uint32_t)number;
    switch (f->wire) {
    case WIRE_VARINT: return read_varint(r, &f->value);
    case WIRE_FIXED64: return read_fixed(r, 8, &f->value);
    case WIRE_FIXED32: return read_fixed(r, 4, &f->value);
    case WIRE_BYTES: break;
    default:
        return dd_fail(r->err, DDIT_ERR_FORMAT,
                       "%s: at byte %zu found wire type %u, expected 0, 1, 2 or 5 (not a SentencePiece model?)",
                       r->name, f->start, f->wire);
    }
    uint64_t size;
    DD_TRY(read_varint(r, &size));
    if (size > r->end - r->at)
        return dd_fail(r->err, DDIT_ERR_FORMAT,
                       "%s: at byte %zu found a field of %" PRIu64 " bytes, but only %zu are left (truncated file?)",
                       r->name, f->start, size, r->end - r->at);
    f->at = r->at;
    f->end = r->at += (size_t)size;
    return DDIT_OK;
}

static ddit_status need_wire(const reader *r, const field *f, unsigned wire) {
    if (f->wire == wire) return DDIT_OK;
    return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu field %" PRIu32 " has wire type %u, expected %u", r->name,
                   f->start, f->number, f->wire, wire);
}

static ddit_status take_bool(const reader *r, const field *f, bool *out) {
    DD_TRY(need_wire(r, f, WIRE_VARINT));
    if (f->value > 1)
        return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu field %" PRIu32 " is %" PRIu64 ", expected 0 or 1", r->name,
                       f->start, f->number, f->value);
    *out = f->value == 1;
    return DDIT_OK;
}

static ddit_status take_bytes(const reader *r, const field *f, dd_bytes *out) {
    DD_TRY(need_wire(r, f, WIRE_BYTES));
    *out = (dd_bytes){r->bytes + f->at, f->end - f->at};
    return DDIT_OK;
}

static ddit_status take_score(const reader *r, const field *f, float *out) {
    DD_TRY(need_wire(r, f, WIRE_FIXED32));
    uint32_t bits = (uint32_t)f->value;
    memcpy(out, &bits, sizeof bits);
    if (isfinite(*out)) return DDIT_OK;
    return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu a piece has the score %g, expected a finite number", r->name,
                   f->start, (double)*out);
}

static ddit_status take_type(const reader *r, const field *f, dd_sp_type *out) {
    DD_TRY(need_wire(r, f, WIRE_VARINT));
    if (f->value < DD_SP_NORMAL || f->value > DD_SP_BYTE)
        return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: at byte %zu a piece has type %" PRIu64 ", expected 1 to 6", r->name,
                       f->start, f->value);
    *out = (dd_sp_type)f->value;
    return DDIT_OK;
}

static reader nested(const reader *r, const field *f) { return (reader){r->name, r->bytes, f->at, f->end, r->err}; }

static ddit_status parse_piece(reader r, size_t id, dd_sp_piece *piece) {
    size_t start = r.at;
    *piece = (dd_sp_piece){.type = DD_SP_NORMAL};
    while (r.at < r.end) {
        field f;
        DD_TRY(read_field(&r, &f));
        switch (f.number) {
        case PIECE_TEXT: DD_TRY(take_bytes(&r, &f, &piece->text)); break;
        case PIECE_SCORE: DD_TRY(take_score(&r, &f, &piece->score)); break;
        case PIECE_TYPE: DD_TRY(take_type(&r, &f, &piece->type)); break;
        default: break;
        }
    }
    if (piece->text.size == 0)
        return dd_fail(r.err, DDIT_ERR_FORMAT, "%s: at byte %zu piece %zu has no text", r.name, start, id);
    size_t bad = 0;
    if (!dd_utf8_check((const char *)piece->text.data, piece->text.size, &bad))
        return dd_fail(r.err, DDIT_ERR_FORMAT, "%s: at byte %zu the text of piece %zu is not valid UTF-8", r.name,
                       (size_t)(piece->text.data - r.bytes) + bad, id);
    if (memchr(piece->text.data, 0, piece->text.size))
        return dd_fail(r.err, DDIT_ERR_FORMAT, "%s: at byte %zu piece %zu holds a zero byte", r.name, start, id);
    return DDIT_OK;
}

static ddit_status parse_trainer(reader r, dd_sp_model *model) {
    while (r.at < r.end) {
        field f;
        DD_TRY(read_field(&r, &f));
        switch (f.number) {
        case TRAINER_MODEL_TYPE:
            DD_TRY(need_wire(&r, &f, WIRE_VARINT));
            if (f.value != 1)
                return dd_fail(r.err, DDIT_ERR_UNSUPPORTED, "%s: at byte %zu the model type is %" PRIu64
                               ", only 1 (unigram, as T5 has it) is supported", r.name, f.start, f.value);
            break;
        case TRAINER_WS_SUFFIX: DD_TRY(take_bool(&r, &f, &model->whitespace_as_suffix)); break;
        case TRAINER_BYTE_FALLBACK: DD_TRY(take_bool(&r, &f, &model->byte_fallback)); break;
        case TRAINER_EOS: DD_TRY(take_bytes(&r, &f, &model->eos_piece)); break;
        case TRAINER_PAD: DD_TRY(take_bytes(&r, &f, &model->pad_piece)); break;
        default: break;
        }
    }
    return DDIT_OK;
}

static ddit_status parse_normalizer(reader r, dd_sp_model *model) {
    while (r.at < r.end) {
        field f;
        DD_TRY(read_field(&r, &f));
        switch (f.number) {
        case NORM_CHARSMAP: DD_TRY(take_bytes(&r, &f, &model->charsmap)); break;
        case NORM_DUMMY_PREFIX: DD_TRY(take_bool(&r, &f, &model->add_dummy_prefix)); break;
        case NORM_REMOVE_EXTRA: DD_TRY(take_bool(&r, &f, &model->remove_extra_whitespaces)); break;
        case NORM_ESCAPE: DD_TRY(take_bool(&r, &f, &model->escape_whitespaces)); break;
        default: break;
        }
    }
    return DDIT_OK;
}

/* First pass over the top level: how many pieces there are. Every piece takes at least two bytes of the file, so the count
 * (and what is allocated for it) is bounded by the file's size. */
static ddit_status count_pieces(reader r, size_t *count) {
    *count = 0;
    while (r.at < r.end) {
        field f;
        DD_TRY(read_field(&r, &f));
        if (f.number == MODEL_PIECES) (*count)++;
    }
    if (*count == 0)
        return dd_fail(r.err, DDIT_ERR_FORMAT, "%s: found no pieces in %zu bytes, expected a SentencePiece model", r.name,
                       r.end);
    if (*count > INT32_MAX) return dd_fail(r.err, DDIT_ERR_FORMAT, "%s: found %zu pieces, too many", r.name, *count);
    return DDIT_OK;
}

static ddit_status parse_model(reader r, dd_sp_model *model) {
    size_t id = 0;
    while (r.at < r.end) {
        field f;
        DD_TRY(read_field(&r, &f));
        if (f.number < MODEL_PIECES || f.number > MODEL_NORMALIZER) continue;
        DD_TRY(need_wire(&r, &f, WIRE_BYTES));
        reader inner = nested(&r, &f);
        if (f.number == MODEL_PIECES) {
            DD_TRY(parse_piece(inner, id, &model->pieces[id]));
            id++;
        } else if (f.number == MODEL_TRAINER) {
            DD_TRY(parse_trainer(inner, model));
        } else {
            DD_TRY(parse_normalizer(inner, model));
        }
    }
    return DDIT_OK;
}

ddit_status dd_sp_model_parse(dd_sp_model *model, const dd_allocator *a, const char *name, const uint8_t *bytes, size_t size,
                              ddit_err *err) {
    *model = (dd_sp_model){.allocator = a,
                           .eos_piece = {(const uint8_t *)"</s>", 4},
                           .pad_piece = {(const uint8_t *)"<pad>", 5},
                           .add_dummy_prefix = true,
                           .remove_extra_whitespaces = true,
                           .escape_whitespaces = true};
    reader r = {name, bytes, 0, size, err};
    ddit_status status = DDIT_OK;
    DD_GO(count_pieces(r, &model->piece_count));
    DD_GO(dd_alloc(a, &model->pieces, model->piece_count, sizeof *model->pieces, "the pieces of the text model", err));
    DD_GO(parse_model(r, model));
done:
    if (status != DDIT_OK) dd_sp_model_deinit(model);
    return status;
}

void dd_sp_model_deinit(dd_sp_model *model) {
    if (model->pieces) dd_free(model->allocator, model->pieces);
    *model = (dd_sp_model){0};
}
