/* The CLIP text encoder, of which FLUX uses the pooled vector only.
 *
 *     dd_clip_encoder_open(&encoder, backend, files, &config, err);
 *     dd_clip_encoder_encode(encoder, ids, pooled, err);
 *     dd_clip_encoder_close(encoder);
 *
 * Source: CLIPTextModel of transformers 5 (pooler_output), pre-LN transformer with a causal mask; no text projection.
 */
#ifndef DD_TEXT_CLIP_ENCODER_H
#define DD_TEXT_CLIP_ENCODER_H

#include "bind/weight_table.h"
#include "format/config.h"

typedef struct dd_clip_encoder dd_clip_encoder;

/* Prepares the weights and takes all memory that encode needs. Backend and files are borrowed and must outlive the encoder: the
 * embedding tables stay in the files. Tensor names with and without "text_model." are accepted.
 * Errors: those of dd_weight_files_need (a tensor is missing or misshapen), memory. *out is NULL on failure. */
ddit_status dd_clip_encoder_open(dd_clip_encoder **out, dd_backend *backend, const dd_weight_files *files,
                                 const dd_clip_config *config, ddit_err *err);
void dd_clip_encoder_close(dd_clip_encoder *encoder); /* NULL accepted */

/* ids [max_position_embeddings] (77), begin and end of text and padding included -> pooled [hidden_size] float32, host memory.
 * The pooled row is the final layer norm of the first position that holds the end-of-text id (of the largest id where the
 * configuration has the legacy eos_token_id 2; of position 0 if there is none). Positions after it are not computed: with a
 * causal mask it does not see them. Error: DDIT_ERR_MISMATCH for an id outside the vocabulary. */
ddit_status dd_clip_encoder_encode(dd_clip_encoder *encoder, const int32_t *ids, float *pooled, ddit_err *err);

/* What an encoder on a backend with this activation dtype takes, before it is opened. */
dd_part_bytes dd_clip_encoder_bytes(const dd_clip_config *config, dd_dtype activation);

#endif
