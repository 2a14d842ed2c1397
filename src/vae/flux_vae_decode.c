/* The decoder's forward pass over pixels as rows. One function walks the network for two purposes: without weights it learns
 * how large each of the three buffers must be, with weights it computes. */
#include "vae/flux_vae.h"

#include <inttypes.h>
#include <math.h>

#include "vae/flux_vae_state.h"

enum {
    BUFFERS = 3,          /* a value, and the two intermediates of a resnet */
    STRIPE_PIXELS = 1 << 16 /* pixels that come to the host at a time */
};

static const float NORM_EPS = 1e-6f;

typedef struct decode {
    const dd_flux_vae *vae;     /* NULL: only the sizes are wanted */
    const dd_vae_config *config;
    dd_dtype act;
    uint64_t bytes[BUFFERS];    /* largest size of each buffer */
    bool overflow;              /* a size did not fit */
    uint8_t *memory[BUFFERS];
    int64_t height, width;      /* of the current level */
    int64_t channels;
    int current;                /* buffer that holds the value x [height * width, channels] */
} decode;

/* A matrix of one row per pixel of the current level, `offset` bytes into a buffer, which grows to hold it. */
static dd_tensor place(decode *d, int buffer, uint64_t offset, dd_dtype dtype, int64_t channels) {
    uint64_t pixels = 0, values = 0, bytes = 0, end = 0;
    bool fits = dd_mul_u64((uint64_t)d->height, (uint64_t)d->width, &pixels) &&
                dd_mul_u64(pixels, (uint64_t)channels, &values) && dd_dtype_bytes(dtype, values, &bytes) &&
                dd_add_u64(offset, bytes, &end) && end <= INT64_MAX / 8;
    if (!fits) d->overflow = true;
    else if (end > d->bytes[buffer]) d->bytes[buffer] = (end + 63) / 64 * 64;
    uint8_t *memory = d->memory[buffer];
    return dd_tensor_2d(memory ? memory + offset : NULL, dtype, (int64_t)pixels, channels);
}

/* A matrix of the current level in the buffer `after` places after the current one; 0 is x itself. */
static dd_tensor rows(decode *d, int after, int64_t channels) {
    return place(d, (d->current + after) % BUFFERS, 0, d->act, channels);
}

/* Makes the buffer `after` places on the current one. */
static void turn(decode *d, int after, int64_t channels) {
    d->current = (d->current + after) % BUFFERS;
    d->channels = channels;
}

/* ------------------------------------------------------------------------------------------------ ops */

static ddit_status conv(const decode *d, dd_tensor y, dd_tensor x, const dd_weight *w, const dd_tensor *add, ddit_err *err) {
    return dd_op_conv2d(d->vae->backend, &(dd_conv2d_args){.y = y, .x = x, .height = d->height, .width = d->width, .w = w,
                                                           .add = add}, err);
}

static ddit_status group_norm(const decode *d, dd_tensor y, dd_tensor x, const dd_norm_weights *w, dd_activation activation,
                              ddit_err *err) {
    return dd_op_group_norm(d->vae->backend, &(dd_group_norm_args){.y = y, .x = x, .groups = d->config->norm_num_groups,
                                                                   .eps = NORM_EPS, .weight = &w->weight, .bias = &w->bias,
                                                                   .activation = activation}, err);
}

static ddit_status linear(const decode *d, dd_tensor y, dd_tensor x, const dd_weight *w, ddit_err *err) {
    return dd_op_linear(d->vae->backend, &(dd_linear_args){.y = y, .x = x, .w = w}, err);
}

/* ------------------------------------------------------------------------------------------------ blocks */

/* x + conv2(SiLU(gn2(conv1(SiLU(gn1(x)))))). The value moves to the next buffer; with a shortcut, whose output needs that one,
 * it goes back to its own. r is NULL when only sizes are wanted. */
