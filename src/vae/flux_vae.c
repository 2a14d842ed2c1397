#include "vae/flux_vae.h"

#include <stddef.h>
#include <stdio.h>

#include "vae/flux_vae_state.h"

enum { DIM_IN, DIM_OUT }; /* of a resnet; attention and upsampling keep DIM_IN */

#define NORM(name, type, field, channels) {name, DD_FIELD_NORM, offsetof(type, field), channels, 0, 0, true}
#define CONV(name, type, field, out, in, size) {name, DD_FIELD_CONV, offsetof(type, field), out, in, size, true}

static const dd_weight_field resnet_fields[] = {
    NORM("norm1", vae_resnet, norm1, DIM_IN),
    CONV("conv1", vae_resnet, conv1, DIM_OUT, DIM_IN, 3),
    NORM("norm2", vae_resnet, norm2, DIM_OUT),
    CONV("conv2", vae_resnet, conv2, DIM_OUT, DIM_OUT, 3),
};

static const dd_weight_field shortcut_fields[] = {
    CONV("conv_shortcut", vae_resnet, shortcut, DIM_OUT, DIM_IN, 1),
};

static const dd_weight_field attention_fields[] = {
    NORM("group_norm", vae_attention, norm, DIM_IN),
    {"to_q", DD_FIELD_LINEAR, offsetof(vae_attention, q), DIM_IN, DIM_IN, 0, true},
    {"to_k", DD_FIELD_LINEAR, offsetof(vae_attention, k), DIM_IN, DIM_IN, 0, true},
    {"to_v", DD_FIELD_LINEAR, offsetof(vae_attention, v), DIM_IN, DIM_IN, 0, true},
    {"to_out.0", DD_FIELD_POINTWISE, offsetof(vae_attention, out), DIM_IN, DIM_IN, 0, true},
};

static const dd_weight_field upsample_fields[] = {{"upsamplers.0.conv", DD_FIELD_CONV, 0, DIM_IN, DIM_IN, 3, true}};

enum { DIM_LATENT, DIM_DEEPEST, DIM_FINEST, DIM_PICTURE };

static const dd_weight_field decoder_fields[] = {
    CONV("conv_in", dd_flux_vae, conv_in, DIM_DEEPEST, DIM_LATENT, 3),
    NORM("conv_norm_out", dd_flux_vae, norm_out, DIM_FINEST),
    CONV("conv_out", dd_flux_vae, conv_out, DIM_PICTURE, DIM_FINEST, 3),
};

#define COUNT(table) (sizeof table / sizeof *table)

ddit_status dd_vae_walk_resnet(dd_weight_loader *l, vae_resnet *r, int64_t in, int64_t out, const char *prefix, ddit_err *err) {
    const int64_t dims[] = {in, out};
    DD_TRY(dd_weight_table_walk(l, resnet_fields, COUNT(resnet_fields), r, dims, prefix, err));
    if (in == out) return DDIT_OK;
    return dd_weight_table_walk(l, shortcut_fields, COUNT(shortcut_fields), r, dims, prefix, err);
}

ddit_status dd_vae_walk_mid(dd_weight_loader *l, vae_mid *mid, const dd_vae_config *c, const char *network, ddit_err *err) {
    int64_t channels = vae_level_channels(c, 0);
    for (int i = 0; i < 2; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s.mid_block.resnets.%d.", network, i);
        DD_TRY(dd_vae_walk_resnet(l, mid ? &mid->resnet[i] : NULL, channels, channels, prefix, err));
        if (i == 1 || !c->mid_block_add_attention) continue;
        snprintf(prefix, sizeof prefix, "%s.mid_block.attentions.0.", network);
        DD_TRY(dd_weight_table_walk(l, attention_fields, COUNT(attention_fields), mid ? &mid->attention : NULL, &channels,
                                    prefix, err));
    }
    return DDIT_OK;
}

