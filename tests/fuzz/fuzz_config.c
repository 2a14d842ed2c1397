/* The first byte chooses a configuration, the rest is its text. What is accepted must keep the promises of the header. */
#include <stdlib.h>

#include "format/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) abort();
}

static ddit_status parse_model(int kind, const char *text, size_t size, ddit_err *err) {
    ddit_status status;
    if (kind == 0) {
        dd_flux_config c;
        status = dd_flux_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) {
            check(c.hidden == c.attention_head_dim * c.num_attention_heads && c.hidden > 0 && c.latent_channels > 0);
            check(c.axes_dims_rope[0] + c.axes_dims_rope[1] + c.axes_dims_rope[2] == c.attention_head_dim);
        }
    } else if (kind == 1) {
        dd_vae_config c;
        status = dd_vae_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.level_count >= 1 && c.level_count <= DD_VAE_MAX_LEVELS && c.block_out_channels[0] > 0);
    } else if (kind == 2) {
        dd_clip_config c;
        status = dd_clip_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.head_dim * c.num_attention_heads == c.hidden_size && c.vocab_size > 0);
    } else {
        dd_t5_config c;
        status = dd_t5_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.relative_attention_num_buckets % 4 == 0 && c.num_layers > 0 && c.d_ff > 0);
    }
    return status;
}

static ddit_status parse_other(int kind, const char *text, size_t size, ddit_err *err) {
    ddit_status status;
    if (kind == 4) {
        dd_scheduler_config c;
        status = dd_scheduler_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.shift > 0 && c.base_image_seq_len < c.max_image_seq_len);
    } else if (kind == 5) {
        dd_tokenizer_config c;
        status = dd_tokenizer_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.model_max_length >= 0 && c.extra_ids >= -1);
    } else {
        dd_ddit_config c;
        status = dd_ddit_config_parse(&c, text, size, "fuzz", err);
        if (status == DDIT_OK) check(c.width % 16 == 0 && c.steps >= 0 && c.seed >= -1 && c.free_detail[1] >= 0);
    }
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    ddit_err err = {0};
    int kind = data[0] % 7;
    const char *text = (const char *)data + 1;
    ddit_status status = kind < 4 ? parse_model(kind, text, size - 1, &err) : parse_other(kind, text, size - 1, &err);
    check(status == DDIT_OK || (err.text[0] != '\0' && err.code == status));
    return 0;
}
