#include "backend/registry.h"
#include "harness.h"
#include "vae/flux_vae.h"

enum { PATH_SIZE = 256, LARGE = 512 };

/* Model folders with what diffusers computes in float32 (tools/make_vae_goldens.py). */
typedef struct golden {
    const char *name, *folder;
} golden;

static const golden goldens[] = {{"tiny", "tests/golden/vae"}, {"emoji", "models/emoji"}};

enum { GOLDENS = sizeof goldens / sizeof *goldens };

/* An encoder and what it lives on. */
typedef struct fixture {
    dd_backend *backend;
    dd_weight_files *files;
    dd_vae_config config;
    dd_flux_vae_encoder *encoder;
} fixture;

static ddit_status open_encoder(fixture *f, const char *folder, const dd_allocator *a, ddit_err *err) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/vae/config.json", folder);
    DD_TRY(dd_vae_config_read(&f->config, &dd_allocator_libc, path, err));
    snprintf(path, sizeof path, "%s/vae", folder);
    DD_TRY(dd_weight_files_open(&f->files, &dd_allocator_libc, path, err));
    f->backend->allocator = a;
    return dd_flux_vae_encoder_open(&f->encoder, f->backend, f->files, &f->config, err);
}

static void close_encoder(fixture *f) {
    dd_flux_vae_encoder_close(f->encoder);
    dd_weight_files_close(f->files);
    f->encoder = NULL;
    f->files = NULL;
}

