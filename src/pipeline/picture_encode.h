/* The way of a picture file to a latent. */
#ifndef DD_PIPELINE_PICTURE_ENCODE_H
#define DD_PIPELINE_PICTURE_ENCODE_H

#include "vae/flux_vae.h"

/* Reads a picture, brings it to width x height (media/picture.h), mirrors it if asked, encodes it: latent [C, h, w] F32, host
 * memory, model units. Errors: those of reading, naming the picture; of the encoder. */
ddit_status dd_picture_encode(dd_flux_vae_encoder *encoder, const dd_allocator *a, const char *path, int width, int height,
                              bool mirrored, float *latent, ddit_err *err);

#endif
