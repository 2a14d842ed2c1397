#include "vae/flux_vae_pass.h"

#include <math.h>

static const float NORM_EPS = 1e-6f;

dd_tensor dd_vae_place(dd_vae_pass *p, int buffer, uint64_t offset, dd_dtype dtype, int64_t channels) {
    uint64_t pixels = 0, values = 0, bytes = 0, end = 0;
    bool fits = dd_mul_u64((uint64_t)p->height, (uint64_t)p->width, &pixels) &&
                dd_mul_u64(pixels, (uint64_t)channels, &values) && dd_dtype_bytes(dtype, values, &bytes) &&
                dd_add_u64(offset, bytes, &end) && end <= INT64_MAX / 8;
    if (!fits) p->overflow = true;
    else if (end > p->bytes[buffer]) p->bytes[buffer] = (end + 63) / 64 * 64;
    uint8_t *memory = p->memory[buffer];
    return dd_tensor_2d(memory ? memory + offset : NULL, dtype, (int64_t)pixels, channels);
}

dd_tensor dd_vae_rows(dd_vae_pass *p, int after, int64_t channels) {
    return dd_vae_place(p, (p->current + after) % VAE_BUFFERS, 0, p->act, channels);
}

void dd_vae_turn(dd_vae_pass *p, int after, int64_t channels) {
    p->current = (p->current + after) % VAE_BUFFERS;
    p->channels = channels;
}

/* ------------------------------------------------------------------------------------------------ ops */

ddit_status dd_vae_conv(const dd_vae_pass *p, dd_tensor y, dd_tensor x, const dd_weight *w, const dd_tensor *add,
                        ddit_err *err) {
    return dd_op_conv2d(p->backend, &(dd_conv2d_args){.y = y, .x = x, .height = p->height, .width = p->width, .w = w,
                                                      .add = add}, err);
}

ddit_status dd_vae_group_norm(const dd_vae_pass *p, dd_tensor y, dd_tensor x, const dd_norm_weights *w,
                              dd_activation activation, ddit_err *err) {
    return dd_op_group_norm(p->backend, &(dd_group_norm_args){.y = y, .x = x, .groups = p->config->norm_num_groups,
                                                              .eps = NORM_EPS, .weight = &w->weight, .bias = &w->bias,
                                                              .activation = activation}, err);
}

static ddit_status linear(const dd_vae_pass *p, dd_tensor y, dd_tensor x, const dd_weight *w, ddit_err *err) {
    return dd_op_linear(p->backend, &(dd_linear_args){.y = y, .x = x, .w = w}, err);
}

/* ------------------------------------------------------------------------------------------------ blocks */

/* x + conv2(SiLU(gn2(conv1(SiLU(gn1(x)))))). The value moves to the next buffer; with a shortcut, whose output needs that one,
 * it goes back to its own. */
ddit_status dd_vae_resnet(dd_vae_pass *p, const vae_resnet *r, int64_t out_channels, ddit_err *err) {
    int64_t in_channels = p->channels;
    dd_tensor x = dd_vae_rows(p, 0, in_channels), a = dd_vae_rows(p, 1, in_channels), b = dd_vae_rows(p, 2, out_channels);
    dd_tensor skip = in_channels == out_channels ? x : dd_vae_rows(p, 1, out_channels);
    int after = in_channels == out_channels ? 1 : 0;
    dd_tensor y = dd_vae_rows(p, after, out_channels);
    dd_vae_turn(p, after, out_channels);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_vae_group_norm(p, a, x, &r->norm1, DD_ACTIVATION_SILU, err));
    DD_TRY(dd_vae_conv(p, b, a, r->conv1, NULL, err));
    DD_TRY(dd_vae_group_norm(p, b, b, &r->norm2, DD_ACTIVATION_SILU, err));
    if (r->shortcut) DD_TRY(dd_vae_conv(p, skip, x, r->shortcut, NULL, err));
    return dd_vae_conv(p, y, b, r->conv2, &skip, err);
}

/* x + out(softmax(q k^T / sqrt(C)) v) of gn(x), over all positions. q, k and v share a buffer, to which the value moves. */
static ddit_status attention(dd_vae_pass *p, const vae_attention *w, ddit_err *err) {
    int64_t c = p->channels;
    dd_tensor x = dd_vae_rows(p, 0, c), a = dd_vae_rows(p, 1, c), qkv[3];
    int buffer = (p->current + 2) % VAE_BUFFERS;
    uint64_t bytes = 0;
    dd_dtype_bytes(p->act, (uint64_t)a.shape[0] * (uint64_t)c, &bytes);
    bytes = (bytes + 63) / 64 * 64;
    for (int i = 0; i < 3; i++) qkv[i] = dd_vae_place(p, buffer, (uint64_t)i * bytes, p->act, c);
    dd_vae_turn(p, 2, c);
    if (!p->backend) return DDIT_OK;
    DD_TRY(dd_vae_group_norm(p, a, x, &w->norm, DD_ACTIVATION_NONE, err));
    DD_TRY(linear(p, qkv[0], a, w->q, err));
    DD_TRY(linear(p, qkv[1], a, w->k, err));
    DD_TRY(linear(p, qkv[2], a, w->v, err));
    DD_TRY(dd_op_attention(p->backend, &(dd_attention_args){.out = a, .q = qkv[0], .k = qkv[1], .v = qkv[2], .heads = 1,
                                                            .scale = 1.0f / sqrtf((float)c)}, err));
    return dd_vae_conv(p, qkv[0], a, w->out, &x, err);
}

ddit_status dd_vae_mid(dd_vae_pass *p, const vae_mid *mid, ddit_err *err) {
    DD_TRY(dd_vae_resnet(p, mid ? &mid->resnet[0] : NULL, p->channels, err));
    if (p->config->mid_block_add_attention) DD_TRY(attention(p, mid ? &mid->attention : NULL, err));
    return dd_vae_resnet(p, mid ? &mid->resnet[1] : NULL, p->channels, err);
}

/* ------------------------------------------------------------------------------------------------ memory */

bool dd_vae_pass_total(const dd_vae_pass *p, uint64_t *total) {
    *total = 0;
    for (int i = 0; i < VAE_BUFFERS; i++) *total += p->bytes[i];
    return !p->overflow;
}

ddit_status dd_vae_pass_begin(dd_vae_pass *p, const dd_vae_pass *dry, const char *what, void **memory, ddit_err *err) {
    uint64_t total;
    dd_vae_pass_total(dry, &total);
    DD_TRY(dd_op_alloc(p->backend, memory, (size_t)total, what, err));
    p->memory[0] = *memory;
    for (int i = 0; i < VAE_BUFFERS; i++) p->bytes[i] = dry->bytes[i];
    for (int i = 1; i < VAE_BUFFERS; i++) p->memory[i] = p->memory[i - 1] + p->bytes[i - 1];
    return DDIT_OK;
}
