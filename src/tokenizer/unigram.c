#include "tokenizer/unigram.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "base/mapped_file.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/unigram_normalize.h"
#include "tokenizer/utf8.h"

struct dd_unigram {
    const dd_allocator *allocator;
    dd_sp_normalizer normalizer;
    dd_piece_trie trie; /* pieces that may cover text: normal, user-defined, unused */
    float *scores;      /* owned [piece_count] */
    uint8_t *types;     /* owned [piece_count], dd_sp_type */
    int32_t piece_count, unk_id, eos_id, pad_id;
    bool byte_fallback;
    int32_t byte_ids[256];
    float unk_score;
};

/* ---- opening ---- */

static bool covers_text(dd_sp_type type) { return type == DD_SP_NORMAL || type == DD_SP_USER_DEFINED || type == DD_SP_UNUSED; }
static bool is_user_defined(dd_sp_type type) { return type == DD_SP_USER_DEFINED; }
static bool is_reserved(dd_sp_type type) { return !covers_text(type); }

static ddit_status build_trie(dd_piece_trie *trie, const dd_allocator *a, const char *name, const dd_sp_model *model,
                              bool (*wanted)(dd_sp_type), ddit_err *err) {
    dd_trie_entry *entries;
    DD_TRY(dd_alloc_raw(a, &entries, model->piece_count, sizeof *entries, "sorting the pieces", err));
    size_t count = 0;
    for (size_t i = 0; i < model->piece_count; i++)
        if (wanted(model->pieces[i].type)) entries[count++] = (dd_trie_entry){model->pieces[i].text, (int32_t)i};
    int32_t duplicate;
    ddit_status status = dd_piece_trie_init(trie, a, entries, count, &duplicate, err);
    dd_free(a, entries);
    if (status == DDIT_OK && duplicate >= 0) {
        dd_bytes text = model->pieces[duplicate].text;
        int shown = text.size < 80 ? (int)text.size : 80;
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: piece %d, \"%.*s\", is there twice", name, duplicate, shown,
                       (const char *)text.data);
    }
    return status;
}

/* The byte of a piece "<0xNN>" with two upper-case digits, or -1. */
static int byte_of_piece(dd_bytes text) {
    char expected[8];
    for (int byte = 0; byte < 256; byte++) {
        snprintf(expected, sizeof expected, "<0x%02X>", (unsigned)byte);
        if (text.size == 6 && memcmp(text.data, expected, 6) == 0) return byte;
    }
    return -1;
}

static ddit_status take_byte_piece(dd_unigram *tok, const char *name, dd_bytes text, int32_t id, ddit_err *err) {
    int byte = byte_of_piece(text);
    if (!tok->byte_fallback)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: piece %d stands for a byte, but the model says that it has no byte fallback",
                       name, id);
    if (byte < 0) {
        int shown = text.size < 80 ? (int)text.size : 80;
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: byte piece %d is \"%.*s\", expected <0x00> to <0xFF>", name, id, shown,
                       (const char *)text.data);
    }
    tok->byte_ids[byte] = id;
    return DDIT_OK;
}

static bool same_bytes(dd_bytes a, dd_bytes b) { return a.size == b.size && memcmp(a.data, b.data, a.size) == 0; }

static ddit_status take_pieces(dd_unigram *tok, const char *name, const dd_sp_model *model, ddit_err *err) {
    float min_score = FLT_MAX;
    for (int32_t i = 0; i < tok->piece_count; i++) {
        const dd_sp_piece *p = &model->pieces[i];
        tok->scores[i] = p->score;
        tok->types[i] = (uint8_t)p->type;
        if (p->type == DD_SP_NORMAL && p->score < min_score) min_score = p->score;
        if (p->type == DD_SP_CONTROL && same_bytes(p->text, model->eos_piece)) tok->eos_id = i;
        if (p->type == DD_SP_CONTROL && same_bytes(p->text, model->pad_piece)) tok->pad_id = i;
        if (p->type == DD_SP_BYTE) DD_TRY(take_byte_piece(tok, name, p->text, i, err));
        if (p->type == DD_SP_UNKNOWN) {
            if (tok->unk_id >= 0)
                return dd_fail(err, DDIT_ERR_FORMAT, "%s: pieces %d and %d are both the unknown piece, expected one", name,
                               tok->unk_id, i);
            tok->unk_id = i;
        }
    }
    tok->unk_score = min_score - 10.0f;
    return DDIT_OK;
}

