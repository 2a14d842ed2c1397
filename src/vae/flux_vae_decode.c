/* The decoder's forward pass. */
#include "vae/flux_vae.h"

#include <inttypes.h>
#include <math.h>

#include "vae/flux_vae_pass.h"

/* conv(nearest x2). The doubled value goes to the far buffer and the result to the near one, so that the next resnet finds the
 * largest buffer in the place of its first intermediate. */
static ddit_status upsample(dd_vae_pass *p, const dd_weight *w, ddit_err *err) {
    int64_t height = p->height, width = p->width, channels = p->channels;
    dd_tensor x = dd_vae_rows(p, 0, channels);
    p->height *= 2;
    p->width *= 2;
    dd_tensor large = dd_vae_rows(p, 2, channels), y = dd_vae_rows(p, 1, channels);
    dd_vae_turn(p, 1, channels);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_op_upsample2x(p->backend, large, x, height, width, err));
    return dd_vae_conv(p, y, large, w, NULL, err);
}

/* x = conv_in(latent / scaling + shift) */
static ddit_status enter(dd_vae_pass *p, const dd_flux_vae *vae, const dd_tensor *latent, ddit_err *err) {
    const dd_vae_config *c = p->config;
    int64_t channels = vae_level_channels(c, 0);
    dd_tensor z = dd_vae_rows(p, 0, c->latent_channels), y = dd_vae_rows(p, 1, channels);
    dd_vae_turn(p, 1, channels);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_op_channels_last(p->backend, z, *latent, 1.0f / c->scaling_factor, c->shift_factor, err));
    return dd_vae_conv(p, y, z, vae->conv_in, NULL, err);
}

static ddit_status up_block(dd_vae_pass *p, const dd_flux_vae *vae, int level, ddit_err *err) {
    int count = vae_resnets_per_level(p->config);
    for (int i = 0; i < count; i++)
        DD_TRY(dd_vae_resnet(p, vae ? &vae->up[level * count + i] : NULL, vae_level_channels(p->config, level), err));
    if (level == p->config->level_count - 1) return DDIT_OK;
    return upsample(p, vae ? vae->upsample[level] : NULL, err);
}

/* picture = conv_out(SiLU(gn(x))), float32 whatever the activations are, [pixels, 3]. */
static ddit_status leave(dd_vae_pass *p, const dd_flux_vae *vae, dd_tensor *picture, ddit_err *err) {
    dd_tensor x = dd_vae_rows(p, 0, p->channels);
    *picture = dd_vae_place(p, (p->current + 1) % VAE_BUFFERS, 0, DD_DTYPE_F32, VAE_PICTURE_CHANNELS);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_vae_group_norm(p, x, x, &vae->norm_out, DD_ACTIVATION_SILU, err));
    return dd_vae_conv(p, *picture, x, vae->conv_out, NULL, err);
}

/* vae and latent are NULL when only sizes are wanted. */
static ddit_status forward(dd_vae_pass *p, const dd_flux_vae *vae, const dd_tensor *latent, dd_tensor *picture, ddit_err *err) {
    DD_TRY(enter(p, vae, latent, err));
    DD_TRY(dd_vae_mid(p, vae ? &vae->mid : NULL, err));
    for (int level = 0; level < p->config->level_count; level++) DD_TRY(up_block(p, vae, level, err));
    return leave(p, vae, picture, err);
}

/* ------------------------------------------------------------------------------------------------ memory and picture */

/* Walks without weights; false if the sizes do not fit. */
static bool measure(dd_vae_pass *dry, uint64_t *total) {
    dd_tensor picture;
    if (dry->height > INT32_MAX || dry->width > INT32_MAX) return false; /* keeps the doubling of the levels within int64_t */
    forward(dry, NULL, NULL, &picture, NULL);
    return dd_vae_pass_total(dry, total);
}

bool dd_flux_vae_decode_bytes(const dd_vae_config *c, int64_t h, int64_t w, dd_dtype activation, uint64_t *backend_bytes,
                              uint64_t *host_bytes) {
    dd_vae_pass dry = {.config = c, .act = activation, .height = h, .width = w};
    if (!measure(&dry, backend_bytes)) return false;
    *host_bytes = vae_stripe_pixels(h * w * c->scale * c->scale) * VAE_PICTURE_CHANNELS * sizeof(float);
    return true;
}

/* Negated so that NaN gives 0. */
static uint8_t to_8_bit(float x) {
    float unit = x * 0.5f + 0.5f;
    if (!(unit > 0.0f)) return 0;
    return unit >= 1.0f ? 255 : (uint8_t)rintf(unit * 255.0f);
}

static ddit_status fetch_picture(dd_backend *backend, const dd_tensor *picture, uint8_t *rgb, ddit_err *err) {
    uint64_t values = (uint64_t)picture->shape[0] * VAE_PICTURE_CHANNELS;
    uint64_t stripe = vae_stripe_pixels(picture->shape[0]) * VAE_PICTURE_CHANNELS;
    float *host;
    DD_TRY(dd_alloc_raw(backend->allocator, &host, (size_t)stripe, sizeof(float), "a stripe of the picture", err));
    ddit_status status = DDIT_OK;
    for (uint64_t begin = 0; begin < values; begin += stripe) {
        uint64_t count = values - begin < stripe ? values - begin : stripe;
        DD_GO(dd_op_download(backend, host, (const float *)picture->data + begin, (size_t)count * sizeof(float), err));
        for (uint64_t i = 0; i < count; i++) rgb[begin + i] = to_8_bit(host[i]);
    }
done:
    dd_free(backend->allocator, host);
    return status;
}

static ddit_status check_latent(const dd_vae_config *c, const dd_tensor *latent, ddit_err *err) {
    if (latent->rank == 3 && latent->dtype == DD_DTYPE_F32 && latent->shape[0] == c->latent_channels && latent->shape[1] > 0 &&
        latent->shape[2] > 0)
        return DDIT_OK;
    return dd_fail(err, DDIT_ERR_ARGUMENT,
                   "the decoder's latent is of rank %d, [%" PRId64 ", %" PRId64 ", %" PRId64 "] %s, expected [%d, h, w] F32",
                   latent->rank, latent->shape[0], latent->shape[1], latent->shape[2], dd_dtype_name(latent->dtype),
                   c->latent_channels);
}

ddit_status dd_flux_vae_decode(dd_flux_vae *vae, const dd_tensor *latent, uint8_t *rgb, ddit_err *err) {
    DD_TRY(check_latent(&vae->config, latent, err));
    dd_vae_pass p = {.config = &vae->config, .act = vae->backend->activation, .height = latent->shape[1],
                     .width = latent->shape[2]};
    dd_vae_pass dry = p;
    uint64_t total;
    if (!measure(&dry, &total))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "a latent of %" PRId64 " x %" PRId64 " is too large to decode", p.height,
                       p.width);
    void *memory;
    dd_tensor picture;
    p.backend = vae->backend;
    DD_TRY(dd_vae_pass_begin(&p, &dry, "the decoder's activations", &memory, err));
    ddit_status status = forward(&p, vae, latent, &picture, err);
    if (status == DDIT_OK) status = fetch_picture(vae->backend, &picture, rgb, err);
    dd_op_free(vae->backend, memory);
    return status;
}