static ddit_status resnet(decode *d, const vae_resnet *r, int64_t out_channels, ddit_err *err) {
    int64_t in_channels = d->channels;
    dd_tensor x = rows(d, 0, in_channels), a = rows(d, 1, in_channels), b = rows(d, 2, out_channels);
    dd_tensor skip = in_channels == out_channels ? x : rows(d, 1, out_channels);
    int after = in_channels == out_channels ? 1 : 0;
    dd_tensor y = rows(d, after, out_channels);
    turn(d, after, out_channels);
    if (!r) return DDIT_OK;
    DD_TRY(group_norm(d, a, x, &r->norm1, DD_ACTIVATION_SILU, err));
    DD_TRY(conv(d, b, a, r->conv1, NULL, err));
    DD_TRY(group_norm(d, b, b, &r->norm2, DD_ACTIVATION_SILU, err));
    if (r->shortcut) DD_TRY(conv(d, skip, x, r->shortcut, NULL, err));
    return conv(d, y, b, r->conv2, &skip, err);
}

/* x + out(softmax(q k^T / sqrt(C)) v) of gn(x), over all positions. q, k and v share a buffer, to which the value moves. */
static ddit_status attention(decode *d, ddit_err *err) {
    int64_t c = d->channels;
    dd_tensor x = rows(d, 0, c), a = rows(d, 1, c), qkv[3];
    int buffer = (d->current + 2) % BUFFERS;
    uint64_t bytes = 0;
    dd_dtype_bytes(d->act, (uint64_t)a.shape[0] * (uint64_t)c, &bytes);
    bytes = (bytes + 63) / 64 * 64;
    for (int i = 0; i < 3; i++) qkv[i] = place(d, buffer, (uint64_t)i * bytes, d->act, c);
    turn(d, 2, c);
    if (!d->vae) return DDIT_OK;
    const vae_attention *p = &d->vae->attention;
    DD_TRY(group_norm(d, a, x, &p->norm, DD_ACTIVATION_NONE, err));
    DD_TRY(linear(d, qkv[0], a, p->q, err));
    DD_TRY(linear(d, qkv[1], a, p->k, err));
    DD_TRY(linear(d, qkv[2], a, p->v, err));
    DD_TRY(dd_op_attention(d->vae->backend, &(dd_attention_args){.out = a, .q = qkv[0], .k = qkv[1], .v = qkv[2], .heads = 1,
                                                                 .scale = 1.0f / sqrtf((float)c)}, err));
    return conv(d, qkv[0], a, p->out, &x, err);
}

/* conv(nearest x2). The doubled value goes to the far buffer and the result to the near one, so that the next resnet finds the
 * largest buffer in the place of its first intermediate. */
static ddit_status upsample(decode *d, const dd_weight *w, ddit_err *err) {
    int64_t height = d->height, width = d->width, channels = d->channels;
    dd_tensor x = rows(d, 0, channels);
    d->height *= 2;
    d->width *= 2;
    dd_tensor large = rows(d, 2, channels), y = rows(d, 1, channels);
    turn(d, 1, channels);
    if (!d->vae) return DDIT_OK;
    DD_TRY(dd_op_upsample2x(d->vae->backend, large, x, height, width, err));
    return conv(d, y, large, w, NULL, err);
}

/* x = conv_in(latent / scaling + shift) */
static ddit_status enter(decode *d, const dd_tensor *latent, ddit_err *err) {
    const dd_vae_config *c = d->config;
    int64_t channels = vae_level_channels(c, 0);
    dd_tensor z = rows(d, 0, c->latent_channels), y = rows(d, 1, channels);
    turn(d, 1, channels);
    if (!d->vae) return DDIT_OK;
    DD_TRY(dd_op_channels_last(d->vae->backend, z, *latent, 1.0f / c->scaling_factor, c->shift_factor, err));
    return conv(d, y, z, d->vae->conv_in, NULL, err);
}

