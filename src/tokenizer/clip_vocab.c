#include "tokenizer/clip_vocab.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "tokenizer/clip_special_tokens.h"
#include "tokenizer/utf8.h"

static const char WORD_END[] = "</w>";

/* ---- vocab.json ---- */

/* Ids must be 0 .. N-1, each once: an embedding row for every token and no token without. */
static ddit_status check_ids(const dd_allocator *a, const char *name, json_t *tokens, ddit_err *err) {
    size_t count = json_object_size(tokens);
    if (count == 0 || count > INT32_MAX / 2) return dd_fail(err, DDIT_ERR_FORMAT, "%s: found %zu tokens", name, count);
    bool *seen;
    DD_TRY(dd_alloc(a, &seen, count, sizeof *seen, "checking the vocabulary", err));
    ddit_status status = DDIT_OK;
    const char *text;
    json_t *id;
    json_object_foreach(tokens, text, id) {
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || (uint64_t)value >= count || seen[value]) {
            status = dd_fail(err, DDIT_ERR_FORMAT, "%s: token \"%.100s\" has the id %" JSON_INTEGER_FORMAT
                             ", expected a number from 0 to %zu that no other token has", name, text, value, count - 1);
            break;
        }
        seen[value] = true;
    }
    dd_free(a, seen);
    return status;
}

static int32_t find_token(const json_t *tokens, const char *text) {
    const json_t *id = json_object_get(tokens, text);
    return id ? (int32_t)json_integer_value(id) : -1;
}

/* GPT-2's alphabet writes every byte as a printable character: most as themselves, the other 68 from U+0100 on. */
static void read_bytes(dd_clip_vocab *vocab, const json_t *tokens) {
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        char text[16];
        size_t length = dd_utf8_encode(itself ? byte : next++, text);
        text[length] = '\0';
        int32_t id = find_token(tokens, text);
        vocab->byte_ids[byte] = id >= 0 ? id : vocab->unk_id;
        memcpy(text + length, WORD_END, sizeof WORD_END);
        id = find_token(tokens, text);
        vocab->byte_end_ids[byte] = id >= 0 ? id : vocab->unk_id;
    }
}

/* ---- merges.txt ---- */

static size_t merge_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 29);
}

/* The place of the pair, or the empty one where it belongs: the table is at most half full. */
static dd_clip_merge *merge_place(const dd_clip_vocab *vocab, int32_t left, int32_t right) {
    size_t at = merge_hash(left, right) & vocab->merge_mask;
    while (vocab->merges[at].left >= 0 && (vocab->merges[at].left != left || vocab->merges[at].right != right))
        at = (at + 1) & vocab->merge_mask;
    return &vocab->merges[at];
}

const dd_clip_merge *dd_clip_vocab_merge(const dd_clip_vocab *vocab, int32_t left, int32_t right) {
    const dd_clip_merge *m = merge_place(vocab, left, right);
    return m->left >= 0 ? m : NULL;
}

/* One line "left right", zero-terminated in a scratch buffer of the caller, which is changed. */
static ddit_status read_merge(dd_clip_vocab *vocab, const char *name, size_t line, char *text, const json_t *tokens,
                              int32_t rank, ddit_err *err) {
    char *space = strchr(text, ' ');
    if (!space || space == text || space[1] == '\0' || strchr(space + 1, ' '))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: line %zu is \"%.100s\", expected two tokens with one space between them",
                       name, line, text);
    *space = '\0';
    const char *right_text = space + 1;
    int32_t left = find_token(tokens, text), right = find_token(tokens, right_text);
    if (left < 0 || right < 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: line %zu merges \"%.100s\", which is not in the vocabulary", name, line,
                       left < 0 ? text : right_text);
    memmove(space, right_text, strlen(right_text) + 1);
    int32_t id = find_token(tokens, text);
    if (id < 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: line %zu makes \"%.100s\", which is not in the vocabulary", name, line, text);
    *merge_place(vocab, left, right) = (dd_clip_merge){left, right, id, rank}; /* of a pair given twice the last counts */
    return DDIT_OK;
}

typedef struct line_reader {
    const char *data;
    size_t size, at, line; /* line: number of the line read last, from 1 */
} line_reader;

