#include "tokenizer/unigram.h"

#include "tokenizer/charsmap.h"
#include "tokenizer/utf8.h"
#include "tokenizer_goldens.h"

#define SMALL "tests/golden/tokenizer/bytes.model"
#define T5 "models/emoji/tokenizer_2/spiece.model"

static const dd_allocator *const LIBC = &dd_allocator_libc;

static ddit_status encode(const void *tok, const char *text, size_t length, size_t max_length, int32_t *ids, size_t *total,
                          ddit_err *err) {
    return dd_unigram_encode(tok, text, length, max_length, ids, total, err);
}

static void check_goldens(dd_test *t, const char *model, const char *file) {
    dd_unigram *tok;
    DD_NEED_OK(t, dd_unigram_open(&tok, LIBC, model, &t->err));
    golden_check_all(t, file, tok, encode, dd_unigram_pad_id(tok));
    dd_unigram_close(tok);
}

static void equals_sentencepiece(dd_test *t) { check_goldens(t, T5, "unigram.txt"); }
static void equals_sentencepiece_with_bytes(dd_test *t) { check_goldens(t, SMALL, "unigram_bytes.txt"); }

static void knows_its_ids(dd_test *t) {
    dd_unigram *tok;
    DD_NEED_OK(t, dd_unigram_open(&tok, LIBC, T5, &t->err));
    DD_CHECK(t, dd_unigram_eos_id(tok) == 1 && dd_unigram_pad_id(tok) == 0 && dd_unigram_vocab_size(tok) == 8192);
    dd_unigram_close(tok);
    dd_unigram_close(NULL);
}

