/* The encoder: its weights and its forward pass. */
#include "vae/flux_vae.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "vae/flux_vae_pass.h"

enum { DIM_MOMENTS, DIM_DEEPEST, DIM_FINEST, DIM_PICTURE };

static const dd_weight_field encoder_fields[] = {
    {"conv_in", DD_FIELD_CONV, offsetof(dd_flux_vae_encoder, conv_in), DIM_FINEST, DIM_PICTURE, 3, true},
    {"conv_norm_out", DD_FIELD_NORM, offsetof(dd_flux_vae_encoder, norm_out), DIM_DEEPEST, 0, 0, true},
    {"conv_out", DD_FIELD_CONV, offsetof(dd_flux_vae_encoder, conv_out), DIM_MOMENTS, DIM_DEEPEST, 3, true},
};

static const dd_weight_field downsample_fields[] = {{"downsamplers.0.conv", DD_FIELD_CONV, 0, 0, 0, 3, true}};

/* ------------------------------------------------------------------------------------------------ weights */

static ddit_status walk_level(dd_flux_vae_encoder *e, const dd_vae_config *c, int level, dd_weight_loader *l, ddit_err *err) {
    char prefix[64];
    int64_t channels = c->block_out_channels[level];
    for (int i = 0; i < c->layers_per_block; i++) {
        int64_t in = i == 0 && level > 0 ? c->block_out_channels[level - 1] : channels;
        snprintf(prefix, sizeof prefix, "encoder.down_blocks.%d.resnets.%d.", level, i);
        DD_TRY(dd_vae_walk_resnet(l, e ? &e->down[level * c->layers_per_block + i] : NULL, in, channels, prefix, err));
    }
    if (level == c->level_count - 1) return DDIT_OK;
    snprintf(prefix, sizeof prefix, "encoder.down_blocks.%d.", level);
    return dd_weight_table_walk(l, downsample_fields, 1, e ? &e->downsample[level] : NULL, &channels, prefix, err);
}

/* e may be NULL when the loader counts. */
static ddit_status walk_weights(dd_flux_vae_encoder *e, const dd_vae_config *c, dd_weight_loader *l, ddit_err *err) {
    const int64_t dims[] = {[DIM_MOMENTS] = 2 * (int64_t)c->latent_channels, [DIM_DEEPEST] = vae_level_channels(c, 0),
                            [DIM_FINEST] = c->block_out_channels[0], [DIM_PICTURE] = c->in_channels};
    DD_TRY(dd_weight_table_walk(l, encoder_fields, sizeof encoder_fields / sizeof *encoder_fields, e, dims, "encoder.", err));
    for (int level = 0; level < c->level_count; level++) DD_TRY(walk_level(e, c, level, l, err));
    return dd_vae_walk_mid(l, e ? &e->mid : NULL, c, "encoder", err);
}

static ddit_status load_weights(dd_flux_vae_encoder *e, const dd_weight_files *files, ddit_err *err) {
    const dd_vae_config *c = &e->config;
    size_t resnets = (size_t)c->level_count * (size_t)c->layers_per_block;
    DD_TRY(dd_alloc(e->backend->allocator, &e->down, resnets, sizeof *e->down, "the encoder's blocks", err));
    DD_TRY(walk_weights(NULL, c, &e->loader, err));
    DD_TRY(dd_weight_loader_begin(&e->loader, e->backend, files, err));
    DD_TRY(walk_weights(e, c, &e->loader, err));
    dd_weight_loader_loaded(&e->loader);
    return DDIT_OK;
}

ddit_status dd_flux_vae_encoder_open(dd_flux_vae_encoder **out, dd_backend *backend, const dd_weight_files *files,
                                     const dd_vae_config *config, ddit_err *err) {
    dd_flux_vae_encoder *e;
    *out = NULL;
    if (config->in_channels != VAE_PICTURE_CHANNELS)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the autoencoder reads %d channels, only pictures of %d (RGB) are supported",
                       config->in_channels, VAE_PICTURE_CHANNELS);
    if (config->use_quant_conv)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the autoencoder has use_quant_conv true, expected false as in FLUX: the "
                       "convolution after the encoder is not supported, so pictures cannot be encoded");
    DD_TRY(dd_alloc(backend->allocator, &e, 1, sizeof *e, "the encoder", err));
    e->backend = backend;
    e->config = *config;
    e->loader = (dd_weight_loader){.pass = DD_PASS_COUNT, .backend = backend, .activation = backend->activation};
    ddit_status status = load_weights(e, files, err);
    if (status == DDIT_OK) *out = e;
    else dd_flux_vae_encoder_close(e);
    return status;
}

