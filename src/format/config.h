/* The configuration files of a diffusers folder as typed structs. Every dimension of a model comes from here.
 *
 * Keys, defaults and meanings are those of diffusers 0.42 and transformers 5. Unknown keys are ignored, as there. A key with a
 * wrong type or a value out of range is refused (DDIT_ERR_FORMAT), a value that is fine in diffusers but not implemented here
 * likewise (DDIT_ERR_UNSUPPORTED); the sentence names file, key, what was found and what is accepted.
 *
 * dd_NAME_config_parse reads text (label stands for the file in errors); dd_NAME_config_read reads the file. Structs own
 * nothing.
 */
#ifndef DD_FORMAT_CONFIG_H
#define DD_FORMAT_CONFIG_H

#include "base/alloc.h"

enum {
    DD_VAE_MAX_LEVELS = 8,
    DD_NAME_SIZE = 128,
    DD_SCHEDULE_SIZE = 1024,
    DD_CONFIG_MAX_BYTES = 1 << 20 /* a larger configuration file is refused */
};

/* transformer/config.json: FluxTransformer2DModel. */
typedef struct dd_flux_config {
    int in_channels;  /* features of an image token: latent_channels * patch * patch */
    int out_channels; /* the same for the velocity; in_channels if the file says null */
    int num_layers;   /* double blocks */
    int num_single_layers;
    int attention_head_dim; /* even */
    int num_attention_heads;
    int joint_attention_dim;   /* width of the T5 embedding */
    int pooled_projection_dim; /* width of the pooled CLIP embedding */
    bool guidance_embeds;
    int axes_dims_rope[3]; /* even; their sum is attention_head_dim */
    int hidden;            /* derived: heads * head_dim */
    int mlp_hidden;        /* derived: 4 * hidden */
    int patch;             /* derived: latent pixels per token side at factor 1; always 2 in FLUX (packed outside the model) */
    int latent_channels;   /* derived: in_channels / (patch * patch) */
} dd_flux_config;

/* vae/config.json: AutoencoderKL, its decoder. Files with use_post_quant_conv true, latents_mean / latents_std, or other
 * blocks than DownEncoderBlock2D / UpDecoderBlock2D are refused as unsupported. */
typedef struct dd_vae_config {
    int in_channels, out_channels; /* 3 */
    int latent_channels;
    int level_count;
    int block_out_channels[DD_VAE_MAX_LEVELS]; /* multiples of norm_num_groups */
    int layers_per_block;                      /* resnets per encoder level; the decoder has one more */
    int norm_num_groups;
    float scaling_factor, shift_factor; /* z_model = (z_vae - shift) * scaling */
    bool use_quant_conv;                /* concerns the encoder only */
    bool mid_block_add_attention;
    int scale; /* derived: picture pixels per latent pixel, 2^(level_count - 1) */
} dd_vae_config;

typedef enum dd_hidden_act { DD_ACT_QUICK_GELU, DD_ACT_GELU_ERF, DD_ACT_GELU_TANH } dd_hidden_act;

/* text_encoder/config.json: CLIPTextModel. */
typedef struct dd_clip_config {
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, max_position_embeddings;
    int head_dim; /* derived */
    dd_hidden_act hidden_act;
    float layer_norm_eps;
    int bos_token_id, eos_token_id; /* eos 2 is the legacy value: pool at the largest id instead */
} dd_clip_config;

/* text_encoder_2/config.json: T5EncoderModel, gated GELU (tanh) only. */
typedef struct dd_t5_config {
    int vocab_size, d_model, d_kv, d_ff, num_layers, num_heads;
    int relative_attention_num_buckets; /* even */
    int relative_attention_max_distance;
    float layer_norm_epsilon;
    int pad_token_id, eos_token_id;
} dd_t5_config;

typedef enum dd_scheduler_shift { DD_SCHEDULER_SHIFT_EXPONENTIAL, DD_SCHEDULER_SHIFT_LINEAR } dd_scheduler_shift;

