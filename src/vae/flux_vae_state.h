/* Weights of decoder and encoder as named fields. Private to the room. */
#ifndef DD_VAE_FLUX_VAE_STATE_H
#define DD_VAE_FLUX_VAE_STATE_H

#include "vae/flux_vae.h"

/* h = conv2(SiLU(gn2(conv1(SiLU(gn1(x)))))); x + h, with x through a 1x1 convolution where the channels change. */
typedef struct vae_resnet {
    dd_norm_weights norm1, norm2;
    dd_weight *conv1, *conv2;
    dd_weight *shortcut; /* NULL if in == out */
} vae_resnet;

/* One head as wide as the channels. */
typedef struct vae_attention {
    dd_norm_weights norm;
    dd_weight *q, *k, *v; /* [C, C] */
    dd_weight *out;       /* [C, C], a 1x1 convolution: that op adds the residual in the activation dtype */
} vae_attention;

/* The middle of both, at the deepest level. */
typedef struct vae_mid {
    vae_resnet resnet[2];
    vae_attention attention; /* unused without mid_block_add_attention */
} vae_mid;

struct dd_flux_vae {
    dd_backend *backend; /* borrowed */
    dd_vae_config config;
    dd_weight_loader loader;
    dd_weight *conv_in;
    vae_mid mid;
    vae_resnet *up;                      /* owned [level_count, layers_per_block + 1], coarsest level first */
    dd_weight *upsample[DD_VAE_MAX_LEVELS]; /* the convolution after doubling; none for the last level */
    dd_norm_weights norm_out;
    dd_weight *conv_out;
};

struct dd_flux_vae_encoder {
    dd_backend *backend; /* borrowed */
    dd_vae_config config;
    dd_weight_loader loader;
    dd_weight *conv_in;
    vae_resnet *down;                         /* owned [level_count, layers_per_block], finest level first */
    dd_weight *downsample[DD_VAE_MAX_LEVELS]; /* the halving convolution; none for the last level */
    vae_mid mid;
    dd_norm_weights norm_out;
    dd_weight *conv_out;
};

enum { VAE_PICTURE_CHANNELS = 3 };

/* Channels of the decoder's levels, coarsest first: level 0 is the deepest of the configuration. */
static inline int64_t vae_level_channels(const dd_vae_config *c, int level) {
    return c->block_out_channels[c->level_count - 1 - level];
}

/* Channels that go into resnet `index` of a level of the decoder: its first one comes from the level before. */
static inline int64_t vae_resnet_in(const dd_vae_config *c, int level, int index) {
    return vae_level_channels(c, index == 0 && level > 0 ? level - 1 : level);
}

static inline int vae_resnets_per_level(const dd_vae_config *c) { return c->layers_per_block + 1; }

/* Walks the weights of a resnet resp. of the middle (dd_weight_table_walk); the struct may be NULL when the loader counts. */
ddit_status dd_vae_walk_resnet(dd_weight_loader *l, vae_resnet *r, int64_t in, int64_t out, const char *prefix, ddit_err *err);
ddit_status dd_vae_walk_mid(dd_weight_loader *l, vae_mid *mid, const dd_vae_config *c, const char *network, ddit_err *err);

/* Bytes of backend memory, and of host memory for the picture on its way out, that one decode takes; false if they do not fit
 * 63 bits. */
bool dd_flux_vae_decode_bytes(const dd_vae_config *c, int64_t h, int64_t w, dd_dtype activation, uint64_t *backend_bytes,
                              uint64_t *host_bytes);

#endif