static ddit_status mid_block(decode *d, ddit_err *err) {
    DD_TRY(resnet(d, d->vae ? &d->vae->mid[0] : NULL, d->channels, err));
    if (d->config->mid_block_add_attention) DD_TRY(attention(d, err));
    return resnet(d, d->vae ? &d->vae->mid[1] : NULL, d->channels, err);
}

static ddit_status up_block(decode *d, int level, ddit_err *err) {
    int count = vae_resnets_per_level(d->config);
    for (int i = 0; i < count; i++)
        DD_TRY(resnet(d, d->vae ? &d->vae->up[level * count + i] : NULL, vae_level_channels(d->config, level), err));
    if (level == d->config->level_count - 1) return DDIT_OK;
    return upsample(d, d->vae ? d->vae->upsample[level] : NULL, err);
}

/* picture = conv_out(SiLU(gn(x))), float32 whatever the activations are, [pixels, 3]. */
static ddit_status leave(decode *d, dd_tensor *picture, ddit_err *err) {
    dd_tensor x = rows(d, 0, d->channels);
    *picture = place(d, (d->current + 1) % BUFFERS, 0, DD_DTYPE_F32, VAE_PICTURE_CHANNELS);
    if (!d->vae) return DDIT_OK;
    DD_TRY(group_norm(d, x, x, &d->vae->norm_out, DD_ACTIVATION_SILU, err));
    return conv(d, *picture, x, d->vae->conv_out, NULL, err);
}

static ddit_status forward(decode *d, const dd_tensor *latent, dd_tensor *picture, ddit_err *err) {
    DD_TRY(enter(d, latent, err));
    DD_TRY(mid_block(d, err));
    for (int level = 0; level < d->config->level_count; level++) DD_TRY(up_block(d, level, err));
    return leave(d, picture, err);
}

/* ------------------------------------------------------------------------------------------------ memory and picture */

/* Walks without weights; false if the sizes do not fit. */
static bool measure(decode *d, uint64_t *total) {
    decode dry = *d;
    dd_tensor picture;
    *total = 0;
    if (d->height > INT32_MAX || d->width > INT32_MAX) return false; /* keeps the doubling of the levels within int64_t */
    dry.vae = NULL;
    forward(&dry, NULL, &picture, NULL);
    for (int i = 0; i < BUFFERS; i++) {
        d->bytes[i] = dry.bytes[i];
        *total += dry.bytes[i];
    }
    return !dry.overflow;
}

static uint64_t stripe_pixels(int64_t pixels) { return pixels < STRIPE_PIXELS ? (uint64_t)pixels : STRIPE_PIXELS; }

bool dd_flux_vae_decode_bytes(const dd_vae_config *c, int64_t h, int64_t w, dd_dtype activation, uint64_t *backend_bytes,
                              uint64_t *host_bytes) {
    decode d = {.config = c, .act = activation, .height = h, .width = w};
    if (!measure(&d, backend_bytes)) return false;
    *host_bytes = stripe_pixels(h * w * c->scale * c->scale) * VAE_PICTURE_CHANNELS * sizeof(float);
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
    uint64_t stripe = stripe_pixels(picture->shape[0]) * VAE_PICTURE_CHANNELS;
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
    decode d = {.vae = vae, .config = &vae->config, .act = vae->backend->activation, .height = latent->shape[1],
                .width = latent->shape[2]};
    uint64_t total;
    if (!measure(&d, &total))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "a latent of %" PRId64 " x %" PRId64 " is too large to decode", d.height,
                       d.width);
    void *memory;
    DD_TRY(dd_op_alloc(vae->backend, &memory, (size_t)total, "the decoder's activations", err));
    d.memory[0] = memory;
    for (int i = 1; i < BUFFERS; i++) d.memory[i] = d.memory[i - 1] + d.bytes[i - 1];
    dd_tensor picture;
    ddit_status status = forward(&d, latent, &picture, err);
    if (status == DDIT_OK) status = fetch_picture(vae->backend, &picture, rgb, err);
    dd_op_free(vae->backend, memory);
    return status;
}
