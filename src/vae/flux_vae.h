/* FLUX's autoencoder. The decoder makes a picture of a latent in model units:
 *
 *     dd_flux_vae_open(&vae, backend, files, &config, err);
 *     dd_flux_vae_decode(vae, latent, rgb, err);
 *     dd_flux_vae_close(vae);
 *
 * The encoder, an object of its own that only training needs, makes a latent of a picture:
 *
 *     dd_flux_vae_encoder_open(&encoder, backend, files, &config, err);
 *     dd_flux_vae_encode(encoder, rgb, height, width, latent, err);
 *     dd_flux_vae_encoder_close(encoder);
 *
 * Source: AutoencoderKL of diffusers 0.42 (vae.decode, then VaeImageProcessor; VaeImageProcessor, then vae.encode), without
 * quantisation convolutions.
 */
#ifndef DD_VAE_FLUX_VAE_H
#define DD_VAE_FLUX_VAE_H

#include "bind/weight_table.h"
#include "format/config.h"

typedef struct dd_flux_vae dd_flux_vae;
typedef struct dd_flux_vae_encoder dd_flux_vae_encoder;

/* Prepares the decoder's weights; the encoder's are not touched. Backend and files are borrowed and must outlive it.
 * Errors: those of dd_weight_files_need (a tensor is missing or misshapen), DDIT_ERR_UNSUPPORTED (a picture of other than three
 * channels), memory. *out is NULL on failure. */
ddit_status dd_flux_vae_open(dd_flux_vae **out, dd_backend *backend, const dd_weight_files *files, const dd_vae_config *config,
                             ddit_err *err);
void dd_flux_vae_close(dd_flux_vae *vae); /* NULL accepted */

/* latent [C, h, w] F32, backend memory, model units (scale and shift of the configuration are undone here)
 * -> rgb [scale * h, scale * w, 3], host memory: 255 * clamp(x / 2 + 1/2, 0, 1), half to even; NaN gives 0.
 * Activations have the backend's activation dtype. All memory of a decode is one block, taken and given back within the call.
 * Errors: DDIT_ERR_ARGUMENT (other channels, size 0 or beyond what memory can address), memory, backend. */
ddit_status dd_flux_vae_decode(dd_flux_vae *vae, const dd_tensor *latent, uint8_t *rgb, ddit_err *err);

/* What a decoder on a backend with this activation dtype takes, before it is opened; activations: during the decode of an h x w
 * latent, rgb excluded. */
dd_part_bytes dd_flux_vae_bytes(const dd_vae_config *config, int64_t h, int64_t w, dd_dtype activation);

/* Prepares the encoder's weights; the decoder's are not touched. Errors as dd_flux_vae_open; DDIT_ERR_UNSUPPORTED also with
 * use_quant_conv, which FLUX has not. */
ddit_status dd_flux_vae_encoder_open(dd_flux_vae_encoder **out, dd_backend *backend, const dd_weight_files *files,
                                     const dd_vae_config *config, ddit_err *err);
void dd_flux_vae_encoder_close(dd_flux_vae_encoder *encoder); /* NULL accepted */

/* rgb [height, width, 3], host memory, height and width multiples of config.scale -> latent [C, height / scale, width / scale]
 * F32, host memory: the mean of the encoder's distribution in model units, scaling * (mean - shift). 8-bit values enter as
 * x / 127.5 - 1. All memory of a call is taken and given back within it. Errors: DDIT_ERR_ARGUMENT (sizes), memory, backend. */
ddit_status dd_flux_vae_encode(dd_flux_vae_encoder *encoder, const uint8_t *rgb, int64_t height, int64_t width, float *latent,
                               ddit_err *err);

/* What an encoder takes; activations: during the encoding of a height x width picture (UINT64_MAX if that cannot be). */
dd_part_bytes dd_flux_vae_encoder_bytes(const dd_vae_config *config, int64_t height, int64_t width, dd_dtype activation);

#endif
