/* What stands behind the public objects. Private to the room. */
#ifndef DD_PIPELINE_PIPELINE_H
#define DD_PIPELINE_PIPELINE_H

#include "backend/registry.h"
#include "ddit/ddit.h"
#include "format/adapter.h"
#include "format/config.h"
#include "sample/sampler.h"

struct ddit_context {
    dd_allocator allocator;
    dd_backend *backend;  /* owned */
    int children;         /* models that are open */
    char device[128];
};

struct ddit_model {
    ddit_context *context;
    char *folder;              /* owned */
    char *adapter_path;        /* owned; NULL without adapter */
    dd_model_folder config;
    dd_weight_files *files;    /* owned: the transformer's */
    dd_flux_dit *dit;          /* owned */
    dd_adapter adapter;        /* owned; .file is NULL without adapter */
    int children;              /* sessions that are open */
};

/* The values a run really uses, after model defaults. */
typedef struct dd_settings {
    char *prompt, *negative;   /* owned */
    int width, height, steps;
    uint64_t seed;
    float guidance, cfg_scale;
    int max_sequence_length;
    char *patch;               /* owned: "off", "auto", "region", a schedule or "@FILE", as asked for */
    dd_patch_policy policy;    /* .schedule points to the field below */
    dd_patch_schedule schedule;
    bool coarse_free;
    int anchor;
    char *noise_file;          /* owned or NULL */
    bool keep_steps;
    int latent_height, latent_width;
} dd_settings;

/* The weight files of a part of the model's folder: "transformer", "vae", "text_encoder" … Closed by the caller. */
ddit_status dd_model_part_open(const ddit_model *model, const char *part, dd_weight_files **files, ddit_err *err);

/* The adapter that a model's folder may hold. */
#define DD_ADAPTER_NAME "ddit-adapter.safetensors"

/* Finds, opens and checks the adapter: the path asked for, "none", or (NULL) the one in the model's folder if there is one.
 * model->adapter.file and adapter_path stay NULL without adapter; the model frees both. */
ddit_status dd_model_adapter_open(ddit_model *model, const char *asked, ddit_err *err);

/* Resolves and checks everything that can be known without running. Errors: DDIT_ERR_ARGUMENT with a sentence naming the
 * parameter, what was found and expected; those of reading a replayed schedule. *settings is zeroed on failure. */
ddit_status dd_settings_resolve(dd_settings *settings, const ddit_model *model, const ddit_params *params, ddit_err *err);
void dd_settings_deinit(dd_settings *settings, const dd_allocator *a);

/* What the sampler is asked for. */
dd_sampler_params dd_settings_sampler(const dd_settings *settings, const ddit_model *model);

/* Reads the schedule stored in a trace (JSON) or one of our pictures (PNG), and that run's anchor (-1 if it does not say). */
ddit_status dd_replay_read(dd_patch_schedule *schedule, int *anchor, const dd_allocator *a, const char *path, ddit_err *err);

/* One prompt through both text encoders. Host memory, float32. */
typedef struct dd_prompt_embedding {
    float *text;   /* owned [max_sequence_length, joint_attention_dim] */
    float *pooled; /* owned [pooled_projection_dim] */
} dd_prompt_embedding;

/* Encodes `count` prompts (positive, negative): opens tokenizers and encoders, which are freed again. What was cut is said in
 * `notes` (capacity bytes, appended). */
ddit_status dd_prompts_encode(const ddit_model *model, const char *const *prompts, int count, int max_sequence_length,
                              dd_prompt_embedding *out, char *notes, size_t notes_size, ddit_err *err);
void dd_prompt_embedding_deinit(dd_prompt_embedding *e, const dd_allocator *a);

typedef struct dd_phase_seconds {
    double encode, prepare, denoise, decode;
} dd_phase_seconds;

struct ddit_session {
    ddit_model *model;
    dd_settings settings;
    dd_sampler *sampler;   /* owned */
    float *noise;          /* owned, host [C, h, w] */
    bool ran;
    dd_phase_seconds seconds;
    ddit_params callbacks; /* progress and user only */
    char *trace;           /* owned: text of the last ddit_session_trace */
    char notes[1024];
};

struct ddit_image {
    dd_allocator allocator;
    int width, height;
    uint8_t *rgb;      /* owned [height, width, 3] */
    char *parameters;  /* owned or NULL: A1111 text */
    char *metadata;    /* owned or NULL: trace JSON */
};

/* The trace as JSON text that the caller frees with dd_free; compact = one line, without per-step seconds, for a picture. */
ddit_status dd_trace_json(const ddit_session *session, bool compact, char **text, ddit_err *err);

/* The A1111 `parameters` text; the caller frees it with dd_free. */
ddit_status dd_trace_parameters(const ddit_session *session, char **text, ddit_err *err);

#endif
