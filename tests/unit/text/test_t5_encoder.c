#include "text/t5_encoder.h"

#include "encoder_test.h"

/* An encoder and what it lives on. */
typedef struct fixture {
    dd_backend *backend;
    dd_weight_files *files;
    dd_t5_config config;
    dd_t5_encoder *encoder;
} fixture;

static ddit_status open_files(fixture *f, const char *folder, const dd_allocator *a, ddit_err *err) {
    char path[PATH_SIZE];
    DD_TRY(dd_t5_config_read(&f->config, &dd_allocator_libc, golden_path(path, folder, "text_encoder_2/config.json"), err));
    return dd_weight_files_open(&f->files, a, golden_path(path, folder, "text_encoder_2"), err);
}

static void close_files(fixture *f) {
    dd_t5_encoder_close(f->encoder);
    dd_weight_files_close(f->files);
    f->encoder = NULL;
    f->files = NULL;
}

static void check_case(dd_test *t, fixture *f, const char *folder, int index, double bar) {
    size_t length = 0, count = 0;
    int32_t *ids = load_golden(t, folder, index, "t5_ids", &length);
    float *expected = load_golden(t, folder, index, "t5", &count);
    DD_NEED(t, ids && expected && count == length * (size_t)f->config.d_model);
    float *embedding = malloc(count * sizeof *embedding);
    DD_NEED_OK(t, dd_t5_encoder_open(&f->encoder, f->backend, f->files, &f->config, (int)length, &t->err));
    for (int repeat = 0; repeat < 2; repeat++) { /* a second call finds the buffers used */
        DD_OK(t, dd_t5_encoder_encode(f->encoder, ids, embedding, &t->err));
        double distance = dd_test_rel_l2(embedding, expected, count);
        if (!(distance <= bar)) dd_test_fail(t, __FILE__, __LINE__, "%s case %d: %.3g > %.3g", folder, index, distance, bar);
    }
    dd_t5_encoder_close(f->encoder);
    f->encoder = NULL;
    free(embedding);
    free(expected);
    free(ids);
}

static void agrees_with_transformers(dd_test *t, const tested_backend *b) {
    fixture f = {.backend = open_backend(t, b, &dd_allocator_libc)};
    if (!f.backend) return;
    for (int m = 0; m < MODEL_COUNT; m++) {
        const char *folder = golden_models[m].folder;
        DD_NEED_OK(t, open_files(&f, folder, &dd_allocator_libc, &t->err));
        for (int i = 0; i < golden_models[m].cases; i++) check_case(t, &f, folder, i, b->bar);
        close_files(&f);
    }
    dd_backend_close(f.backend);
}

static void agrees_on_ref(dd_test *t) { agrees_with_transformers(t, &on_ref); }
static void agrees_on_cpu_f32(dd_test *t) { agrees_with_transformers(t, &on_cpu_f32); }
static void agrees_on_cpu_bf16(dd_test *t) { agrees_with_transformers(t, &on_cpu_bf16); }

/* T5's own numbers: 32 buckets, distances up to 128. First distance of each bucket from 8 on. */
static void buckets_are_those_of_t5(dd_test *t) {
    static const int first[] = {8, 12, 16, 23, 32, 46, 64, 91};
    for (int distance = 0; distance < 1000; distance++) {
        int expected = distance;
        if (distance >= 8)
            for (int i = 0; i < 8; i++)
                if (distance >= first[i]) expected = 8 + i;
        int before = dd_t5_position_bucket(-distance, 32, 128), after = dd_t5_position_bucket(distance, 32, 128);
        if (before != expected) dd_test_fail(t, __FILE__, __LINE__, "distance %d before: bucket %d", distance, before);
        if (distance > 0 && after != 16 + expected)
            dd_test_fail(t, __FILE__, __LINE__, "distance %d after: bucket %d", distance, after);
    }
    DD_CHECK(t, dd_t5_position_bucket(1000, 8, 20) == 7);
    DD_CHECK(t, dd_t5_position_bucket(-1000, 8, 20) == 3);
}