/* The next line without its end; false at the end of the text. */
static bool next_line(line_reader *r, const char **begin, size_t *length) {
    if (r->at >= r->size) return false;
    const char *start = r->data + r->at, *end = memchr(start, '\n', r->size - r->at);
    *begin = start;
    *length = end ? (size_t)(end - start) : r->size - r->at;
    r->at += *length + 1;
    r->line++;
    if (*length > 0 && start[*length - 1] == '\r') (*length)--;
    return true;
}

static bool is_version_line(const char *text, size_t length) { return length >= 8 && memcmp(text, "#version", 8) == 0; }

/* How many lines there are and the longest: both bounded by the file's size, which bounds what is allocated. */
static void measure_lines(const dd_clip_file *file, size_t *lines, size_t *longest) {
    line_reader r = {file->data, file->size, 0, 0};
    const char *text;
    size_t length;
    *lines = *longest = 0;
    while (next_line(&r, &text, &length)) {
        (*lines)++;
        if (length > *longest) *longest = length;
    }
}

static ddit_status read_merge_lines(dd_clip_vocab *vocab, const dd_clip_file *file, const json_t *tokens, char *scratch,
                                    ddit_err *err) {
    line_reader r = {file->data, file->size, 0, 0};
    const char *text;
    size_t length;
    int32_t rank = 0;
    while (next_line(&r, &text, &length)) {
        if (is_version_line(text, length) || (length == 0 && r.at >= r.size)) continue;
        size_t bad = 0;
        if (memchr(text, 0, length) || !dd_utf8_check(text, length, &bad))
            return dd_fail(err, DDIT_ERR_FORMAT, "%s: line %zu is not text in UTF-8", file->name, r.line);
        memcpy(scratch, text, length);
        scratch[length] = '\0';
        DD_TRY(read_merge(vocab, file->name, r.line, scratch, tokens, rank++, err));
    }
    return DDIT_OK;
}

static ddit_status read_merges(dd_clip_vocab *vocab, const dd_clip_file *file, const json_t *tokens, ddit_err *err) {
    size_t lines, longest, places = 16;
    measure_lines(file, &lines, &longest);
    if (lines > INT32_MAX / 4) return dd_fail(err, DDIT_ERR_FORMAT, "%s: found %zu lines, too many", file->name, lines);
    while (places < 2 * lines) places *= 2;
    DD_TRY(dd_alloc_raw(vocab->allocator, &vocab->merges, places, sizeof *vocab->merges, "the merges", err));
    vocab->merge_mask = places - 1;
    for (size_t i = 0; i < places; i++) vocab->merges[i] = (dd_clip_merge){-1, -1, -1, -1};
    char *scratch;
    DD_TRY(dd_alloc_raw(vocab->allocator, &scratch, longest + 1, 1, "reading the merges", err));
    ddit_status status = read_merge_lines(vocab, file, tokens, scratch, err);
    dd_free(vocab->allocator, scratch);
    return status;
}

/* ---- the whole ---- */

ddit_status dd_clip_vocab_init(dd_clip_vocab *vocab, const dd_allocator *a, const dd_clip_files *files, ddit_err *err) {
    *vocab = (dd_clip_vocab){.allocator = a};
    json_t *tokens = NULL;
    ddit_status status = DDIT_OK;
    DD_GO(dd_clip_parse_json(&tokens, &files->vocab, err));
    DD_GO(check_ids(a, files->vocab.name, tokens, err));
    DD_GO(dd_clip_read_special_tokens(vocab, files, tokens, err));
    read_bytes(vocab, tokens);
    DD_GO(read_merges(vocab, &files->merges, tokens, err));
done:
    json_decref(tokens);
    if (status != DDIT_OK) dd_clip_vocab_deinit(vocab);
    return status;
}

void dd_clip_vocab_deinit(dd_clip_vocab *vocab) {
    if (vocab->allocator) {
        for (size_t i = 0; i < vocab->added_count; i++) dd_free(vocab->allocator, vocab->added[i].text);
        dd_free(vocab->allocator, vocab->added);
        dd_free(vocab->allocator, vocab->merges);
    }
    *vocab = (dd_clip_vocab){0};
}