static void refuses_bad_prompts(dd_test *t) {
    dd_unigram *tok;
    int32_t ids[2];
    static char longest[DD_PROMPT_MAX_BYTES + 1];
    DD_NEED_OK(t, dd_unigram_open(&tok, LIBC, SMALL, &t->err));
    DD_FAILS(t, dd_unigram_encode(tok, "ab\xFF", 3, 2, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "byte 2");
    DD_FAILS(t, dd_unigram_encode(tok, longest, sizeof longest, 2, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "32001");
    DD_FAILS(t, dd_unigram_encode(tok, "a", 1, 0, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "length");
    DD_OK(t, dd_unigram_encode(tok, "a", 1, 1, ids, NULL, &t->err));
    DD_CHECK(t, ids[0] == 1);
    memset(longest, 'a', sizeof longest);
    DD_OK(t, dd_unigram_encode(tok, longest, DD_PROMPT_MAX_BYTES, 2, ids, NULL, &t->err));
    DD_OK(t, dd_unigram_encode(tok, "a\0b", 3, 2, ids, NULL, &t->err));
    dd_unigram_close(tok);
}

static void names_missing_files(dd_test *t) {
    dd_unigram *tok;
    DD_FAILS(t, dd_unigram_open(&tok, LIBC, "no/such/spiece.model", &t->err), DDIT_ERR_NOT_FOUND, "no/such/spiece.model");
    DD_CHECK(t, tok == NULL);
    DD_FAILS(t, dd_unigram_open(&tok, LIBC, "tests", &t->err), DDIT_ERR_READ, "folder");
}

/* ---- malformed files ---- */

typedef struct builder {
    uint8_t data[16384];
    size_t size;
} builder;

static void add_byte(builder *b, unsigned byte) { b->data[b->size++] = (uint8_t)byte; }

static void add_varint(builder *b, uint64_t value) {
    for (; value >= 0x80; value >>= 7) add_byte(b, 0x80 | (unsigned)(value & 0x7F));
    add_byte(b, (unsigned)value);
}

static void add_bytes(builder *b, unsigned field, const void *data, size_t size) {
    add_varint(b, field << 3 | 2);
    add_varint(b, size);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void add_number(builder *b, unsigned field, uint64_t value) {
    add_varint(b, field << 3);
    add_varint(b, value);
}

static void add_float(builder *b, unsigned field, float value) {
    add_varint(b, field << 3 | 5);
    memcpy(b->data + b->size, &value, 4);
    b->size += 4;
}

static void add_piece(builder *b, const char *text, float score, unsigned type) {
    builder piece = {.size = 0};
    add_bytes(&piece, 1, text, strlen(text));
    add_float(&piece, 2, score);
    add_number(&piece, 3, type);
    add_bytes(b, 1, piece.data, piece.size);
}

static void add_pieces(builder *b) {
    add_piece(b, "<pad>", 0, 3);
    add_piece(b, "</s>", 0, 3);
    add_piece(b, "<unk>", 0, 2);
    add_piece(b, "\xE2\x96\x81", -2, 1);
    add_piece(b, "a", -1, 1);
    add_piece(b, "ab", -1.5f, 1);
}

static ddit_status open_builder(dd_test *t, const builder *b) {
    dd_unigram *tok;
    ddit_status status = dd_unigram_open_memory(&tok, LIBC, "x.model", b->data, b->size, &t->err);
    dd_unigram_close(tok);
    return status;
}

static void reads_a_built_model(dd_test *t) {
    builder b = {.size = 0};
    dd_unigram *tok;
    int32_t ids[6];
    size_t total;
    add_pieces(&b);
    add_number(&b, 900, 7); /* unknown fields are passed over */
    DD_NEED_OK(t, dd_unigram_open_memory(&tok, LIBC, "x.model", b.data, b.size, &t->err));
    DD_OK(t, dd_unigram_encode(tok, "  abacc  a ", 11, 6, ids, &total, &t->err));
    static const int32_t expected[] = {3, 5, 4, 2, 3, 1}; /* _ ab a <unk> (cc fused) _ | a is cut, </s> kept */
    DD_CHECK(t, total == 7 && memcmp(ids, expected, sizeof ids) == 0);
    dd_unigram_close(tok);
}

typedef void (*damage)(builder *b);
static void zero_field(builder *b) { add_byte(b, 0x02), add_byte(b, 0); }
static void group(builder *b) { add_byte(b, 0x0B); }
static void long_varint(builder *b) { for (int i = 0; i < 12; i++) add_byte(b, 0xFF); }
static void huge_length(builder *b) { add_varint(b, 1 << 3 | 2), add_varint(b, UINT64_MAX); }
static void long_by_one(builder *b) { add_varint(b, 1 << 3 | 2), add_varint(b, 2), add_byte(b, 0); }
static void piece_number(builder *b) { add_number(b, 1, 5); }
static void empty_piece(builder *b) { add_bytes(b, 1, "", 0); }
static void nan_score(builder *b) { add_piece(b, "z", NAN, 1); }
static void bad_type(builder *b) { add_piece(b, "z", -1, 7); }
static void twice(builder *b) { add_piece(b, "ab", -3, 1); }
static void reserved_twice(builder *b) { add_piece(b, "</s>", 0, 3); }
static void two_unknown(builder *b) { add_piece(b, "<unk2>", 0, 2); }
static void stray_byte(builder *b) { add_piece(b, "<0x41>", 0, 6); }
static void bad_utf8(builder *b) { add_piece(b, "z\xFF", 0, 1); }
static void bpe_model(builder *b) { add_bytes(b, 2, "\x18\x02", 2); }
static void bytes_missing(builder *b) { add_bytes(b, 2, "\x98\x02\x01", 3); }
static void lower_case_byte(builder *b) { add_bytes(b, 2, "\x98\x02\x01", 3), add_piece(b, "<0xff>", 0, 6); }
static void bool_two(builder *b) { add_bytes(b, 3, "\x18\x02", 2); }
static void score_as_text(builder *b) { add_bytes(b, 1, "\x0A\x01z\x12\x01z", 6); }
static void short_charsmap(builder *b) { add_bytes(b, 3, "\x12\x03" "abc", 5); }
static void charsmap_size(builder *b) { add_bytes(b, 3, "\x12\x08\xFF\xFF\xFF\xFF" "abcd", 10); }
static void short_float(builder *b) { add_bytes(b, 1, "\x15\x00\x00", 3); }
static void other_eos(builder *b) { add_bytes(b, 2, "\xFA\x02\x02zz", 5); }

static void says_what_is_wrong(dd_test *t) {
    static const struct {
        damage make;
        ddit_status status;
        const char *part;
    } cases[] = {{zero_field, DDIT_ERR_FORMAT, "field number 0"}, {group, DDIT_ERR_FORMAT, "wire type 3"}, {long_varint,
            DDIT_ERR_FORMAT, "64 bits"},
                 {huge_length, DDIT_ERR_FORMAT, "are left"}, {long_by_one, DDIT_ERR_FORMAT, "a field of 2 bytes, but only 1"},
                 {piece_number, DDIT_ERR_FORMAT, "wire type 0"}, {empty_piece, DDIT_ERR_FORMAT, "no text"}, {nan_score,
                         DDIT_ERR_FORMAT, "finite"},
                 {bad_type, DDIT_ERR_FORMAT, "type 7"}, {twice, DDIT_ERR_FORMAT, "there twice"}, {reserved_twice,
                         DDIT_ERR_FORMAT, "there twice"},
                 {two_unknown, DDIT_ERR_FORMAT, "unknown piece"}, {stray_byte, DDIT_ERR_FORMAT, "no byte fallback"}, {bad_utf8,
                         DDIT_ERR_FORMAT, "UTF-8"},
                 {bpe_model, DDIT_ERR_UNSUPPORTED, "model type is 2"}, {bytes_missing, DDIT_ERR_FORMAT, "no piece <0x00>"},
                 {lower_case_byte, DDIT_ERR_FORMAT, "\"<0xff>\""}, {bool_two, DDIT_ERR_FORMAT, "expected 0 or 1"},
                 {score_as_text, DDIT_ERR_FORMAT, "wire type 2, expected 5"}, {short_charsmap, DDIT_ERR_FORMAT, "at least 4"},
                 {charsmap_size, DDIT_ERR_FORMAT, "trie says"}, {short_float, DDIT_ERR_FORMAT, "expected a number of 4 bytes"},
                 {other_eos, DDIT_ERR_FORMAT, "</s>"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        builder b = {.size = 0};
        add_pieces(&b);
        cases[i].make(&b);
        DD_FAILS(t, open_builder(t, &b), cases[i].status, cases[i].part);
        DD_CHECK(t, strncmp(t->err.text, "x.model: ", 9) == 0);
    }
    builder empty = {.size = 0}, only = {.size = 0};
    DD_FAILS(t, open_builder(t, &empty), DDIT_ERR_FORMAT, "no pieces");
    add_piece(&only, "a", -1, 1);
    DD_FAILS(t, open_builder(t, &only), DDIT_ERR_FORMAT, "unknown piece");
}

/* Every truncation of a small model, and of the small trained one; every byte flipped in three ways; then it
 * must still encode. */
static void try_bytes(dd_test *t, const uint8_t *data, size_t size) {
    dd_unigram *tok;
    int32_t ids[40];
    ddit_status status = dd_unigram_open_memory(&tok, LIBC, "x.model", data, size, &t->err);
    golden_check_sentence(t, status, &t->err);
    if (status != DDIT_OK) return;
    static const char text[] = " \xEF\xBC\xA1 caf\xC3\xA9 <sep> e\xCC\x81 \xE7\x8C\xAB ab\t";
    size_t total = 0;
    status = dd_unigram_encode(tok, text, sizeof text - 1, 40, ids, &total, &t->err);
    golden_check_sentence(t, status, &t->err);
    for (size_t i = 0; status == DDIT_OK && i < 40; i++)
        if (ids[i] < 0 || ids[i] >= dd_unigram_vocab_size(tok)) dd_test_fail(t, __FILE__, __LINE__, "id %d out of range",
                                                                             ids[i]);
    dd_unigram_close(tok);
}

static void survives_damage(dd_test *t) {
    char *data;
    size_t size;
    DD_NEED_OK(t, dd_read_file(LIBC, SMALL, 1 << 20, &data, &size, &t->err));
    uint8_t *bytes = (uint8_t *)data;
    for (size_t i = 0; i < 400; i++) try_bytes(t, bytes, i < 200 ? i : size * (i - 200) / 200);
    for (size_t i = 0; i < size; i += i < 64 || i > size - 200 ? 1 : 29) {
        static const uint8_t flips[] = {0xFF, 0x80, 0x01};
        for (size_t k = 0; k < 3; k++) {
            bytes[i] ^= flips[k];
            try_bytes(t, bytes, size);
            bytes[i] ^= flips[k];
        }
    }
    dd_free(LIBC, data);
    builder b = {.size = 0};
    add_pieces(&b);
    for (size_t i = 0; i < b.size; i++) try_bytes(t, b.data, i);
}

/* ---- charsmap ---- */

enum { UNITS = 256 };

/* A trie whose root leads by 'a' back to itself: "aaa…" can be walked for ever. Unit 'a' has offset 'a': it points to 0. */
static void walks_cycles_only_as_far_as_the_text(dd_test *t) {
    uint8_t blob[4 + UNITS * 4 + 4] = {0};
    uint32_t units[UNITS] = {0};
    blob[1] = UNITS * 4 >> 8;
    units['a'] = 'a' | (uint32_t)'a' << 10;
    for (size_t i = 0; i < UNITS; i++)
        for (size_t k = 0; k < 4; k++) blob[4 + 4 * i + k] = (uint8_t)(units[i] >> 8 * k);
    dd_charsmap map;
    const char *replacement;
    DD_NEED_OK(t, dd_charsmap_init(&map, LIBC, "x.model", (dd_bytes){blob, sizeof blob}, &t->err));
    DD_CHECK(t, dd_charsmap_match(&map, "aaaaaaaaaaaa", 12, &replacement) == 0);
    dd_charsmap_deinit(&map);
}

static void check_unit(dd_test *t, size_t at, uint32_t unit, const char *part) {
    uint8_t blob[4 + UNITS * 4 + 4] = {0};
    blob[1] = UNITS * 4 >> 8;
    for (size_t k = 0; k < 4; k++) blob[4 + 4 * at + k] = (uint8_t)(unit >> 8 * k);
    dd_charsmap map;
    DD_FAILS(t, dd_charsmap_init(&map, LIBC, "x.model", (dd_bytes){blob, sizeof blob}, &t->err), DDIT_ERR_FORMAT, part);
}

static void refuses_bad_tries(dd_test *t) {
    check_unit(t, 'a', 'a' | 256u << 10, "points to unit");
    check_unit(t, 'a', 'a' | 1u << 8, "expected a value");
    check_unit(t, 0, 1u << 31, "root");
    uint8_t blob[4 + UNITS * 4 + 4] = {0};
    blob[1] = UNITS * 4 >> 8;
    blob[sizeof blob - 1] = 'x';
    dd_charsmap map;
    DD_FAILS(t, dd_charsmap_init(&map, LIBC, "x.model", (dd_bytes){blob, sizeof blob}, &t->err), DDIT_ERR_FORMAT,
             "expected a zero");
    blob[sizeof blob - 1] = 0;
    blob[sizeof blob - 2] = 0xFF;
    DD_FAILS(t, dd_charsmap_init(&map, LIBC, "x.model", (dd_bytes){blob, sizeof blob}, &t->err), DDIT_ERR_FORMAT, "UTF-8");
    blob[sizeof blob - 2] = 0;
    blob[4 + 4 * 'b'] = 'b', blob[4 + 4 * 'b' + 1] = 1; /* a node with a value at its own place … */
    blob[4 + 4 * 'b' + 3] = 0;
    blob[4 + 4 * 'c' + 3] = 0x80, blob[4 + 4 * 'c'] = 0x7F; /* … moved to 'c', whose value lies outside */
    blob[4 + 4 * 'b' + 1] |= (('b' ^ 'c') << 10 >> 8) & 0xFF;
    DD_FAILS(t, dd_charsmap_init(&map, LIBC, "x.model", (dd_bytes){blob, sizeof blob}, &t->err), DDIT_ERR_FORMAT, "value 127");
}

static void survives_missing_memory(dd_test *t) {
    for (size_t n = 1; n < 100; n++) {
        dd_test_allocator counting;
        dd_test_allocator_init(&counting);
        counting.fail_at = n;
        dd_unigram *tok = NULL;
        int32_t ids[8];
        ddit_status status = dd_unigram_open(&tok, &counting.allocator, SMALL, &t->err);
        if (status == DDIT_OK) status = dd_unigram_encode(tok, "caf\xC3\xA9 <sep> ab", 13, 8, ids, NULL, &t->err);
        dd_unigram_close(tok);
        DD_CHECK(t, counting.live == 0);
        if (status == DDIT_OK) {
            DD_CHECK(t, n > 5);
            return;
        }
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
    }
    DD_CHECK(t, false);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"equals_sentencepiece", equals_sentencepiece},
                                         {"equals_sentencepiece_with_bytes", equals_sentencepiece_with_bytes},
                                         {"knows_its_ids", knows_its_ids},
                                         {"refuses_bad_prompts", refuses_bad_prompts},
                                         {"names_missing_files", names_missing_files},
                                         {"reads_a_built_model", reads_a_built_model},
                                         {"says_what_is_wrong", says_what_is_wrong},
                                         {"survives_damage", survives_damage},
                                         {"walks_cycles_only_as_far_as_the_text", walks_cycles_only_as_far_as_the_text},
                                         {"refuses_bad_tries", refuses_bad_tries},
                                         {"survives_missing_memory", survives_missing_memory}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
