#include "tokenizer/clip_bpe.h"

#include <stdio.h>
#include <string.h>

#include "base/mapped_file.h"
#include "tokenizer/clip_text.h"
#include "tokenizer/clip_vocab.h"
#include "tokenizer/utf8.h"

enum { MAX_FILE = 64 << 20 };

struct dd_clip_bpe {
    dd_clip_vocab vocab;
};

/* ---- opening ---- */

ddit_status dd_clip_bpe_open_memory(dd_clip_bpe **out, const dd_allocator *a, const dd_clip_files *files, ddit_err *err) {
    *out = NULL;
    dd_clip_bpe *tok;
    DD_TRY(dd_alloc(a, &tok, 1, sizeof *tok, "the CLIP tokenizer", err));
    ddit_status status = dd_clip_vocab_init(&tok->vocab, a, files, err);
    if (status == DDIT_OK) *out = tok;
    else dd_free(a, tok);
    return status;
}

typedef struct loaded_file {
    char *path, *data; /* owned */
} loaded_file;

static ddit_status load(loaded_file *loaded, dd_clip_file *file, const dd_allocator *a, const char *folder, const char *name,
                        bool needed, ddit_err *err) {
    size_t room = strlen(folder) + strlen(name) + 2;
    DD_TRY(dd_alloc_raw(a, &loaded->path, room, 1, "a path", err));
    snprintf(loaded->path, room, "%s/%s", folder, name);
    size_t size = 0;
    ddit_status status = dd_read_file(a, loaded->path, MAX_FILE, &loaded->data, &size, err);
    if (status == DDIT_ERR_NOT_FOUND && !needed) status = DDIT_OK;
    *file = (dd_clip_file){loaded->path, loaded->data, size};
    return status;
}

ddit_status dd_clip_bpe_open(dd_clip_bpe **out, const dd_allocator *a, const char *folder, ddit_err *err) {
    *out = NULL;
    loaded_file loaded[4] = {{0}};
    dd_clip_files files;
    ddit_status status = DDIT_OK;
    DD_GO(load(&loaded[0], &files.vocab, a, folder, "vocab.json", true, err));
    DD_GO(load(&loaded[1], &files.merges, a, folder, "merges.txt", true, err));
    DD_GO(load(&loaded[2], &files.tokenizer_config, a, folder, "tokenizer_config.json", false, err));
    DD_GO(load(&loaded[3], &files.special_tokens_map, a, folder, "special_tokens_map.json", false, err));
    DD_GO(dd_clip_bpe_open_memory(out, a, &files, err));
done:
    for (size_t i = 0; i < 4; i++) {
        dd_free(a, loaded[i].path);
        dd_free(a, loaded[i].data);
    }
    return status;
}

void dd_clip_bpe_close(dd_clip_bpe *tok) {
    if (!tok) return;
    const dd_allocator *a = tok->vocab.allocator;
    dd_clip_vocab_deinit(&tok->vocab);
    dd_free(a, tok);
}

int32_t dd_clip_bpe_vocab_size(const dd_clip_bpe *tok) { return tok->vocab.size; }
size_t dd_clip_bpe_max_length(const dd_clip_bpe *tok) { return tok->vocab.max_length; }
int32_t dd_clip_bpe_start_id(const dd_clip_bpe *tok) { return tok->vocab.start_id; }
int32_t dd_clip_bpe_end_id(const dd_clip_bpe *tok) { return tok->vocab.end_id; }
int32_t dd_clip_bpe_pad_id(const dd_clip_bpe *tok) { return tok->vocab.pad_id; }

/* ---- merging one word ---- */

typedef struct symbol {
    int32_t id, prev, next; /* neighbours that are left, -1 at the ends */
    bool gone;              /* merged into the one before it */
} symbol;

typedef struct candidate {
    int32_t rank, at, id; /* symbols[at] and its neighbour may become id */
} candidate;

/* Everything one call of encode needs. */
typedef struct encoder {
    const dd_clip_vocab *vocab;
    int32_t *ids; /* ids beyond limit are only counted */
    size_t limit, count;
    symbol *symbols;   /* owned [word_room] */
    candidate *heap;   /* owned [3 * word_room]: every pair at first, two more for each merge */
    size_t heap_count, word_room;
    ddit_err *err;
} encoder;

