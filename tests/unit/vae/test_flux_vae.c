#include "vae/flux_vae.h"

#include "backend/registry.h"
#include "harness.h"

enum { PATH_SIZE = 256 };

/* Tiny pipelines with what diffusers computes in float32 (tools/make_tiny_models.py). */
typedef struct golden_model {
    const char *folder;
    int cases;
} golden_model;

static const golden_model golden_models[] = {
    {"tests/golden/flux_head32", 3}, {"tests/golden/flux_head64", 3}, {"tests/golden/flux_head128", 2}};

enum { MODEL_COUNT = sizeof golden_models / sizeof *golden_models };

/* A decoder and what it lives on. */
typedef struct fixture {
    dd_backend *backend;
    dd_weight_files *files;
    dd_vae_config config;
    dd_flux_vae *vae;
} fixture;

static ddit_status open_decoder(fixture *f, const char *folder, const dd_allocator *a, ddit_err *err) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/vae/config.json", folder);
    DD_TRY(dd_vae_config_read(&f->config, &dd_allocator_libc, path, err));
    snprintf(path, sizeof path, "%s/vae", folder);
    DD_TRY(dd_weight_files_open(&f->files, &dd_allocator_libc, path, err));
    f->backend->allocator = a;
    return dd_flux_vae_open(&f->vae, f->backend, f->files, &f->config, err);
}

static void close_decoder(fixture *f) {
    dd_flux_vae_close(f->vae);
    dd_weight_files_close(f->files);
    f->vae = NULL;
    f->files = NULL;
}

/* NULL, and the case is skipped or failed, if the backend does not open. */
static dd_backend *open_backend(dd_test *t, const char *name, dd_precision precision) {
    dd_backend *backend = NULL;
    ddit_status status = dd_backend_open(&backend, name, precision, 2, &dd_allocator_libc, &t->err);
    if (status == DDIT_ERR_UNSUPPORTED) dd_test_skip(t, "%s", t->err.text);
    else if (status != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s", t->err.text);
    return backend;
}

/* Decodes a [C, h, w] latent in host memory. */
static ddit_status decode(fixture *f, const float *latent, int64_t h, int64_t w, uint8_t *rgb, ddit_err *err) {
    size_t bytes = (size_t)(f->config.latent_channels * h * w) * sizeof(float);
    void *memory;
    DD_TRY(dd_op_alloc(f->backend, &memory, bytes, "a latent", err));
    ddit_status status = dd_op_upload(f->backend, memory, latent, bytes, err);
    dd_tensor z = dd_tensor_3d(memory, DD_DTYPE_F32, f->config.latent_channels, h, w);
    if (status == DDIT_OK) status = dd_flux_vae_decode(f->vae, &z, rgb, err);
    dd_op_free(f->backend, memory);
    return status;
}

typedef struct distance {
    int largest;
    double psnr;
} distance;

static distance compare(const uint8_t *a, const uint8_t *b, size_t n) {
    distance d = {0, 0};
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        int difference = abs(a[i] - b[i]);
        if (difference > d.largest) d.largest = difference;
        sum += (double)difference * difference;
    }
    d.psnr = sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : INFINITY;
    return d;
}

/* float32: no value off by more than 1. bf16: at least 48 dB; diffusers' own bf16 has 51.0 to 53.3 dB on these cases. */
static void check_case(dd_test *t, fixture *f, const char *folder, int index) {
    char path[PATH_SIZE];
    dd_safetensors *golden;
    snprintf(path, sizeof path, "%s/case_%d.safetensors", folder, index);
    DD_NEED_OK(t, dd_safetensors_open(&golden, &dd_allocator_libc, path, &t->err));
    const dd_tensor_entry *latent = dd_safetensors_find(golden, "latent"), *image = dd_safetensors_find(golden, "image");
    DD_NEED(t, latent && image && latent->shape[0] == f->config.latent_channels);
    DD_CHECK(t, image->shape[0] == latent->shape[1] * f->config.scale && image->shape[1] == latent->shape[2] * f->config.scale);
    uint8_t *rgb = malloc(image->bytes);
    float *values = malloc(latent->count * sizeof *values);
    DD_OK(t, dd_tensor_entry_to_f32(latent, values, &t->err));
    DD_OK(t, decode(f, values, latent->shape[1], latent->shape[2], rgb, &t->err));
    distance d = compare(rgb, image->data, image->bytes);
    bool fits = f->backend->activation == DD_DTYPE_F32 ? d.largest <= 1 : d.psnr >= 48;
    if (!fits) dd_test_fail(t, __FILE__, __LINE__, "%s: a value is off by %d, PSNR %.1f dB", path, d.largest, d.psnr);
    free(values);
    free(rgb);
    dd_safetensors_close(golden);
}

