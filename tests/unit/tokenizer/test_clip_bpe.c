#include "tokenizer/clip_bpe.h"

#include "tokenizer/utf8.h"
#include "tokenizer_goldens.h"

#define FOLDER "models/emoji/tokenizer"

static const dd_allocator *const LIBC = &dd_allocator_libc;

static ddit_status encode(const void *tok, const char *text, size_t length, size_t max_length, int32_t *ids, size_t *total,
                          ddit_err *err) {
    return dd_clip_bpe_encode(tok, text, length, max_length, ids, total, err);
}

static void equals_transformers(dd_test *t) {
    dd_clip_bpe *tok;
    DD_NEED_OK(t, dd_clip_bpe_open(&tok, LIBC, FOLDER, &t->err));
    golden_check_all(t, "clip.txt", tok, encode, dd_clip_bpe_pad_id(tok));
    DD_CHECK(t, dd_clip_bpe_vocab_size(tok) == 8192 && dd_clip_bpe_max_length(tok) == 77);
    DD_CHECK(t, dd_clip_bpe_start_id(tok) == 8190 && dd_clip_bpe_end_id(tok) == 8191 && dd_clip_bpe_pad_id(tok) == 8191);
    dd_clip_bpe_close(tok);
    dd_clip_bpe_close(NULL);
}

