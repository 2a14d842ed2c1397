#include "text/clip_encoder.h"

#include "encoder_test.h"

/* An encoder and what it lives on. */
typedef struct fixture {
    dd_backend *backend;
    dd_weight_files *files;
    dd_clip_config config;
    dd_clip_encoder *encoder;
} fixture;

static ddit_status open_encoder(fixture *f, const char *folder, const dd_allocator *a, ddit_err *err) {
    char path[PATH_SIZE];
    DD_TRY(dd_clip_config_read(&f->config, &dd_allocator_libc, golden_path(path, folder, "text_encoder/config.json"), err));
    DD_TRY(dd_weight_files_open(&f->files, a, golden_path(path, folder, "text_encoder"), err));
    return dd_clip_encoder_open(&f->encoder, f->backend, f->files, &f->config, err);
}

static void close_encoder(fixture *f) {
    dd_clip_encoder_close(f->encoder);
    dd_weight_files_close(f->files);
    f->encoder = NULL;
    f->files = NULL;
}

static void check_case(dd_test *t, fixture *f, const char *folder, int index, double bar) {
    size_t ids_count = 0, pooled_count = 0;
    int32_t *ids = load_golden(t, folder, index, "clip_ids", &ids_count);
    float *expected = load_golden(t, folder, index, "pooled", &pooled_count);
    DD_NEED(t, ids && expected && (int)pooled_count == f->config.hidden_size);
    DD_CHECK(t, (int)ids_count == f->config.max_position_embeddings);
    float *pooled = malloc(pooled_count * sizeof *pooled);
    DD_OK(t, dd_clip_encoder_encode(f->encoder, ids, pooled, &t->err));
    double distance = dd_test_rel_l2(pooled, expected, pooled_count);
    if (!(distance <= bar)) dd_test_fail(t, __FILE__, __LINE__, "%s case %d: %.3g > %.3g", folder, index, distance, bar);
    free(pooled);
    free(expected);
    free(ids);
}

static void agrees_with_transformers(dd_test *t, const tested_backend *b) {
    fixture f = {.backend = open_backend(t, b, &dd_allocator_libc)};
    if (!f.backend) return;
    for (int m = 0; m < MODEL_COUNT; m++) {
        DD_OK(t, open_encoder(&f, golden_models[m].folder, &dd_allocator_libc, &t->err));
        for (int i = 0; f.encoder && i < golden_models[m].cases; i++) check_case(t, &f, golden_models[m].folder, i, b->bar);
        close_encoder(&f);
    }
    dd_backend_close(f.backend);
}

static void agrees_on_ref(dd_test *t) { agrees_with_transformers(t, &on_ref); }
static void agrees_on_cpu_f32(dd_test *t) { agrees_with_transformers(t, &on_cpu_f32); }
static void agrees_on_cpu_bf16(dd_test *t) { agrees_with_transformers(t, &on_cpu_bf16); }

/* What lies after the end of the text, and the text of an earlier call, must not show. */
static void ignores_what_follows_the_end(dd_test *t) {
    fixture f = {.backend = open_backend(t, &on_ref, &dd_allocator_libc)};
    size_t n = 0;
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_encoder(&f, golden_models[0].folder, &dd_allocator_libc, &t->err));
    int32_t *ids = load_golden(t, golden_models[0].folder, 0, "clip_ids", &n);
    float first[64], second[64];
    DD_NEED(t, ids && f.config.hidden_size <= 64);
    DD_OK(t, dd_clip_encoder_encode(f.encoder, ids, first, &t->err));
    size_t end = 0;
    while (ids[end] != f.config.eos_token_id) end++;
    for (size_t i = end + 1; i < n; i++) ids[i] = (int32_t)(i % 7);
    DD_OK(t, dd_clip_encoder_encode(f.encoder, ids, second, &t->err));
    DD_CHECK(t, memcmp(first, second, (size_t)f.config.hidden_size * sizeof(float)) == 0);
    for (size_t i = 1; i < n; i++) ids[i] = 3; /* no end at all: position 0 is pooled */
    DD_OK(t, dd_clip_encoder_encode(f.encoder, ids, first, &t->err));
    DD_CHECK(t, dd_test_rel_l2(first, second, (size_t)f.config.hidden_size) > 1e-3);
    free(ids);
    close_encoder(&f);
    dd_backend_close(f.backend);
}

static void refuses_what_does_not_fit(dd_test *t) {
    fixture f = {.backend = open_backend(t, &on_ref, &dd_allocator_libc)};
    int32_t ids[77] = {0};
    float pooled[64];
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_encoder(&f, golden_models[0].folder, &dd_allocator_libc, &t->err));
    ids[4] = f.config.vocab_size;
    ids[9] = f.config.eos_token_id;
    DD_FAILS(t, dd_clip_encoder_encode(f.encoder, ids, pooled, &t->err), DDIT_ERR_MISMATCH, "at position 4");
    ids[4] = -1;
    DD_FAILS(t, dd_clip_encoder_encode(f.encoder, ids, pooled, &t->err), DDIT_ERR_MISMATCH, "token id -1");
    dd_clip_encoder *other = NULL;
    dd_clip_config wrong = f.config;
    wrong.intermediate_size *= 2;
    DD_FAILS(t, dd_clip_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH, "mlp.fc1");
    wrong = f.config;
    wrong.num_hidden_layers++;
    DD_FAILS(t, dd_clip_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH, "encoder.layers.2.");
    DD_CHECK(t, other == NULL);
    close_encoder(&f);
    dd_backend_close(f.backend);
}

/* Whichever allocation fails, the status says so and nothing stays behind. */
static void survives_failing_memory(dd_test *t) {
    for (size_t fail_at = 1;; fail_at++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        fixture f = {.backend = open_backend(t, &on_ref, &a.allocator)};
        DD_NEED(t, f.backend && fail_at < 1000);
        a.fail_at = a.total + fail_at;
        ddit_status status = open_encoder(&f, golden_models[2].folder, &a.allocator, &t->err);
        bool reached = a.total >= a.fail_at;
        DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
        close_encoder(&f);
        dd_backend_close(f.backend);
        DD_CHECK(t, a.live == 0);
        if (!reached) break;
    }
}

static void counts_its_bytes(dd_test *t) {
    dd_clip_config c = {.vocab_size = 100, .hidden_size = 64, .intermediate_size = 256, .num_hidden_layers = 2,
                        .num_attention_heads = 4, .max_position_embeddings = 77, .head_dim = 16};
    dd_part_bytes bytes = dd_clip_encoder_bytes(&c, DD_DTYPE_BF16);
    uint64_t matrices = 4 * 64 * 64 + 2 * 64 * 256, biases = 4 * 64 + 256 + 64;
    DD_CHECK(t, bytes.weights == 2 * (matrices * 2 + biases * 4) + 5 * 2 * 64 * 4);
    /* residual F32, normed rows, the larger of q k v and MLP; embeddings of tokens and positions on the host */
    DD_CHECK(t, bytes.activations == 77 * 64 * 4 + 77 * 64 * 2 + 77 * 256 * 2 + 2 * 77 * 64 * 4);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"agrees with transformers on ref", agrees_on_ref},
        {"agrees with transformers on cpu, float32", agrees_on_cpu_f32},
        {"agrees with transformers on cpu, bf16", agrees_on_cpu_bf16},
        {"ignores what follows the end of the text", ignores_what_follows_the_end},
        {"refuses what does not fit", refuses_what_does_not_fit},
        {"survives failing memory", survives_failing_memory},
        {"counts its bytes", counts_its_bytes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