static void agrees_with_diffusers(dd_test *t, const char *name, dd_precision precision) {
    fixture f = {.backend = open_backend(t, name, precision)};
    if (!f.backend) return;
    for (int m = 0; m < MODEL_COUNT; m++) {
        DD_OK(t, open_decoder(&f, golden_models[m].folder, &dd_allocator_libc, &t->err));
        for (int i = 0; f.vae && i < golden_models[m].cases; i++) check_case(t, &f, golden_models[m].folder, i);
        close_decoder(&f);
    }
    dd_backend_close(f.backend);
}

static void agrees_on_ref(dd_test *t) { agrees_with_diffusers(t, "ref", DD_PRECISION_F32); }
static void agrees_on_cpu_f32(dd_test *t) { agrees_with_diffusers(t, "cpu", DD_PRECISION_F32); }
static void agrees_on_cpu_bf16(dd_test *t) { agrees_with_diffusers(t, "cpu", DD_PRECISION_BF16); }

/* Without attention in the middle, and a latent of one pixel: other weights, other places in the buffers. */
static void decodes_other_shapes(dd_test *t) {
    fixture f = {.backend = open_backend(t, "ref", DD_PRECISION_F32)};
    float latent[16];
    uint8_t with[8 * 8 * 3], without[8 * 8 * 3];
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_decoder(&f, golden_models[1].folder, &dd_allocator_libc, &t->err));
    for (int i = 0; i < 16; i++) latent[i] = 0.1f * (float)(i - 8);
    DD_OK(t, decode(&f, latent, 1, 1, with, &t->err));
    dd_flux_vae_close(f.vae);
    f.config.mid_block_add_attention = false;
    DD_NEED_OK(t, dd_flux_vae_open(&f.vae, f.backend, f.files, &f.config, &t->err));
    DD_OK(t, decode(&f, latent, 1, 1, without, &t->err));
    DD_CHECK(t, memcmp(with, without, sizeof with) != 0);
    latent[3] = NAN; /* reaches every pixel through the norms; must not reach a conversion to integer */
    DD_OK(t, decode(&f, latent, 1, 1, without, &t->err));
    DD_CHECK(t, without[0] == 0 && without[8 * 8 * 3 - 1] == 0);
    close_decoder(&f);
    dd_backend_close(f.backend);
}