static void refuses_bad_prompts(dd_test *t) {
    dd_clip_bpe *tok;
    int32_t ids[2];
    static char longest[DD_PROMPT_MAX_BYTES + 1];
    DD_NEED_OK(t, dd_clip_bpe_open(&tok, LIBC, FOLDER, &t->err));
    DD_FAILS(t, dd_clip_bpe_encode(tok, "ab\xFF", 3, 2, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "byte 2");
    DD_FAILS(t, dd_clip_bpe_encode(tok, longest, sizeof longest, 2, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "32001");
    DD_FAILS(t, dd_clip_bpe_encode(tok, "a", 1, 1, ids, NULL, &t->err), DDIT_ERR_ARGUMENT, "length");
    memset(longest, 'a', sizeof longest);
    DD_OK(t, dd_clip_bpe_encode(tok, longest, DD_PROMPT_MAX_BYTES, 2, ids, NULL, &t->err));
    for (size_t i = 0; i + 4 <= DD_PROMPT_MAX_BYTES; i += 4) memcpy(longest + i, "\xCC\x81\xCC\xA3", 4); /* marks to reorder */
    DD_OK(t, dd_clip_bpe_encode(tok, longest, DD_PROMPT_MAX_BYTES, 2, ids, NULL, &t->err));
    DD_OK(t, dd_clip_bpe_encode(tok, "a\0b", 3, 2, ids, NULL, &t->err));
    DD_CHECK(t, ids[0] == 8190 && ids[1] == 8191);
    dd_clip_bpe_close(tok);
}

/* ---- files in memory ---- */

#define VOCAB "{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</w>\":4,\"!</w>\":5,\"<S>\":6,\"<E>\":7,\"aa\":8}"
#define MERGES "#version: 0.2\na b</w>\r\na a\n"
#define START_END "{\"bos_token\":\"<S>\",\"eos_token\":\"<E>\",\"unk_token\":\"<E>\",\"pad_token\":"
#define CONFIG START_END "\"a</w>\",\"model_max_length\":9}"
#define DECODER START_END "\"<E>\",\"added_tokens_decoder\":" /* then its value and "}" */

static dd_clip_file file_of(const char *name, const char *text) { return (dd_clip_file){name, text, text ? strlen(text) : 0}; }

static ddit_status open_texts(dd_test *t, dd_clip_bpe **tok, const char *vocab, const char *merges, const char *config,
                              const char *map) {
    dd_clip_files files = {file_of("vocab.json", vocab), file_of("merges.txt", merges), file_of("tokenizer_config.json",
            config),
                           file_of("special_tokens_map.json", map)};
    return dd_clip_bpe_open_memory(tok, LIBC, &files, &t->err);
}

static void expect(dd_test *t, const dd_clip_bpe *tok, const char *text, const int32_t *expected, size_t count) {
    int32_t ids[16];
    size_t total = 0;
    DD_NEED_OK(t, dd_clip_bpe_encode(tok, text, strlen(text), 16, ids, &total, &t->err));
    if (total != count || memcmp(ids, expected, count * sizeof *ids) != 0)
        dd_test_fail(t, __FILE__, __LINE__, "\"%s\": %zu ids %d %d %d %d", text, total, ids[0], ids[1], ids[2], ids[3]);
}
#define EXPECT(t, tok, text, ...) \
    do { static const int32_t e_[] = {__VA_ARGS__}; expect(t, tok, text, e_, sizeof e_ / sizeof *e_); } while (0)

static void reads_built_files(dd_test *t) {
    dd_clip_bpe *tok;
    DD_NEED_OK(t, open_texts(t, &tok, VOCAB, MERGES, CONFIG, NULL));
    DD_CHECK(t, dd_clip_bpe_max_length(tok) == 9 && dd_clip_bpe_pad_id(tok) == 2 && dd_clip_bpe_vocab_size(tok) == 9);
    EXPECT(t, tok, "AB aab", 6, 4, 0, 4, 7);       /* the lower rank goes first */
    EXPECT(t, tok, "aaaa", 6, 8, 0, 2, 7);
    EXPECT(t, tok, "c!", 6, 7, 5, 7);              /* bytes that are missing are unknown */
    EXPECT(t, tok, "b<S>a<s>", 6, 3, 6, 2, 7, 7, 7, 7); /* only the exact text is special; "<", "s", ">" are unknown */
    EXPECT(t, tok, "a</w>", 6, 2, 7);              /* the padding token is special, too */
    dd_clip_bpe_close(tok);
}

static void reads_token_flags(dd_test *t) {
    dd_clip_bpe *tok;
    static const char map[] = "{\"bos_token\":{\"content\":\"<S>\",\"normalized\":true},\"pad_token\":\"!</w>\"}";
    DD_NEED_OK(t, open_texts(t, &tok, VOCAB, MERGES, CONFIG, map));
    DD_CHECK(t, dd_clip_bpe_pad_id(tok) == 5);
    EXPECT(t, tok, "<s> <S> <E>", 6, 6, 6, 7, 7);
    dd_clip_bpe_close(tok);
    static const char decoder[] = START_END "\"<P>\",\"model_max_length\":1e30,"
                                  "\"added_tokens_decoder\":{\"6\":{\"content\":\"<S>\",\"normalized\":true},"
                                  "\"9\":{\"content\":\"<P>\",\"normalized\":false},"
                                  "\"11\":{\"content\":\"<PP>\",\"normalized\":false}}}";
    DD_NEED_OK(t, open_texts(t, &tok, VOCAB, MERGES, decoder, map));
    DD_CHECK(t, dd_clip_bpe_pad_id(tok) == 9 && dd_clip_bpe_vocab_size(tok) == 12 && dd_clip_bpe_max_length(tok) == 77);
    EXPECT(t, tok, "<s><P><PP>a", 6, 6, 9, 11, 2, 7);
    dd_clip_bpe_close(tok);
}

static void says_what_is_wrong(dd_test *t) {
    static const struct {
        const char *vocab, *merges, *config, *map;
        ddit_status status;
        const char *part;
    } cases[] = {
        {"", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "vocab.json: not valid JSON at line"},
        {"[]", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "vocab.json: found another"},
        {"{}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "found 0 tokens"},
        {"{\"a\":0,\"a\":1}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "duplicate"},
        {"{\"a\":0,\"b\":2}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "expected a number from 0 to 1"},
        {"{\"a\":0,\"b\":0}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "\"b\" has the id 0"},
        {"{\"a\":\"0\"}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "\"a\" has the id"},
        {"{\"a\":-1}", MERGES, CONFIG, NULL, DDIT_ERR_FORMAT, "id -1"},
        {VOCAB, "a b</w> x\n", CONFIG, NULL, DDIT_ERR_FORMAT, "merges.txt: line 1"},
        {VOCAB, "#version\nab\n", CONFIG, NULL, DDIT_ERR_FORMAT, "line 2 is \"ab\""},
        {VOCAB, "\na b</w>\n", CONFIG, NULL, DDIT_ERR_FORMAT, "line 1"},
        {VOCAB, "a c\n", CONFIG, NULL, DDIT_ERR_FORMAT, "\"c\", which is not"},
        {VOCAB, "c a\n", CONFIG, NULL, DDIT_ERR_FORMAT, "merges \"c\""},
        {VOCAB, "b a\n", CONFIG, NULL, DDIT_ERR_FORMAT, "makes \"ba\""},
        {VOCAB, "a \xFF\n", CONFIG, NULL, DDIT_ERR_FORMAT, "UTF-8"},
        {VOCAB, MERGES, NULL, NULL, DDIT_ERR_FORMAT, "<|startoftext|>"},
        {VOCAB, MERGES, "{", NULL, DDIT_ERR_FORMAT, "tokenizer_config.json: not valid"},
        {VOCAB, MERGES, CONFIG, "3", DDIT_ERR_FORMAT, "special_tokens_map.json"},
        {VOCAB, MERGES, CONFIG, "{\"bos_token\":3}", DDIT_ERR_FORMAT, "\"bos_token\" has no text"},
        {VOCAB, MERGES, CONFIG, "{\"bos_token\":{\"content\":\"\"}}", DDIT_ERR_FORMAT, "\"bos_token\" has no text"},
        {VOCAB, MERGES, CONFIG, "{\"bos_token\":{\"content\":\"<S>\",\"single_word\":true}}", DDIT_ERR_UNSUPPORTED,
         "single_word"},
        {VOCAB, MERGES,
         START_END "\"<E>\",\"model_max_length\":1}",
             NULL,
         DDIT_ERR_FORMAT, "model_max_length"},
        {VOCAB, MERGES,
         DECODER "[]}", NULL,
         DDIT_ERR_FORMAT, "added_tokens_decoder"},
        {VOCAB, MERGES,
         DECODER "{\"5\":{\"content\":\"<S>\"}}}",
         NULL, DDIT_ERR_FORMAT, "does not fit"},
        {VOCAB, MERGES,
         DECODER "{\"99999999\":{\"content\":\"<X>\"}}}",
         NULL, DDIT_ERR_FORMAT, "does not fit"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dd_clip_bpe *tok;
        DD_FAILS(t, open_texts(t, &tok, cases[i].vocab, cases[i].merges, cases[i].config, cases[i].map), cases[i].status,
                 cases[i].part);
        DD_CHECK(t, tok == NULL);
    }
}

static void names_missing_files(dd_test *t) {
    dd_clip_bpe *tok;
    DD_FAILS(t, dd_clip_bpe_open(&tok, LIBC, "no/such", &t->err), DDIT_ERR_NOT_FOUND, "no/such/vocab.json");
    DD_CHECK(t, tok == NULL);
}

/* ---- damage ---- */

static void try_texts(dd_test *t, const dd_clip_files *files) {
    dd_clip_bpe *tok;
    int32_t ids[20];
    ddit_status status = dd_clip_bpe_open_memory(&tok, LIBC, files, &t->err);
    golden_check_sentence(t, status, &t->err);
    if (status != DDIT_OK) return;
    DD_OK(t, dd_clip_bpe_encode(tok, "aab <S>b!", 9, 20, ids, NULL, &t->err));
    for (size_t i = 0; i < 20; i++)
        if (ids[i] < 0 || ids[i] >= dd_clip_bpe_vocab_size(tok)) dd_test_fail(t, __FILE__, __LINE__, "id %d out of range",
                                                                              ids[i]);
    dd_clip_bpe_close(tok);
}

static void survives_damage(dd_test *t) {
    dd_clip_files files = {file_of("vocab.json", VOCAB), file_of("merges.txt", MERGES), file_of("tokenizer_config.json",
            CONFIG),
                           file_of("special_tokens_map.json",
                                   "{\"bos_token\":{\"content\":\"<S>\",\"normalized\":true},\"pad_token\":\"!</w>\"}")};
    dd_clip_file *all[] = {&files.vocab, &files.merges, &files.tokenizer_config, &files.special_tokens_map};
    for (size_t f = 0; f < 4; f++) {
        dd_clip_file whole = *all[f];
        char copy[512];
        for (size_t i = 0; i < whole.size; i++) {
            all[f]->size = i;
            try_texts(t, &files);
        }
        all[f]->size = whole.size;
        all[f]->data = copy;
        for (size_t i = 0; i < 8 * whole.size; i++) {
            memcpy(copy, whole.data, whole.size);
            copy[i / 8] = (char)(copy[i / 8] ^ 1 << i % 8);
            try_texts(t, &files);
        }
        *all[f] = whole;
    }
}

static void truncates_the_real_files(dd_test *t) {
    char *vocab, *merges;
    size_t vocab_size, merges_size;
    DD_NEED_OK(t, dd_read_file(LIBC, FOLDER "/vocab.json", 1 << 24, &vocab, &vocab_size, &t->err));
    DD_NEED_OK(t, dd_read_file(LIBC, FOLDER "/merges.txt", 1 << 24, &merges, &merges_size, &t->err));
    for (size_t i = 0; i < 40; i++) {
        dd_clip_bpe *tok;
        dd_clip_files files = {{"vocab.json", vocab, vocab_size * i / 40}, {"merges.txt", merges, merges_size}, {0}, {0}};
        DD_FAILS(t, dd_clip_bpe_open_memory(&tok, LIBC, &files, &t->err), DDIT_ERR_FORMAT, "vocab.json: ");
    }
    dd_free(LIBC, vocab);
    dd_free(LIBC, merges);
}

static void survives_missing_memory(dd_test *t) {
    for (size_t n = 1; n < 100; n++) {
        dd_test_allocator counting;
        dd_test_allocator_init(&counting);
        counting.fail_at = n;
        dd_clip_bpe *tok = NULL;
        int32_t ids[8];
        ddit_status status = dd_clip_bpe_open(&tok, &counting.allocator, FOLDER, &t->err);
        if (status == DDIT_OK) status = dd_clip_bpe_encode(tok, "a caf\xC3\xA9 <|endoftext|> \xE0\xA2\x98 x", 26, 8, ids, NULL,
                                                           &t->err);
        dd_clip_bpe_close(tok);
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
    static const dd_test_case cases[] = {{"equals_transformers", equals_transformers},
                                         {"refuses_bad_prompts", refuses_bad_prompts},
                                         {"reads_built_files", reads_built_files},
                                         {"reads_token_flags", reads_token_flags},
                                         {"says_what_is_wrong", says_what_is_wrong},
                                         {"names_missing_files", names_missing_files},
                                         {"survives_damage", survives_damage},
                                         {"truncates_the_real_files", truncates_the_real_files},
                                         {"survives_missing_memory", survives_missing_memory}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