void dd_flux_vae_encoder_close(dd_flux_vae_encoder *e) {
    if (!e) return;
    const dd_allocator *a = e->backend->allocator;
    e->loader.pass = DD_PASS_FREE;
    if (e->down) walk_weights(e, &e->config, &e->loader, NULL);
    dd_weight_loader_deinit(&e->loader);
    dd_free(a, e->down);
    dd_free(a, e);
}

/* ------------------------------------------------------------------------------------------------ the pass */

/* Rows of pixels: x / 127.5 - 1 as diffusers rounds it, to the backend's activations, a stripe at a time. */
static ddit_status upload_picture(dd_backend *backend, const dd_tensor *x, const uint8_t *rgb, ddit_err *err) {
    uint64_t values = (uint64_t)x->shape[0] * VAE_PICTURE_CHANNELS;
    uint64_t stripe = vae_stripe_pixels(x->shape[0]) * VAE_PICTURE_CHANNELS;
    size_t size = x->dtype == DD_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    void *host;
    DD_TRY(dd_alloc_raw(backend->allocator, &host, (size_t)stripe, size, "a stripe of the picture", err));
    ddit_status status = DDIT_OK;
    for (uint64_t begin = 0; begin < values; begin += stripe) {
        uint64_t count = values - begin < stripe ? values - begin : stripe;
        for (uint64_t i = 0; i < count; i++) {
            float value = 2.0f * ((float)rgb[begin + i] / 255.0f) - 1.0f;
            if (x->dtype == DD_DTYPE_F32) ((float *)host)[i] = value;
            else ((uint16_t *)host)[i] = dd_bf16_from_f32(value);
        }
        DD_GO(dd_op_upload(backend, (uint8_t *)x->data + begin * size, host, (size_t)count * size, err));
    }
done:
    dd_free(backend->allocator, host);
    return status;
}

static ddit_status enter(dd_vae_pass *p, const dd_flux_vae_encoder *e, const uint8_t *rgb, ddit_err *err) {
    int64_t channels = p->config->block_out_channels[0];
    dd_tensor x = dd_vae_rows(p, 0, VAE_PICTURE_CHANNELS), y = dd_vae_rows(p, 1, channels);
    dd_vae_turn(p, 1, channels);
    if (!p->backend) return DDIT_OK;
    DD_TRY(upload_picture(p->backend, &x, rgb, err));
    return dd_vae_conv(p, y, x, e->conv_in, NULL, err);
}

static ddit_status downsample(dd_vae_pass *p, const dd_weight *w, ddit_err *err) {
    int64_t height = p->height, width = p->width, channels = p->channels;
    dd_tensor x = dd_vae_rows(p, 0, channels);
    p->height /= 2;
    p->width /= 2;
    dd_tensor y = dd_vae_rows(p, 1, channels);
    dd_vae_turn(p, 1, channels);
    if (!p->backend) return DDIT_OK;
    return dd_op_conv2d(p->backend, &(dd_conv2d_args){.y = y, .x = x, .height = height, .width = width, .w = w, .stride = 2},
                        err);
}

static ddit_status down_block(dd_vae_pass *p, const dd_flux_vae_encoder *e, int level, ddit_err *err) {
    int count = p->config->layers_per_block;
    for (int i = 0; i < count; i++)
        DD_TRY(dd_vae_resnet(p, e ? &e->down[level * count + i] : NULL, p->config->block_out_channels[level], err));
    if (level == p->config->level_count - 1) return DDIT_OK;
    return downsample(p, e ? e->downsample[level] : NULL, err);
}

/* moments = conv_out(SiLU(gn(x))), float32, [pixels, 2 C]: means, then log variances. e and rgb are NULL when only sizes are
 * wanted. */
