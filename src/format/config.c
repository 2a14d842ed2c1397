/* The transformer, the autoencoder and the scheduler. */
#include "format/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/json_read.h"

enum {
    MAX_WIDTH = 65536, /* of anything that is a matrix side; FLUX.1 has 12288 */
    MAX_LAYERS = 1024,
    MAX_LENGTH = 1 << 24 /* of sequences */
};

static void fill_flux(void *out, dd_json_reader *r) {
    dd_flux_config *c = out;
    dd_json_expect_string(r, "_class_name", "FluxTransformer2DModel");
    c->in_channels = (int)dd_json_int(r, "in_channels", 64, 1, MAX_WIDTH);
    c->out_channels = (int)dd_json_int(r, "out_channels", c->in_channels, 1, MAX_WIDTH);
    c->num_layers = (int)dd_json_int(r, "num_layers", 19, 0, MAX_LAYERS);
    c->num_single_layers = (int)dd_json_int(r, "num_single_layers", 38, 0, MAX_LAYERS);
    c->attention_head_dim = (int)dd_json_int(r, "attention_head_dim", 128, 2, 1024);
    c->num_attention_heads = (int)dd_json_int(r, "num_attention_heads", 24, 1, 1024);
    c->joint_attention_dim = (int)dd_json_int(r, "joint_attention_dim", 4096, 1, MAX_WIDTH);
    c->pooled_projection_dim = (int)dd_json_int(r, "pooled_projection_dim", 768, 1, MAX_WIDTH);
    c->guidance_embeds = dd_json_bool(r, "guidance_embeds", false);
    int patch_size = (int)dd_json_int(r, "patch_size", 1, 1, 64);
    int axes = dd_json_int_array(r, "axes_dims_rope", c->axes_dims_rope, 3, 2, 1024);
    if (axes == 0) memcpy(c->axes_dims_rope, (int[]){16, 56, 56}, sizeof c->axes_dims_rope);
    c->hidden = c->num_attention_heads * c->attention_head_dim;
    c->mlp_hidden = 4 * c->hidden;
    c->patch = 2;
    c->latent_channels = c->in_channels / (c->patch * c->patch);

    const int *dims = c->axes_dims_rope;
    if (axes != 0 && axes != 3)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"axes_dims_rope\": found %d axes, expected 3", axes);
    else if (dims[0] + dims[1] + dims[2] != c->attention_head_dim)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"axes_dims_rope\": found [%d, %d, %d], expected a sum of %d, the attention_head_dim",
                     dims[0], dims[1], dims[2], c->attention_head_dim);
    else if (dims[0] % 2 || dims[1] % 2 || dims[2] % 2)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"axes_dims_rope\": found [%d, %d, %d], expected even numbers", dims[0], dims[1],
                     dims[2]);
    if (patch_size != 1)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                     "\"patch_size\": found %d, expected 1 (FLUX packs 2 x 2 latent pixels beforehand)", patch_size);
    if (c->hidden > MAX_WIDTH)
        dd_json_fail(r, DDIT_ERR_FORMAT, "num_attention_heads x attention_head_dim: found %d, expected at most %d", c->hidden,
                     MAX_WIDTH);
    if (c->num_layers + c->num_single_layers == 0)
        dd_json_fail(r, DDIT_ERR_FORMAT,
                     "\"num_layers\" and \"num_single_layers\": found 0 and 0, expected at least one block");
    if (c->in_channels % (c->patch * c->patch))
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"in_channels\": found %d, expected a multiple of 4 (2 x 2 latent pixels)",
                     c->in_channels);
    if (c->out_channels != c->in_channels)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                     "\"in_channels\" and \"out_channels\": found %d and %d, expected equal numbers "
                     "(FLUX Fill, Control and the like are not supported)",
                     c->in_channels, c->out_channels);
}

/* Every member of a list of block types must be the one implemented, and there must be one per level. */
static void check_block_types(dd_json_reader *r, const char *key, const char *expected, int levels) {
    const json_t *list = json_object_get(r->object, key);
    if (r->status != DDIT_OK || !list || json_is_null(list)) return;
    if (!json_is_array(list) || json_array_size(list) != (size_t)levels) {
        dd_json_fail(r, DDIT_ERR_FORMAT,
                     "\"%s\": expected an array of %d names, as many as block_out_channels has numbers, found another", key,
                     levels);
        return;
    }
    for (int i = 0; i < levels; i++) {
        const char *name = json_string_value(json_array_get(list, (size_t)i));
        char shown[DD_SHOW_SIZE];
        if (!name || strcmp(name, expected) != 0)
            dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                         "\"%s\": found %s at index %d, expected \"%s\"; other blocks are not supported", key,
                         name ? dd_show(shown, name) : "no string", i, expected);
    }
}