static ddit_status walk_level(dd_flux_vae *vae, const dd_vae_config *c, int level, dd_weight_loader *l, ddit_err *err) {
    char prefix[64];
    int64_t channels = vae_level_channels(c, level);
    for (int i = 0; i < vae_resnets_per_level(c); i++) {
        snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.resnets.%d.", level, i);
        vae_resnet *resnet = vae ? &vae->up[level * vae_resnets_per_level(c) + i] : NULL;
        DD_TRY(dd_vae_walk_resnet(l, resnet, vae_resnet_in(c, level, i), channels, prefix, err));
    }
    if (level == c->level_count - 1) return DDIT_OK;
    snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.", level);
    dd_weight **upsample = vae ? &vae->upsample[level] : NULL;
    return dd_weight_table_walk(l, upsample_fields, COUNT(upsample_fields), upsample, &channels, prefix, err);
}

/* vae may be NULL when the loader counts. */
static ddit_status walk_weights(dd_flux_vae *vae, const dd_vae_config *c, dd_weight_loader *l, ddit_err *err) {
    const int64_t dims[] = {[DIM_LATENT] = c->latent_channels, [DIM_DEEPEST] = vae_level_channels(c, 0),
                            [DIM_FINEST] = vae_level_channels(c, c->level_count - 1), [DIM_PICTURE] = c->out_channels};
    DD_TRY(dd_weight_table_walk(l, decoder_fields, COUNT(decoder_fields), vae, dims, "decoder.", err));
    DD_TRY(dd_vae_walk_mid(l, vae ? &vae->mid : NULL, c, "decoder", err));
    for (int level = 0; level < c->level_count; level++) DD_TRY(walk_level(vae, c, level, l, err));
    return DDIT_OK;
}

dd_part_bytes dd_flux_vae_bytes(const dd_vae_config *config, int64_t h, int64_t w, dd_dtype activation) {
    dd_weight_loader l = {.pass = DD_PASS_COUNT, .activation = activation};
    uint64_t backend_bytes, host_bytes;
    walk_weights(NULL, config, &l, NULL);
    bool fits = dd_flux_vae_decode_bytes(config, h, w, activation, &backend_bytes, &host_bytes);
    uint64_t activations = fits ? backend_bytes + host_bytes : UINT64_MAX;
    return (dd_part_bytes){.weights = l.matrix_bytes + l.vector_bytes, .activations = activations};
}

static ddit_status load_weights(dd_flux_vae *vae, const dd_weight_files *files, ddit_err *err) {
    const dd_vae_config *c = &vae->config;
    size_t resnets = (size_t)c->level_count * (size_t)vae_resnets_per_level(c);
    DD_TRY(dd_alloc(vae->backend->allocator, &vae->up, resnets, sizeof *vae->up, "the decoder's blocks", err));
    DD_TRY(walk_weights(NULL, c, &vae->loader, err));
    DD_TRY(dd_weight_loader_begin(&vae->loader, vae->backend, files, err));
    DD_TRY(walk_weights(vae, c, &vae->loader, err));
    dd_weight_loader_loaded(&vae->loader);
    return DDIT_OK;
}

ddit_status dd_flux_vae_open(dd_flux_vae **out, dd_backend *backend, const dd_weight_files *files, const dd_vae_config *config,
                             ddit_err *err) {
    dd_flux_vae *vae;
    *out = NULL;
    if (config->out_channels != VAE_PICTURE_CHANNELS)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the autoencoder draws %d channels, only pictures of %d (RGB) are supported",
                       config->out_channels, VAE_PICTURE_CHANNELS);
    DD_TRY(dd_alloc(backend->allocator, &vae, 1, sizeof *vae, "the decoder", err));
    vae->backend = backend;
    vae->config = *config;
    vae->loader = (dd_weight_loader){.pass = DD_PASS_COUNT, .backend = backend, .activation = backend->activation};
    ddit_status status = load_weights(vae, files, err);
    if (status == DDIT_OK) *out = vae;
    else dd_flux_vae_close(vae);
    return status;
}

void dd_flux_vae_close(dd_flux_vae *vae) {
    if (!vae) return;
    const dd_allocator *a = vae->backend->allocator;
    vae->loader.pass = DD_PASS_FREE;
    if (vae->up) walk_weights(vae, &vae->config, &vae->loader, NULL);
    dd_weight_loader_deinit(&vae->loader);
    dd_free(a, vae->up);
    dd_free(a, vae);
}