static ddit_status check_pieces(dd_unigram *tok, const char *name, ddit_err *err) {
    if (tok->unk_id < 0) return dd_fail(err, DDIT_ERR_FORMAT, "%s: found no piece of type 2, expected the unknown piece", name);
    if (tok->eos_id < 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found no control piece </s>, expected one (is this a T5 tokenizer?)", name);
    if (tok->pad_id < 0) tok->pad_id = 0;
    for (int byte = 0; tok->byte_fallback && byte < 256; byte++)
        if (tok->byte_ids[byte] < 0)
            return dd_fail(err, DDIT_ERR_FORMAT, "%s: the model has byte fallback, but no piece <0x%02X>", name,
                           (unsigned)byte);
    return DDIT_OK;
}

static ddit_status build(dd_unigram *tok, const char *name, const dd_sp_model *model, ddit_err *err) {
    const dd_allocator *a = tok->allocator;
    tok->piece_count = (int32_t)model->piece_count;
    tok->byte_fallback = model->byte_fallback;
    tok->normalizer.add_dummy_prefix = model->add_dummy_prefix;
    tok->normalizer.remove_extra_whitespaces = model->remove_extra_whitespaces;
    tok->normalizer.escape_whitespaces = model->escape_whitespaces;
    tok->normalizer.whitespace_as_suffix = model->whitespace_as_suffix;
    tok->unk_id = tok->eos_id = tok->pad_id = -1;
    memset(tok->byte_ids, 0xFF, sizeof tok->byte_ids); /* all -1 */
    DD_TRY(dd_alloc_raw(a, &tok->scores, model->piece_count, sizeof *tok->scores, "the scores of the pieces", err));
    DD_TRY(dd_alloc_raw(a, &tok->types, model->piece_count, sizeof *tok->types, "the types of the pieces", err));
    DD_TRY(take_pieces(tok, name, model, err));
    DD_TRY(check_pieces(tok, name, err));
    dd_piece_trie reserved; /* built only to find a text that is there twice */
    DD_TRY(build_trie(&reserved, a, name, model, is_reserved, err));
    dd_piece_trie_deinit(&reserved);
    DD_TRY(build_trie(&tok->trie, a, name, model, covers_text, err));
    DD_TRY(build_trie(&tok->normalizer.protected_texts, a, name, model, is_user_defined, err));
    return dd_charsmap_init(&tok->normalizer.charsmap, a, name, model->charsmap, err);
}

ddit_status dd_unigram_open_memory(dd_unigram **out, const dd_allocator *a, const char *name, const void *data, size_t size,
                                   ddit_err *err) {
    *out = NULL;
    dd_unigram *tok = NULL;
    dd_sp_model model;
    DD_TRY(dd_sp_model_parse(&model, a, name, data, size, err));
    ddit_status status = dd_alloc(a, &tok, 1, sizeof *tok, "the text tokenizer", err);
    if (status == DDIT_OK) {
        tok->allocator = a;
        status = build(tok, name, &model, err);
    }
    dd_sp_model_deinit(&model);
    if (status == DDIT_OK) *out = tok;
    else dd_unigram_close(tok);
    return status;
}

ddit_status dd_unigram_open(dd_unigram **out, const dd_allocator *a, const char *path, ddit_err *err) {
    *out = NULL;
    dd_mapped_file file;
    DD_TRY(dd_mapped_file_open(&file, path, err));
    ddit_status status = dd_unigram_open_memory(out, a, path, file.data, file.size, err);
    dd_mapped_file_close(&file);
    return status;
}

void dd_unigram_close(dd_unigram *tok) {
    if (!tok) return;
    const dd_allocator *a = tok->allocator;
    dd_charsmap_deinit(&tok->normalizer.charsmap);
    dd_piece_trie_deinit(&tok->normalizer.protected_texts);
    dd_piece_trie_deinit(&tok->trie);
    dd_free(a, tok->scores);
    dd_free(a, tok->types);
    dd_free(a, tok);
}

int32_t dd_unigram_vocab_size(const dd_unigram *tok) { return tok->piece_count; }
int32_t dd_unigram_eos_id(const dd_unigram *tok) { return tok->eos_id; }
int32_t dd_unigram_pad_id(const dd_unigram *tok) { return tok->pad_id; }

/* ---- encoding ---- */

/* The best way to cover the text up to a byte: the piece that ends there, where it begins, and the sum of scores. */
typedef struct best_path {
    float score;
    int32_t start; /* -1: not reached */
    int32_t id;
} best_path;

/* so_far plus the score of a piece. A user-defined piece has a bonus that grows with its bytes, whatever score the file gives
 * it: what SentencePiece 0.2.3 does, found by measuring it (older versions took length * max_score - 0.1). Sums are
 * rounded to float: there are texts where that alone decides between two ways of cutting a row of equal digits. */
static float add_score(const dd_unigram *tok, float so_far, int32_t id, size_t length) {
    if (tok->types[id] != DD_SP_USER_DEFINED) return so_far + tok->scores[id];
    return (float)(0.1 * (double)length - 0.1 + (double)so_far);
}

static void offer(best_path *target, float score, int32_t start, int32_t id) {
    if (target->start >= 0 && !(score > target->score)) return; /* of equals the first found stays */
    *target = (best_path){score, start, id};
}

/* Viterbi: best[i] for every byte i of text. Time: size times the longest piece. */
static void find_best_paths(const dd_unigram *tok, const char *text, int32_t size, best_path *best) {
    for (int32_t i = 0; i <= size; i++) best[i] = (best_path){0.0f, -1, -1};
    for (int32_t start = 0; start < size;) {
        int32_t character = (int32_t)dd_utf8_length((uint8_t)text[start]);
        float so_far = best[start].score;
        bool covered = false; /* by a piece of exactly this character */
        uint32_t node = 0;
        for (int32_t at = start; tok->trie.nodes && at < size;) {
            node = dd_piece_trie_step(&tok->trie, node, (uint8_t)text[at]);
            if (node == 0) break;
            at++;
            int32_t id = tok->trie.nodes[node].id;
            if (id < 0 || tok->types[id] == DD_SP_UNUSED) continue;
            offer(&best[at], add_score(tok, so_far, id, (size_t)(at - start)), start, id);
            if (at - start == character) covered = true;
        }
        if (!covered) offer(&best[start + character], tok->unk_score + so_far, start, tok->unk_id);
        start += character;
    }
}

typedef struct id_sink {
    int32_t *ids;
    size_t limit, count; /* ids beyond the limit are only counted */
} id_sink;

static void put(id_sink *sink, int32_t id) {
    if (sink->count < sink->limit) sink->ids[sink->count] = id;
    sink->count++;
}

/* Follows the best path back, turning best[] into a forward chain: best[i].start becomes where the piece at i ends. */
static void reverse_path(best_path *best, int32_t size) {
    int32_t end = size, id = best[size].id, start = best[size].start;
    while (end > 0) {
        int32_t next_start = best[start].start, next_id = best[start].id;
        best[start].start = end;
        best[start].id = id;
        end = start;
        start = next_start;
        id = next_id;
    }
}

static void emit(const dd_unigram *tok, const char *text, int32_t size, const best_path *best, id_sink *sink) {
    bool after_unknown = false;
    for (int32_t at = 0; at < size; at = best[at].start) {
        bool unknown = best[at].id == tok->unk_id;
        if (unknown && tok->byte_fallback) {
            for (int32_t i = at; i < best[at].start; i++) put(sink, tok->byte_ids[(uint8_t)text[i]]);
        } else if (!(unknown && after_unknown)) { /* neighbouring unknown characters become one id */
            put(sink, best[at].id);
        }
        after_unknown = unknown;
    }
}

ddit_status dd_unigram_encode(const dd_unigram *tok, const char *text, size_t length, size_t max_length, int32_t *ids,
                              size_t *count_total, ddit_err *err) {
    DD_TRY(dd_prompt_check(text, length, err));
    if (max_length < 1) return dd_fail(err, DDIT_ERR_ARGUMENT,
                                       "the length of the text is 0, expected at least 1 (room for </s>)");
    dd_text_buffer normal = {0};
    best_path *best = NULL;
    ddit_status status = DDIT_OK;
    id_sink sink = {ids, max_length - 1, 0};
    DD_GO(dd_sp_normalize(&tok->normalizer, tok->allocator, text, length, &normal, err));
    if (normal.size > 0) {
        DD_GO(dd_alloc_raw(tok->allocator, &best, normal.size + 1, sizeof *best, "encoding the prompt", err));
        find_best_paths(tok, normal.data, (int32_t)normal.size, best);
        reverse_path(best, (int32_t)normal.size);
        emit(tok, normal.data, (int32_t)normal.size, best, &sink);
    }
    size_t kept = sink.count < sink.limit ? sink.count : sink.limit;
    ids[kept++] = tok->eos_id;
    for (; kept < max_length; kept++) ids[kept] = tok->pad_id;
    if (count_total) *count_total = sink.count + 1;
done:
    dd_free(tok->allocator, best);
    dd_free(tok->allocator, normal.data);
    return status;
}