static void refuses_what_does_not_fit(dd_test *t) {
    fixture f = {.backend = open_backend(t, &on_ref, &dd_allocator_libc)};
    int32_t ids[3] = {0, 1, 0};
    float embedding[3 * 64];
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_files(&f, golden_models[0].folder, &dd_allocator_libc, &t->err));
    DD_FAILS(t, dd_t5_encoder_open(&f.encoder, f.backend, f.files, &f.config, 0, &t->err), DDIT_ERR_ARGUMENT, "0 text tokens");
    DD_NEED(t, f.encoder == NULL && f.config.d_model <= 64);
    DD_NEED_OK(t, dd_t5_encoder_open(&f.encoder, f.backend, f.files, &f.config, 3, &t->err));
    ids[2] = f.config.vocab_size;
    DD_FAILS(t, dd_t5_encoder_encode(f.encoder, ids, embedding, &t->err), DDIT_ERR_MISMATCH, "at position 2");
    dd_t5_encoder *other = NULL;
    dd_t5_config wrong = f.config;
    wrong.d_kv *= 2;
    DD_FAILS(t, dd_t5_encoder_open(&other, f.backend, f.files, &wrong, 3, &t->err), DDIT_ERR_MISMATCH, "SelfAttention.q.");
    wrong = f.config;
    wrong.relative_attention_num_buckets = 64;
    DD_FAILS(t, dd_t5_encoder_open(&other, f.backend, f.files, &wrong, 3, &t->err), DDIT_ERR_MISMATCH, "attention_bias");
    DD_CHECK(t, other == NULL);
    close_files(&f);
    dd_backend_close(f.backend);
}

/* Whichever allocation fails, the status says so and nothing stays behind. */
static void survives_failing_memory(dd_test *t) {
    for (size_t fail_at = 1;; fail_at++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        fixture f = {.backend = open_backend(t, &on_ref, &a.allocator)};
        DD_NEED(t, f.backend && fail_at < 1000);
        DD_NEED_OK(t, open_files(&f, golden_models[2].folder, &dd_allocator_libc, &t->err));
        a.fail_at = a.total + fail_at;
        ddit_status status = dd_t5_encoder_open(&f.encoder, f.backend, f.files, &f.config, 20, &t->err);
        bool reached = a.total >= a.fail_at;
        DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
        close_files(&f);
        dd_backend_close(f.backend);
        DD_CHECK(t, a.live == 0);
        if (!reached) break;
    }
}

static void counts_its_bytes(dd_test *t) {
    dd_t5_config c = {.d_model = 64, .d_kv = 16, .d_ff = 128, .num_layers = 3, .num_heads = 2,
                      .relative_attention_num_buckets = 32, .relative_attention_max_distance = 128};
    dd_part_bytes bytes = dd_t5_encoder_bytes(&c, 512, DD_DTYPE_BF16);
    DD_CHECK(t, bytes.weights == 3 * (4 * 64 * 32 + 3 * 64 * 128) * 2 + 7 * 64 * 4);
    uint64_t block = 512 * 64 * 4 + 2 * 512 * 512 * 4 + 512 * 64 * 2 + 2 * 512 * 128 * 2;
    DD_CHECK(t, bytes.activations == block + (32 * 2 + 1023 + 512 * 512) * 4);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"buckets are those of T5", buckets_are_those_of_t5},
        {"agrees with transformers on ref", agrees_on_ref},
        {"agrees with transformers on cpu, float32", agrees_on_cpu_f32},
        {"agrees with transformers on cpu, bf16", agrees_on_cpu_bf16},
        {"refuses what does not fit", refuses_what_does_not_fit},
        {"survives failing memory", survives_failing_memory},
        {"counts its bytes", counts_its_bytes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