static void fill_vae(void *out, dd_json_reader *r) {
    dd_vae_config *c = out;
    dd_json_expect_string(r, "_class_name", "AutoencoderKL");
    c->in_channels = (int)dd_json_int(r, "in_channels", 3, 3, 3);
    c->out_channels = (int)dd_json_int(r, "out_channels", 3, 3, 3);
    c->latent_channels = (int)dd_json_int(r, "latent_channels", 4, 1, 1024);
    c->layers_per_block = (int)dd_json_int(r, "layers_per_block", 1, 1, 64);
    c->norm_num_groups = (int)dd_json_int(r, "norm_num_groups", 32, 1, MAX_WIDTH);
    c->level_count = dd_json_int_array(r, "block_out_channels", c->block_out_channels, DD_VAE_MAX_LEVELS, 1, MAX_WIDTH);
    if (c->level_count == 0) {
        c->block_out_channels[0] = 64;
        c->level_count = 1;
    }
    for (int i = 0; i < c->level_count; i++)
        if (c->block_out_channels[i] % c->norm_num_groups)
            dd_json_fail(r, DDIT_ERR_FORMAT,
                         "\"block_out_channels\": found %d at index %d, expected a multiple of %d, the norm_num_groups",
                         c->block_out_channels[i], i, c->norm_num_groups);
    c->scaling_factor = (float)dd_json_number(r, "scaling_factor", 0.18215, 1e-6, 1e6);
    c->shift_factor = (float)dd_json_number(r, "shift_factor", 0, -1e6, 1e6);
    c->use_quant_conv = dd_json_bool(r, "use_quant_conv", true);
    c->mid_block_add_attention = dd_json_bool(r, "mid_block_add_attention", true);
    c->scale = 1 << (c->level_count - 1);
    dd_json_expect_string(r, "act_fn", "silu");
    if (dd_json_bool(r, "use_post_quant_conv", true))
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                     "\"use_post_quant_conv\" is true (or absent, which means true), expected false as in FLUX: "
                     "the convolution before the decoder is not supported");
    dd_json_refuse_present(r, "latents_mean", "normalisation per channel");
    dd_json_refuse_present(r, "latents_std", "normalisation per channel");
    check_block_types(r, "down_block_types", "DownEncoderBlock2D", c->level_count);
    check_block_types(r, "up_block_types", "UpDecoderBlock2D", c->level_count);
}

static void fill_scheduler(void *out, dd_json_reader *r) {
    dd_scheduler_config *c = out;
    dd_json_expect_string(r, "_class_name", "FlowMatchEulerDiscreteScheduler");
    c->num_train_timesteps = (int)dd_json_int(r, "num_train_timesteps", 1000, 1, 1000000);
    c->shift = dd_json_number(r, "shift", 1.0, 1e-3, 1e3);
    c->use_dynamic_shifting = dd_json_bool(r, "use_dynamic_shifting", false);
    c->base_shift = dd_json_number(r, "base_shift", 0.5, -20, 20);
    c->max_shift = dd_json_number(r, "max_shift", 1.15, -20, 20);
    c->base_image_seq_len = (int)dd_json_int(r, "base_image_seq_len", 256, 1, MAX_LENGTH);
    c->max_image_seq_len = (int)dd_json_int(r, "max_image_seq_len", 4096, 1, MAX_LENGTH);
    if (c->base_image_seq_len >= c->max_image_seq_len)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"base_image_seq_len\": found %d, expected less than the max_image_seq_len %d",
                     c->base_image_seq_len, c->max_image_seq_len);
    const char *time_shift = dd_json_string(r, "time_shift_type", "exponential");
    char shown[DD_SHOW_SIZE];
    if (strcmp(time_shift, "linear") == 0)
        c->time_shift = DD_SCHEDULER_SHIFT_LINEAR;
    else if (strcmp(time_shift, "exponential") != 0)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"time_shift_type\": found \"%s\", expected \"exponential\" or \"linear\"",
                     dd_show(shown, time_shift));
    dd_json_refuse_true(r, "use_karras_sigmas", "the Karras grid");
    dd_json_refuse_true(r, "use_exponential_sigmas", "the exponential grid");
    dd_json_refuse_true(r, "use_beta_sigmas", "the beta grid");
    dd_json_refuse_true(r, "stochastic_sampling", "stochastic sampling");
    dd_json_refuse_true(r, "invert_sigmas", "an inverted grid");
    if (dd_json_number(r, "shift_terminal", 0, -1e6, 1e6) != 0)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                     "\"shift_terminal\": found a number, expected null: stretching the grid is not supported");
}

ddit_status dd_flux_config_parse(dd_flux_config *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_flux, 0, text, size, label, err);
}

ddit_status dd_vae_config_parse(dd_vae_config *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_vae, 0, text, size, label, err);
}

ddit_status dd_scheduler_config_parse(dd_scheduler_config *out, const char *text, size_t size, const char *label,
                                      ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_scheduler, 0, text, size, label, err);
}
