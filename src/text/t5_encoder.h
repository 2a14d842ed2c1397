/* The T5 v1.1 text encoder: one embedding per token, padding included.
 *
 *     dd_t5_encoder_open(&encoder, backend, files, &config, 512, err);
 *     dd_t5_encoder_encode(encoder, ids, embedding, err);
 *     dd_t5_encoder_close(encoder);
 *
 * Source: T5EncoderModel of transformers 5 (last_hidden_state) as FLUX calls it: without an attention mask, so padding is seen.
 */
#ifndef DD_TEXT_T5_ENCODER_H
#define DD_TEXT_T5_ENCODER_H

#include "bind/weight_table.h"
#include "format/config.h"

typedef struct dd_t5_encoder dd_t5_encoder;

/* Prepares the weights for sequences of exactly `length` tokens and takes all memory that encode needs. Backend and files are
 * borrowed and must outlive the encoder: the embedding table ("shared.weight" or "encoder.embed_tokens.weight") stays in the
 * files. Errors: DDIT_ERR_ARGUMENT (length < 1), those of dd_weight_files_need (a tensor is missing or misshapen), memory. *out
 * is NULL on failure. */
ddit_status dd_t5_encoder_open(dd_t5_encoder **out, dd_backend *backend, const dd_weight_files *files,
                               const dd_t5_config *config, int length, ddit_err *err);
void dd_t5_encoder_close(dd_t5_encoder *encoder); /* NULL accepted */

/* ids [length], padded -> embedding [length, d_model] float32, host memory. Error: DDIT_ERR_MISMATCH for an id outside the
 * vocabulary. */
ddit_status dd_t5_encoder_encode(dd_t5_encoder *encoder, const int32_t *ids, float *embedding, ddit_err *err);

/* What an encoder on a backend with this activation dtype takes, before it is opened. */
dd_part_bytes dd_t5_encoder_bytes(const dd_t5_config *config, int length, dd_dtype activation);

/* Bucket of a relative position (key - query) of the bidirectional position bias: the first half of the buckets for keys at or
 * before the query, the second for keys after it; in each half single distances up to a quarter of the buckets, then
 * logarithmic up to max_distance. `buckets` even and >= 4, max_distance > buckets / 4.
 * Source: T5Attention._relative_position_bucket, float32. */
int dd_t5_position_bucket(int relative, int buckets, int max_distance);

#endif