static void refuses_what_does_not_fit(dd_test *t) {
    fixture f = {.backend = open_backend(t, "ref", DD_PRECISION_F32)};
    float latent[16] = {0};
    DD_NEED(t, f.backend);
    DD_NEED_OK(t, open_decoder(&f, golden_models[0].folder, &dd_allocator_libc, &t->err));
    dd_tensor z = dd_tensor_3d(latent, DD_DTYPE_F32, 4, 2, 2);
    DD_FAILS(t, dd_flux_vae_decode(f.vae, &z, NULL, &t->err), DDIT_ERR_ARGUMENT, "[4, 2, 2]");
    z = dd_tensor_3d(latent, DD_DTYPE_F32, 16, 0, 2);
    DD_FAILS(t, dd_flux_vae_decode(f.vae, &z, NULL, &t->err), DDIT_ERR_ARGUMENT, "[16, 0, 2]");
    z = dd_tensor_3d(latent, DD_DTYPE_F32, 16, INT32_MAX, INT32_MAX);
    DD_FAILS(t, dd_flux_vae_decode(f.vae, &z, NULL, &t->err), DDIT_ERR_ARGUMENT, "too large");
    z = dd_tensor_3d(latent, DD_DTYPE_F32, 16, INT64_MAX / 2, 1);
    DD_FAILS(t, dd_flux_vae_decode(f.vae, &z, NULL, &t->err), DDIT_ERR_ARGUMENT, "too large");
    DD_CHECK(t, dd_flux_vae_bytes(&f.config, INT32_MAX, INT32_MAX, DD_DTYPE_F32).activations == UINT64_MAX);
    dd_flux_vae *other = NULL;
    dd_vae_config wrong = f.config;
    wrong.block_out_channels[0] *= 2;
    DD_FAILS(t, dd_flux_vae_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH, "decoder.conv_norm_out");
    wrong = f.config;
    wrong.layers_per_block++;
    DD_FAILS(t, dd_flux_vae_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_MISMATCH, "up_blocks.0.resnets.");
    wrong = f.config;
    wrong.out_channels = 4;
    DD_FAILS(t, dd_flux_vae_open(&other, f.backend, f.files, &wrong, &t->err), DDIT_ERR_UNSUPPORTED, "4 channels");
    DD_CHECK(t, other == NULL);
    close_decoder(&f);
    dd_backend_close(f.backend);
}

/* Whichever allocation fails, in open or in decode, the status says so and nothing stays behind. */
static void survives_failing_memory(dd_test *t) {
    static const float latent[16] = {0.5f};
    uint8_t rgb[8 * 8 * 3];
    for (size_t fail_at = 1;; fail_at++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        fixture f = {0};
        DD_NEED_OK(t, dd_backend_open(&f.backend, "ref", DD_PRECISION_F32, 1, &a.allocator, &t->err));
        a.fail_at = a.total + fail_at;
        ddit_status status = open_decoder(&f, golden_models[2].folder, &a.allocator, &t->err);
        if (status == DDIT_OK) status = decode(&f, latent, 1, 1, rgb, &t->err);
        bool reached = a.total >= a.fail_at;
        DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
        close_decoder(&f);
        dd_backend_close(f.backend);
        DD_CHECK(t, a.live == 0);
        if (!reached || fail_at > 5000) break;
    }
}

/* FLUX at 1024 x 1024, by hand: the last doubling has 256 channels before and after its convolution; the level after it needs a
 * third buffer for the 128 channels of its first resnet's second intermediate. Then the stripe on the host. */
static void counts_its_bytes(dd_test *t) {
    dd_vae_config c = {.in_channels = 3, .out_channels = 3, .latent_channels = 16, .level_count = 4,
                       .block_out_channels = {128, 256, 512, 512}, .layers_per_block = 2, .norm_num_groups = 32,
                       .scaling_factor = 0.3611f, .shift_factor = 0.1159f, .mid_block_add_attention = true, .scale = 8};
    dd_part_bytes bytes = dd_flux_vae_bytes(&c, 128, 128, DD_DTYPE_BF16);
    uint64_t plane = 1024 * 1024 * 2, parameters = 49545475; /* of diffusers' decoder */
    DD_CHECK(t, bytes.activations == plane * (256 + 256 + 128) + 65536 * 3 * 4);
    DD_CHECK(t, bytes.weights > parameters * 2 && bytes.weights < parameters * 2 + 128 * 1024);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"agrees with diffusers on ref", agrees_on_ref},
        {"agrees with diffusers on cpu, float32", agrees_on_cpu_f32},
        {"agrees with diffusers on cpu, bf16", agrees_on_cpu_bf16},
        {"decodes other shapes", decodes_other_shapes},
        {"refuses what does not fit", refuses_what_does_not_fit},
        {"survives failing memory", survives_failing_memory},
        {"counts its bytes", counts_its_bytes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