static void put(encoder *e, int32_t id) {
    if (e->count < e->limit) e->ids[e->count] = id;
    e->count++;
}

static bool goes_first(candidate x, candidate y) { return x.rank != y.rank ? x.rank < y.rank : x.at < y.at; }

static void heap_push(encoder *e, candidate c) {
    size_t at = e->heap_count++;
    while (at > 0 && goes_first(c, e->heap[(at - 1) / 2])) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = c;
}

static candidate heap_pop(encoder *e) {
    candidate top = e->heap[0], last = e->heap[--e->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < e->heap_count; at = child) {
        if (child + 1 < e->heap_count && goes_first(e->heap[child + 1], e->heap[child])) child++;
        if (!goes_first(e->heap[child], last)) break;
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = last;
    return top;
}

static void push_pair(encoder *e, int32_t at) {
    if (at < 0 || e->symbols[at].next < 0) return;
    const dd_clip_merge *m = dd_clip_vocab_merge(e->vocab, e->symbols[at].id, e->symbols[e->symbols[at].next].id);
    if (m) heap_push(e, (candidate){m->rank, at, m->id});
}

/* Merges the pair of lowest rank, of equals the first, until none is left. A candidate whose pair has changed since is skipped
 * unless the new pair makes the same token (as the tokenizers library does it). */
static void merge_symbols(encoder *e, int32_t count) {
    symbol *s = e->symbols;
    e->heap_count = 0;
    for (int32_t i = 0; i + 1 < count; i++) push_pair(e, i);
    while (e->heap_count > 0) {
        candidate c = heap_pop(e);
        int32_t next = s[c.at].next;
        if (s[c.at].gone || next < 0) continue;
        const dd_clip_merge *m = dd_clip_vocab_merge(e->vocab, s[c.at].id, s[next].id);
        if (!m || m->id != c.id) continue;
        s[c.at].id = c.id;
        s[c.at].next = s[next].next;
        s[next].gone = true;
        if (s[next].next >= 0) s[s[next].next].prev = c.at;
        push_pair(e, s[c.at].prev);
        push_pair(e, c.at);
    }
}

/* word[0..length), length > 0: symbols of its bytes, merged; the ids go out. */
static ddit_status put_word(encoder *e, const char *word, size_t length) {
    const dd_allocator *a = e->vocab->allocator;
    if (length > e->word_room) {
        dd_free(a, e->symbols);
        dd_free(a, e->heap);
        e->symbols = NULL;
        e->heap = NULL;
        e->word_room = 0;
        size_t room = 2 * length + 64;
        DD_TRY(dd_alloc_raw(a, &e->symbols, room, sizeof *e->symbols, "encoding the prompt", e->err));
        DD_TRY(dd_alloc_raw(a, &e->heap, 3 * room, sizeof *e->heap, "encoding the prompt", e->err));
        e->word_room = room;
    }
    int32_t count = (int32_t)length;
    for (int32_t i = 0; i < count; i++) {
        uint8_t byte = (uint8_t)word[i];
        bool last = i + 1 == count;
        e->symbols[i] = (symbol){last ? e->vocab->byte_end_ids[byte] : e->vocab->byte_ids[byte], i - 1, last ? -1 : i + 1,
                                 false};
    }
    merge_symbols(e, count);
    for (int32_t i = 0; i >= 0; i = e->symbols[i].next) put(e, e->symbols[i].id);
    return DDIT_OK;
}

/* ---- splitting normalised text into words ---- */

static bool starts_with(const char *text, size_t length, const char *prefix) {
    size_t n = strlen(prefix);
    return n <= length && memcmp(text, prefix, n) == 0;
}

/* Bytes from the start of text whose class is `wanted`. */
static size_t run_length(const char *text, size_t length, dd_char_class wanted) {
    size_t at = 0, used;
    while (at < length && dd_clip_char_class(dd_utf8_decode(text + at, &used)) == wanted) at += used;
    return at;
}

/* Length of the English ending ('s 't 're 've 'm 'll 'd) at text, 0 if there is none. */
static size_t ending_length(const char *text, size_t length) {
    static const char *const ENDINGS[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof ENDINGS / sizeof *ENDINGS; i++)
        if (starts_with(text, length, ENDINGS[i])) return strlen(ENDINGS[i]);
    return 0;
}

/* A special token's text that was not found whole (because it was written in capitals, say). CLIP's expression takes it as one
 * match, then transformers' byte-level step cuts it by GPT-2's: "<|", the word, "|>". */
static ddit_status put_special_text(encoder *e, const char *text, size_t length, size_t *used) {
    static const char *const SPECIAL[] = {"<|startoftext|>", "<|endoftext|>"};
    *used = 0;
    for (size_t i = 0; i < 2; i++) {
        if (!starts_with(text, length, SPECIAL[i])) continue;
        *used = strlen(SPECIAL[i]);
        DD_TRY(put_word(e, text, 2));
        DD_TRY(put_word(e, text + 2, *used - 4));
        return put_word(e, text + *used - 2, 2);
    }
    return DDIT_OK;
}

/* The alternatives of CLIP's expression, in its order. */
static ddit_status put_words(encoder *e, const char *text, size_t length) {
    for (size_t at = 0, used; at < length; at += used) {
        const char *rest = text + at;
        size_t left = length - at;
        if (*rest == '<') {
            DD_TRY(put_special_text(e, rest, left, &used));
            if (used > 0) continue;
        }
        dd_char_class class = dd_clip_char_class(dd_utf8_decode(rest, &used));
        if (class == DD_CHAR_SPACE) continue;
        size_t ending = ending_length(rest, left);
        if (ending > 0) used = ending;
        else if (class != DD_CHAR_NUMBER) used = run_length(rest, left, class);
        DD_TRY(put_word(e, rest, used));
    }
    return DDIT_OK;
}

/* ---- added tokens ---- */

/* The longest added token (normalised or not, as asked) that begins text, NULL if there is none. */
static const dd_clip_added *match_added(const dd_clip_vocab *v, bool normalized, const char *text, size_t length) {
    const dd_clip_added *best = NULL;
    for (size_t i = 0; i < v->added_count; i++) {
        const dd_clip_added *t = &v->added[i];
        if (t->normalized != normalized || t->length > length || memcmp(t->text, text, t->length) != 0) continue;
        if (!best || t->length > best->length) best = t;
    }
    return best;
}

/* Cuts text at the added tokens and hands what lies between them to `rest`. */
static ddit_status put_around_added(encoder *e, bool normalized, const char *text, size_t length,
                                    ddit_status (*rest)(encoder *, const char *, size_t)) {
    size_t begin = 0;
    for (size_t at = 0; at < length;) {
        const dd_clip_added *t = match_added(e->vocab, normalized, text + at, length - at);
        if (!t) {
            at++;
            continue;
        }
        DD_TRY(rest(e, text + begin, at - begin));
        put(e, t->id);
        at += t->length;
        begin = at;
    }
    return rest(e, text + begin, length - begin);
}

static ddit_status put_raw(encoder *e, const char *text, size_t length) {
    if (length == 0) return DDIT_OK;
    char *normal;
    size_t size;
    DD_TRY(dd_clip_text_normalize(e->vocab->allocator, text, length, &normal, &size, e->err));
    ddit_status status = put_around_added(e, true, normal, size, put_words);
    dd_free(e->vocab->allocator, normal);
    return status;
}

ddit_status dd_clip_bpe_encode(const dd_clip_bpe *tok, const char *text, size_t length, size_t max_length, int32_t *ids,
                               size_t *count_total, ddit_err *err) {
    DD_TRY(dd_prompt_check(text, length, err));
    if (max_length < 2)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "the length of the text is %zu, expected at least 2 (start and end)",
                       max_length);
    const dd_clip_vocab *v = &tok->vocab;
    encoder e = {.vocab = v, .ids = ids, .limit = max_length - 1, .err = err};
    put(&e, v->start_id);
    ddit_status status = put_around_added(&e, false, text, length, put_raw);
    dd_free(v->allocator, e.symbols);
    dd_free(v->allocator, e.heap);
    if (status != DDIT_OK) return status;
    size_t kept = e.count < e.limit ? e.count : e.limit;
    ids[kept++] = v->end_id;
    for (; kept < max_length; kept++) ids[kept] = v->pad_id;
    if (count_total) *count_total = e.count + 1;
    return DDIT_OK;
}