static ddit_status forward(dd_vae_pass *p, const dd_flux_vae_encoder *e, const uint8_t *rgb, dd_tensor *moments,
                           ddit_err *err) {
    DD_TRY(enter(p, e, rgb, err));
    for (int level = 0; level < p->config->level_count; level++) DD_TRY(down_block(p, e, level, err));
    DD_TRY(dd_vae_mid(p, e ? &e->mid : NULL, err));
    dd_tensor x = dd_vae_rows(p, 0, p->channels);
    *moments = dd_vae_place(p, (p->current + 1) % VAE_BUFFERS, 0, DD_DTYPE_F32, 2 * (int64_t)p->config->latent_channels);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_vae_group_norm(p, x, x, &e->norm_out, DD_ACTIVATION_SILU, err));
    return dd_vae_conv(p, *moments, x, e->conv_out, NULL, err);
}

static bool measure(dd_vae_pass *dry, uint64_t *total) {
    dd_tensor moments;
    if (dry->height <= 0 || dry->width <= 0 || dry->height > INT32_MAX || dry->width > INT32_MAX) return false;
    forward(dry, NULL, NULL, &moments, NULL);
    return dd_vae_pass_total(dry, total);
}

static uint64_t host_values(const dd_vae_config *c, int64_t height, int64_t width) {
    return (uint64_t)(height / c->scale) * (uint64_t)(width / c->scale) * 2 * (uint64_t)c->latent_channels;
}

dd_part_bytes dd_flux_vae_encoder_bytes(const dd_vae_config *config, int64_t height, int64_t width, dd_dtype activation) {
    dd_weight_loader l = {.pass = DD_PASS_COUNT, .activation = activation};
    dd_vae_pass dry = {.config = config, .act = activation, .height = height, .width = width};
    uint64_t bytes;
    walk_weights(NULL, config, &l, NULL);
    bool fits = measure(&dry, &bytes);
    /* a stripe of the picture before, the moments after */
    uint64_t stripe = fits ? vae_stripe_pixels(height * width) * VAE_PICTURE_CHANNELS * sizeof(float) : 0;
    uint64_t host = fits ? host_values(config, height, width) * sizeof(float) : 0;
    if (stripe > host) host = stripe;
    return (dd_part_bytes){.weights = l.matrix_bytes + l.vector_bytes, .activations = fits ? bytes + host : UINT64_MAX};
}

/* Means of [pixels, 2 C] to [C, pixels] in model units. */
static ddit_status fetch_latent(const dd_flux_vae_encoder *e, const dd_tensor *moments, float *latent, ddit_err *err) {
    const dd_vae_config *c = &e->config;
    int64_t pixels = moments->shape[0], columns = moments->shape[1];
    size_t values = (size_t)pixels * (size_t)columns;
    float *host;
    DD_TRY(dd_alloc_raw(e->backend->allocator, &host, values, sizeof(float), "the encoder's result", err));
    ddit_status status = dd_op_download(e->backend, host, moments->data, values * sizeof(float), err);
    for (int64_t k = 0; status == DDIT_OK && k < c->latent_channels; k++)
        for (int64_t i = 0; i < pixels; i++)
            latent[k * pixels + i] = (host[i * columns + k] - c->shift_factor) * c->scaling_factor;
    dd_free(e->backend->allocator, host);
    return status;
}

ddit_status dd_flux_vae_encode(dd_flux_vae_encoder *e, const uint8_t *rgb, int64_t height, int64_t width, float *latent,
                               ddit_err *err) {
    int scale = e->config.scale;
    dd_vae_pass p = {.config = &e->config, .act = e->backend->activation, .height = height, .width = width};
    dd_vae_pass dry = p;
    uint64_t total;
    if (height <= 0 || width <= 0 || height % scale || width % scale)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "a picture of %" PRId64 " x %" PRId64 " cannot be encoded, expected multiples of %d",
                       width, height, scale);
    if (!measure(&dry, &total))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "a picture of %" PRId64 " x %" PRId64 " is too large to encode", width, height);
    void *memory;
    dd_tensor moments;
    p.backend = e->backend;
    DD_TRY(dd_vae_pass_begin(&p, &dry, "the encoder's activations", &memory, err));
    ddit_status status = forward(&p, e, rgb, &moments, err);
    if (status == DDIT_OK) status = fetch_latent(e, &moments, latent, err);
    dd_op_free(e->backend, memory);
    return status;
}