/* NULL, and the case is skipped or failed, if the backend does not open. */
static dd_backend *open_backend(dd_test *t, const char *name, dd_precision precision, int threads) {
    dd_backend *backend = NULL;
    ddit_status status = dd_backend_open(&backend, name, precision, threads, &dd_allocator_libc, &t->err);
    if (status == DDIT_ERR_UNSUPPORTED) dd_test_skip(t, "%s", t->err.text);
    else if (status != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s", t->err.text);
    return backend;
}

static void check_golden(dd_test *t, fixture *f, const char *name, double bound) {
    char path[PATH_SIZE];
    dd_safetensors *file;
    snprintf(path, sizeof path, "tests/golden/vae/%s.safetensors", name);
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    const dd_tensor_entry *rgb = dd_safetensors_find(file, "rgb"), *mean = dd_safetensors_find(file, "mean");
    DD_NEED(t, rgb && mean && mean->shape[0] == f->config.latent_channels);
    DD_NEED(t, rgb->shape[0] == mean->shape[1] * f->config.scale && rgb->shape[1] == mean->shape[2] * f->config.scale);
    float *expected = malloc(mean->count * sizeof(float)), *found = malloc(mean->count * sizeof(float));
    DD_OK(t, dd_tensor_entry_to_f32(mean, expected, &t->err));
    DD_OK(t, dd_flux_vae_encode(f->encoder, rgb->data, rgb->shape[0], rgb->shape[1], found, &t->err));
    double error = dd_test_rel_l2(found, expected, mean->count);
    if (!(error <= bound)) dd_test_fail(t, __FILE__, __LINE__, "%s: relative error %.2e, expected %.0e", name, error, bound);
    free(expected);
    free(found);
    dd_safetensors_close(file);
}

static void agrees(dd_test *t, const char *name, dd_precision precision, double bound) {
    fixture f = {.backend = open_backend(t, name, precision, 2)};
    if (!f.backend) return;
    for (int i = 0; i < GOLDENS; i++) {
        DD_OK(t, open_encoder(&f, goldens[i].folder, &dd_allocator_libc, &t->err));
        if (f.encoder) check_golden(t, &f, goldens[i].name, bound);
        close_encoder(&f);
    }
    dd_backend_close(f.backend);
}

/* bf16: diffusers' own bf16 is off by 0.012 (tiny) and 0.003 (emoji). */
static void agrees_on_ref(dd_test *t) { agrees(t, "ref", DD_PRECISION_F32, 2e-6); }
static void agrees_on_cpu_f32(dd_test *t) { agrees(t, "cpu", DD_PRECISION_F32, 1e-5); }
static void agrees_on_cpu_bf16(dd_test *t) { agrees(t, "cpu", DD_PRECISION_BF16, 0.02); }

static uint8_t *random_picture(size_t values) {
    uint8_t *rgb = malloc(values);
    uint64_t state = 3;
    for (size_t i = 0; i < values; i++) rgb[i] = (uint8_t)dd_test_random_u32(&state);
    return rgb;
}

/* More pixels than one stripe holds, on one thread and on several: the same bytes. */
static void large_pictures_do_not_depend_on_threads(dd_test *t) {
    enum { VALUES = LARGE / 4 * LARGE / 4 * 5 };
    uint8_t *rgb = random_picture(LARGE * LARGE * 3);
    float *latents[2];
    for (int i = 0; i < 2; i++) {
        fixture f = {.backend = open_backend(t, "cpu", DD_PRECISION_F32, i ? 3 : 1)};
        DD_NEED(t, f.backend);
        DD_NEED_OK(t, open_encoder(&f, goldens[0].folder, &dd_allocator_libc, &t->err));
        latents[i] = calloc(VALUES, sizeof(float));
        DD_OK(t, dd_flux_vae_encode(f.encoder, rgb, LARGE, LARGE, latents[i], &t->err));
        close_encoder(&f);
        dd_backend_close(f.backend);
    }
    DD_CHECK(t, memcmp(latents[0], latents[1], VALUES * sizeof(float)) == 0);
    DD_CHECK(t, isfinite(latents[0][VALUES - 1]) && latents[0][VALUES - 1] != 0);
    free(latents[0]);
    free(latents[1]);
    free(rgb);
}

/* Without attention in the middle: other weights, another place in the buffers. */
static void works_without_attention(dd_test *t) {
    fixture f = {.backend = open_backend(t, "ref", DD_PRECISION_F32, 1)};
    float with[20], without[20];
    uint8_t *rgb = random_picture(8 * 8 * 3);
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_encoder(&f, goldens[0].folder, &dd_allocator_libc, &t->err));
    DD_OK(t, dd_flux_vae_encode(f.encoder, rgb, 8, 8, with, &t->err));
    dd_flux_vae_encoder_close(f.encoder);
    f.config.mid_block_add_attention = false;
    DD_NEED_OK(t, dd_flux_vae_encoder_open(&f.encoder, f.backend, f.files, &f.config, &t->err));
    DD_OK(t, dd_flux_vae_encode(f.encoder, rgb, 8, 8, without, &t->err));
    DD_CHECK(t, memcmp(with, without, sizeof with) != 0 && isfinite(without[0]));
    free(rgb);
    close_encoder(&f);
    dd_backend_close(f.backend);
}