/* scheduler/scheduler_config.json: FlowMatchEulerDiscreteScheduler. Karras, beta and exponential sigmas, stochastic sampling,
 * inverted sigmas and shift_terminal are refused as unsupported. */
typedef struct dd_scheduler_config {
    int num_train_timesteps;
    double shift; /* static shift, used when use_dynamic_shifting is false */
    bool use_dynamic_shifting;
    double base_shift, max_shift;
    int base_image_seq_len, max_image_seq_len;
    dd_scheduler_shift time_shift; /* exponential: s = e^mu / (e^mu + (1/t - 1)); linear: mu in place of e^mu */
} dd_scheduler_config;

/* tokenizer/tokenizer_config.json. */
typedef struct dd_tokenizer_config {
    int model_max_length; /* 0 if absent or "infinite" (transformers writes 1e30) */
    int extra_ids;        /* T5 sentinels after the pieces; -1 if absent */
} dd_tokenizer_config;

/* ddit.json beside model_index.json. Everything is optional. */
typedef struct dd_ddit_config {
    bool found;                                     /* false: there is no such file, all else is unset */
    char name[DD_NAME_SIZE], license[DD_NAME_SIZE]; /* "" if absent */
    int width, height, steps, max_sequence_length;  /* 0 if absent */
    float guidance;                                 /* NaN if absent */
    int64_t seed;                                   /* -1 if absent */
    char patch[DD_SCHEDULE_SIZE];                   /* as for --patch; "" if absent */
    float free_detail[3]; /* h of the free coarse step, by index of the factor (1, 2, 4); 0 if absent */
} dd_ddit_config;

/* Everything a FluxPipeline folder says about itself, without weights. */
typedef struct dd_model_folder {
    dd_flux_config transformer;
    dd_vae_config vae;
    dd_clip_config clip;
    dd_t5_config t5;
    dd_scheduler_config scheduler;
    dd_tokenizer_config tokenizer, tokenizer_2; /* unset if the folders have no tokenizer_config.json */
    dd_ddit_config ddit;
} dd_model_folder;

ddit_status dd_flux_config_parse(dd_flux_config *out, const char *text, size_t size, const char *label, ddit_err *err);
ddit_status dd_vae_config_parse(dd_vae_config *out, const char *text, size_t size, const char *label, ddit_err *err);
ddit_status dd_clip_config_parse(dd_clip_config *out, const char *text, size_t size, const char *label, ddit_err *err);
ddit_status dd_t5_config_parse(dd_t5_config *out, const char *text, size_t size, const char *label, ddit_err *err);
ddit_status dd_scheduler_config_parse(dd_scheduler_config *out, const char *text, size_t size, const char *label,
                                      ddit_err *err);
ddit_status dd_tokenizer_config_parse(dd_tokenizer_config *out, const char *text, size_t size, const char *label,
                                      ddit_err *err);
ddit_status dd_ddit_config_parse(dd_ddit_config *out, const char *text, size_t size, const char *label, ddit_err *err);

/* Checks a model_index.json: the class is FluxPipeline and its seven parts are of the classes implemented here. */
ddit_status dd_model_index_parse(const char *text, size_t size, const char *label, ddit_err *err);

ddit_status dd_flux_config_read(dd_flux_config *out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_vae_config_read(dd_vae_config *out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_clip_config_read(dd_clip_config *out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_t5_config_read(dd_t5_config *out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_scheduler_config_read(dd_scheduler_config *out, const dd_allocator *a, const char *path, ddit_err *err);

/* Reads all of them from the folder and checks that they fit together (latent channels of transformer and autoencoder, text
 * widths). Errors: DDIT_ERR_NOT_FOUND (no such folder, no model_index.json: what the folder seems to be is said),
 * DDIT_ERR_FORMAT, DDIT_ERR_UNSUPPORTED, DDIT_ERR_MISMATCH. */
ddit_status dd_model_folder_read(dd_model_folder *out, const dd_allocator *a, const char *path, ddit_err *err);

#endif
