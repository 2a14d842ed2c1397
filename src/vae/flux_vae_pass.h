/* What the passes of encoder and decoder share: pixels as rows in three buffers, resnets and the middle. One function walks a
 * network for two purposes: without a backend it learns how large each buffer must be, with one it computes. Private to the
 * room.
 */
#ifndef DD_VAE_FLUX_VAE_PASS_H
#define DD_VAE_FLUX_VAE_PASS_H

#include "vae/flux_vae_state.h"

enum {
    VAE_BUFFERS = 3,            /* a value, and the two intermediates of a resnet */
    VAE_STRIPE_PIXELS = 1 << 16 /* pixels that pass through the host at a time */
};

typedef struct dd_vae_pass {
    dd_backend *backend;            /* NULL: only the sizes are wanted */
    const dd_vae_config *config;
    dd_dtype act;
    uint64_t bytes[VAE_BUFFERS];    /* largest size of each buffer */
    bool overflow;                  /* a size did not fit */
    uint8_t *memory[VAE_BUFFERS];
    int64_t height, width;          /* of the current level */
    int64_t channels;
    int current;                    /* buffer that holds the value x [height * width, channels] */
} dd_vae_pass;

/* A matrix of one row per pixel of the current level, `offset` bytes into a buffer, which grows to hold it. */
dd_tensor dd_vae_place(dd_vae_pass *p, int buffer, uint64_t offset, dd_dtype dtype, int64_t channels);

/* A matrix of the current level in the buffer `after` places after the current one; 0 is x itself. */
dd_tensor dd_vae_rows(dd_vae_pass *p, int after, int64_t channels);

/* Makes the buffer `after` places on the current one. */
void dd_vae_turn(dd_vae_pass *p, int after, int64_t channels);

/* Convolution at the current level, add may be NULL; group norm. */
ddit_status dd_vae_conv(const dd_vae_pass *p, dd_tensor y, dd_tensor x, const dd_weight *w, const dd_tensor *add,
                        ddit_err *err);
ddit_status dd_vae_group_norm(const dd_vae_pass *p, dd_tensor y, dd_tensor x, const dd_norm_weights *w,
                              dd_activation activation, ddit_err *err);

/* The value goes through a resnet, or through resnet, attention (if the configuration has it) and resnet. The weights are NULL
 * when only sizes are wanted. */
ddit_status dd_vae_resnet(dd_vae_pass *p, const vae_resnet *r, int64_t out_channels, ddit_err *err);
ddit_status dd_vae_mid(dd_vae_pass *p, const vae_mid *mid, ddit_err *err);

/* Sum of the buffers' sizes after a walk without backend; false if they did not fit 63 bits. */
bool dd_vae_pass_total(const dd_vae_pass *p, uint64_t *total);

/* Takes one block for the buffers of `dry`, a walk without backend, and hands it to p, freed with dd_op_free. */
ddit_status dd_vae_pass_begin(dd_vae_pass *p, const dd_vae_pass *dry, const char *what, void **memory, ddit_err *err);

/* Pixels of a stripe of a picture of so many. */
static inline uint64_t vae_stripe_pixels(int64_t pixels) {
    return pixels < VAE_STRIPE_PIXELS ? (uint64_t)pixels : VAE_STRIPE_PIXELS;
}

#endif