static void refuses_what_does_not_fit(dd_test *t) {
    fixture f = {.backend = open_backend(t, "ref", DD_PRECISION_F32, 1)};
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_encoder(&f, goldens[0].folder, &dd_allocator_libc, &t->err));
    DD_FAILS(t, dd_flux_vae_encode(f.encoder, NULL, 10, 8, NULL, &t->err), DDIT_ERR_ARGUMENT,
             "a picture of 8 x 10 cannot be encoded, expected multiples of 4");
    DD_FAILS(t, dd_flux_vae_encode(f.encoder, NULL, 0, 8, NULL, &t->err), DDIT_ERR_ARGUMENT, "8 x 0");
    DD_FAILS(t, dd_flux_vae_encode(f.encoder, NULL, -8, 8, NULL, &t->err), DDIT_ERR_ARGUMENT, "8 x -8");
    DD_FAILS(t, dd_flux_vae_encode(f.encoder, NULL, INT32_MAX - 7, INT32_MAX - 7, NULL, &t->err), DDIT_ERR_ARGUMENT,
             "too large");
    DD_FAILS(t, dd_flux_vae_encode(f.encoder, NULL, (int64_t)1 << 40, 8, NULL, &t->err), DDIT_ERR_ARGUMENT, "too large");
    DD_CHECK(t, dd_flux_vae_encoder_bytes(&f.config, (int64_t)1 << 40, 8, DD_DTYPE_F32).activations == UINT64_MAX);
    dd_flux_vae_encoder *other = NULL;
    dd_vae_config wrong = f.config;
    wrong.use_quant_conv = true;
    DD_FAILS(t, dd_flux_vae_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_UNSUPPORTED, "use_quant_conv");
    wrong = f.config;
    wrong.in_channels = 4;
    DD_FAILS(t, dd_flux_vae_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_UNSUPPORTED, "4 channels");
    wrong = f.config;
    wrong.latent_channels = 8;
    DD_FAILS(t, dd_flux_vae_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH, "encoder.conv_out");
    wrong = f.config;
    wrong.layers_per_block = 3;
    DD_FAILS(t, dd_flux_vae_encoder_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH,
             "down_blocks.0.resnets.2");
    DD_CHECK(t, other == NULL);
    close_encoder(&f);
    dd_backend_close(f.backend);
}

/* Whichever allocation fails, in open or in encode, the status says so and nothing stays behind. */
static void survives_failing_memory(dd_test *t) {
    uint8_t *rgb = random_picture(8 * 8 * 3);
    float latent[20];
    for (size_t fail_at = 1;; fail_at++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        fixture f = {0};
        DD_NEED_OK(t, dd_backend_open(&f.backend, "ref", DD_PRECISION_F32, 1, &a.allocator, &t->err));
        a.fail_at = a.total + fail_at;
        ddit_status status = open_encoder(&f, goldens[0].folder, &a.allocator, &t->err);
        if (status == DDIT_OK) status = dd_flux_vae_encode(f.encoder, rgb, 8, 8, latent, &t->err);
        bool reached = a.total >= a.fail_at;
        DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
        close_encoder(&f);
        dd_backend_close(f.backend);
        DD_CHECK(t, a.live == 0);
        if (!reached || fail_at > 5000) break;
    }
    free(rgb);
}

/* FLUX at 1024 x 1024, by hand: the first level holds three buffers of 128 channels; at half the size three buffers of 256 hold
 * half as much. Then a stripe of the picture on the host, or the moments, whichever is larger. */
static void counts_its_bytes(dd_test *t) {
    dd_vae_config c = {.in_channels = 3, .out_channels = 3, .latent_channels = 16, .level_count = 4,
                       .block_out_channels = {128, 256, 512, 512}, .layers_per_block = 2, .norm_num_groups = 32,
                       .scaling_factor = 0.3611f, .shift_factor = 0.1159f, .mid_block_add_attention = true, .scale = 8};
    dd_part_bytes bytes = dd_flux_vae_encoder_bytes(&c, 1024, 1024, DD_DTYPE_BF16);
    uint64_t plane = 1024 * 1024 * 2, parameters = 83819683 - 49545475; /* of diffusers' autoencoder, less its decoder */
    DD_CHECK(t, bytes.activations == plane * 3 * 128 + 128 * 128 * 32 * 4);
    DD_CHECK(t, bytes.weights > parameters * 2 && bytes.weights < parameters * 2 + 128 * 1024);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"agrees with diffusers on ref", agrees_on_ref},
        {"agrees with diffusers on cpu, float32", agrees_on_cpu_f32},
        {"agrees with diffusers on cpu, bf16", agrees_on_cpu_bf16},
        {"large pictures do not depend on threads", large_pictures_do_not_depend_on_threads},
        {"works without attention", works_without_attention},
        {"refuses what does not fit", refuses_what_does_not_fit},
        {"survives failing memory", survives_failing_memory},
        {"counts its bytes", counts_its_bytes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
