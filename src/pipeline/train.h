/* What one training is made of, between the public call and the rooms train and dit. Private to train*.c.
 *
 * The order of things: settings, texts and files of the user are read and checked (nothing else has been done yet when one of
 * them is refused), the plan is told, prompts are encoded, the transformer is opened, data are made, then the steps.
 */
#ifndef DD_PIPELINE_TRAIN_H
#define DD_PIPELINE_TRAIN_H

#include <jansson.h>

#include "base/hash.h"
#include "base/lock_file.h"
#include "media/picture_folder.h"
#include "pipeline/pipeline.h"
#include "train/checkpoint.h"
#include "train/loss_log.h"
#include "train/pictures.h"
#include "train/trainer.h"
#include "train/trajectories.h"

enum { DD_TRAIN_SAMPLE_PROMPTS = 4, DD_TRAIN_SETTINGS_SIZE = 2048 };

/* The values a training really uses, after defaults, presets and the model's own. */
typedef struct dd_train_settings {
    dd_settings run;          /* sizes, text length, steps and guidance of the model's pictures */
    bool all;                 /* scope */
    bool distil;              /* all, with a range of guidance: its own teacher without guidance input */
    dd_train_options options;
    char *output, *folder;    /* owned: what is written; the run's folder beside it */
    char *cache;              /* owned */
    const char *prompts, *data, *init, *eval; /* borrowed from the parameters; NULL: none */
    int trajectories, points;
    double mixed;
    int64_t steps;            /* 0: to be found from `minutes` */
    double minutes;           /* NaN: none */
    bool measure_only;        /* steps = -1 */
    int batch, accumulate;
    dd_optimizer_params optimizer;
    double patch_lr;     /* factor of the rate of what is not LoRA */
    int64_t warmup;           /* -1: 5 % of all */
    double loss_floor;
    float guidance_low, guidance_high;
    double caption_dropout;
    dd_noise_levels levels;   /* of pictures */
    uint64_t seed;
    bool resume;
    int64_t sample_every, save_every;
} dd_train_settings;

/* Errors: DDIT_ERR_ARGUMENT, a sentence naming the parameter, what was found and expected. *s is zeroed on failure. */
ddit_status dd_train_settings_resolve(dd_train_settings *s, const ddit_model *model, const ddit_train_params *params,
                                      ddit_err *err);
void dd_train_settings_deinit(dd_train_settings *s, const dd_allocator *a);

/* Fixes the number of steps and what depends on it: warm-up, decay. */
void dd_train_settings_fix_steps(dd_train_settings *s, int64_t steps);

/* The latent of the size trained at, and its cells at factor 1. */
dd_latent_shape dd_train_shape(const dd_train_settings *s, const ddit_model *model);
dd_grid dd_train_grid(const dd_train_settings *s, const ddit_model *model);

/* ---------------------------------------------------------------------------------------------- texts */

/* Prompts and what the text encoders make of them. */
typedef struct dd_train_texts {
    char **lines;                   /* owned [count], each owned */
    dd_prompt_embedding *embedded;  /* owned [count]; zeroed until encoded */
    dd_train_prompt *prompts;       /* owned [count]: views of `embedded` */
    int count, room;
} dd_train_texts;

/* A zeroed one is accepted. add: appends a copy of line[length]. Errors: DDIT_ERR_NO_MEMORY. */
void dd_train_texts_deinit(dd_train_texts *texts, const dd_allocator *a);
ddit_status dd_train_texts_add(dd_train_texts *texts, const dd_allocator *a, const char *line, size_t length, ddit_err *err);

/* Whether a text may be a prompt. Errors: DDIT_ERR_FORMAT (no UTF-8, too long), the sentence beginning with `where`. */
ddit_status dd_train_text_check(const char *text, size_t length, const char *where, ddit_err *err);

/* A prompt a line; empty lines and lines that begin with # are skipped. Errors: those of reading; DDIT_ERR_FORMAT naming file
 * and line (a NUL, no UTF-8, too long), no prompt at all, more than 100,000. */
ddit_status dd_train_texts_read(dd_train_texts *texts, const dd_allocator *a, const char *path, ddit_err *err);

/* Bytes that the embeddings of `count` prompts take. */
uint64_t dd_train_texts_bytes(const ddit_model *model, const dd_train_settings *s, int count);

/* A number that differs when a text does. */
uint64_t dd_train_texts_hash(const dd_train_texts *texts);

/* ---------------------------------------------------------------------------------------------- held-out set */

typedef struct dd_heldout dd_heldout;

/* Opens a held-out set and adds its prompts to `texts` (which is empty). A file: `latent` [P, T, C, h, w] I8 (times `scale` [1]
 * F32), F16 or F32; `sigma` [T] F32; metadata `prompts` (JSON list of P texts) and `guidance`. Errors: those of reading;
 * DDIT_ERR_FORMAT; DDIT_ERR_MISMATCH if the latents are of another size. *out is NULL on failure. */
ddit_status dd_heldout_open(dd_heldout **out, dd_train_texts *texts, const ddit_model *model, const dd_train_settings *s,
                            const char *path, ddit_err *err);
void dd_heldout_close(dd_heldout *h); /* NULL accepted */
int dd_heldout_count(const dd_heldout *h);       /* latents: prompts times levels */
uint64_t dd_heldout_bytes(const dd_heldout *h); /* of the targets in memory */

/* Computes the frozen model's velocity at every latent that this rank measures, and keeps it as F16. The texts that
 * dd_heldout_open added must have been encoded. Errors: DDIT_ERR_NO_MEMORY, DDIT_ERR_CANCELLED, those of the model. */
struct dd_train_run;
ddit_status dd_heldout_make_targets(dd_heldout *h, struct dd_train_run *run, ddit_err *err);

/* Samples with targets, owned by h; step is ignored. The first ones already are of all prompts and levels. */
const dd_train_source *dd_heldout_source(const dd_heldout *h);

/* ---------------------------------------------------------------------------------------------- data */

/* Trajectories for guidance distillation: they were drawn with an input of 1, since the base does not know others yet; this
 * source stands before theirs and draws the guidance that is to be learnt. */
typedef struct dd_train_guided {
    dd_train_source source;        /* first: the source is the object */
    const dd_train_source *inner;
    uint64_t seed, samples_per_step;
    float low, high;
} dd_train_guided;

/* Where samples come from: the base's trajectories, or pictures. */
typedef struct dd_train_data {
    dd_train_guided guided, eval_guided; /* in use with distillation alone */
    dd_trajectories *trajectories; /* owned or NULL */
    dd_picture_folder folder;      /* owned; empty without pictures */
    dd_pictures_item *items;       /* owned [folder.count] */
    dd_pictures *pictures;         /* owned or NULL */
} dd_train_data;

/* Pictures: lists the folder, its captions becoming run->texts; opens (and makes) their latents. hash: of captions and files,
 * a number that differs when one of them does. Errors: those of picture_folder.h and train/pictures.h; DDIT_ERR_NOT_FOUND if
 * latents that other ranks made cannot be seen. make: all ranks call it, and all end alike. */
ddit_status dd_train_pictures_read(struct dd_train_run *run, ddit_err *err);
ddit_status dd_train_pictures_make(struct dd_train_run *run, ddit_err *err);
void dd_train_pictures_close(struct dd_train_run *run);
uint64_t dd_train_pictures_hash(const struct dd_train_run *run);

/* Noise level of u in (0, 1] for pictures of this size; user: the run. */
float dd_train_sigma_of(const void *run, double u);

/* ---------------------------------------------------------------------------------------------- the run */

/* A transformer with gradients and what works on it. */
typedef struct dd_train_engine {
    dd_flux_dit *dit;            /* owned by the run's model, or (teacher) here */
    dd_flux_trainee *trainee;    /* owned */
    dd_flux_lane **lanes;        /* owned [lane_count] */
    dd_flux_batch *batch;        /* owned */
} dd_train_engine;

typedef struct dd_train_run {
    ddit_context *context;
    const dd_allocator *a;
    const ddit_train_params *params;
    dd_comm *comm;               /* owned */
    int rank, ranks, local;      /* local: samples of a batch on this rank */
    ddit_model *model;           /* owned; its dit is opened for training */
    dd_train_settings s;
    char settings[DD_TRAIN_SETTINGS_SIZE]; /* lines key=value: what a checkpoint must agree with */
    uint64_t fingerprint;        /* of the transformer's file */
    uint64_t init_hash;          /* of the adapter that training starts from; 0: none */
    int lane_count;
    int vectors, accumulators;   /* gradient vectors of all ranks, of this one */
    uint64_t bytes;              /* announced */
    dd_safetensors *init;        /* owned or NULL */
    dd_safetensors *policy;      /* owned or NULL: the adapter in the model's folder */
    dd_train_texts texts;        /* of the training data */
    dd_train_texts eval_texts;
    dd_train_texts empty;        /* scope all: the empty prompt */
    dd_heldout *heldout;         /* owned or NULL */
    dd_trajectories *eval_trajectories; /* owned or NULL */
    const dd_train_source *eval_source; /* NULL: no evaluation */
    int eval_count;
    dd_backend **lane_backends;  /* owned [lane_count]; the main backend if there is one lane */
    dd_pool *pool;               /* owned: lane_count threads */
    dd_train_engine student, teacher;
    dd_train_data *data;         /* owned */
    const dd_train_source *source;
    float *start;                /* owned [total]: values before the first step */
    dd_optimizer optimizer;
    dd_trainer *trainer;         /* owned */
    dd_loss_log log;
    bool logging;
    dd_lock_file lock;           /* of the run's folder; rank 0 */
    uint8_t *base_pictures;      /* owned or NULL: the samples' first column, drawn once */
    double seconds;              /* trained so far */
    double step_seconds;         /* of a step lately; 0: not known */
    double eval_first[DD_LAYOUT_KINDS], eval_last[DD_LAYOUT_KINDS];
    json_t *files;               /* owned: paths written */
    bool stop;                   /* asked to */
} dd_train_run;

/* ---------------------------------------------------------------------------------------------- steps on the way */

/* The lanes a training works with, and gradient vectors: both follow from model, size and threads alone. */
void dd_train_choose_lanes(dd_train_run *run);
dd_flux_lane_params dd_train_lane_params(const dd_train_run *run);

/* Values of the flat vector, before a trainee is there. */
int64_t dd_train_param_count(const dd_train_run *run);

/* Sets run->bytes, tells the plan. */
ddit_status dd_train_announce(dd_train_run *run, ddit_err *err);

/* Opens transformer, trainee, lanes, batch (and the teacher's). close: what is there of them. */
ddit_status dd_train_engines_open(dd_train_run *run, ddit_err *err);
void dd_train_engines_close(dd_train_run *run);

/* Training data: reads what the user gave (prompts or the list of pictures); encodes texts; makes trajectories and run->source.
 * Evaluation data likewise. make: all ranks call it, and all end alike. hash: of what the samples are made of, for
 * run->settings. */
ddit_status dd_train_data_read(dd_train_run *run, ddit_err *err);
ddit_status dd_train_data_encode(dd_train_run *run, ddit_err *err);
ddit_status dd_train_data_make(dd_train_run *run, ddit_err *err);
void dd_train_data_close(dd_train_run *run);
uint64_t dd_train_data_hash(const dd_train_run *run);
uint64_t dd_train_data_bytes(const dd_train_run *run); /* memory beside embeddings */

/* Opens the trainer over run->source; needs run->optimizer. */
ddit_status dd_train_trainer_open(dd_train_run *run, ddit_err *err);
dd_trainer_params dd_train_trainer_params(const dd_train_run *run);

/* The run's settings as text into run->settings. */
void dd_train_settings_text(dd_train_run *run);

/* From where values begin to the last step: checkpoints, logs, evaluation, samples. Errors: DDIT_ERR_CANCELLED (after saving),
 * DDIT_ERR_DIVERGED, those of a step and of writing. */
ddit_status dd_train_loop(dd_train_run *run, ddit_err *err);

/* Held-out losses of `values` into `loss`, and (rank 0) a row of FOLDER/eval.csv. all: every sample, not only a part. */
ddit_status dd_train_evaluate(dd_train_run *run, const float *values, bool all, double loss[DD_LAYOUT_KINDS], ddit_err *err);

/* The losses of a step's row in FOLDER/eval.csv. False, and *loss unchanged, if there is none. */
bool dd_train_evaluated(const dd_train_run *run, int64_t step, double loss[DD_LAYOUT_KINDS]);

/* Rank 0: FOLDER/samples-STEP.png with the values as they are put in by the call. drawn: whether this step's is there. */
bool dd_train_samples_drawn(const dd_train_run *run);
ddit_status dd_train_draw_samples(dd_train_run *run, const float *values, ddit_err *err);
uint64_t dd_train_samples_bytes(const dd_train_run *run); /* memory that drawing takes beside the training's */

/* Rank 0: writes `values` to the adapter file `path`; or the new model's folder to settings.output. Whole or not at all; a
 * model that could not be moved to its place stays in the run's folder. */
ddit_status dd_train_write_adapter(dd_train_run *run, const char *path, const float *values, ddit_err *err);
ddit_status dd_train_write_model(dd_train_run *run, const float *values, ddit_err *err);

/* What the training came to, as JSON that the caller frees with dd_free; "" on ranks above 0. */
ddit_status dd_train_report(dd_train_run *run, char **json, ddit_err *err);

/* ---------------------------------------------------------------------------------------------- small things */

/* How far data have come, `made` of `missing` since `begin` (dd_seconds), as progress. Returns run->stop. */
int dd_train_tell_made(dd_train_run *run, double begin, int made, int missing);

/* The ranks have made their shares, this one with `status`. All ranks call it, and all end alike: with an error if one failed,
 * or if one still misses something that another made; `missing` counts that, `what` names it. */
ddit_status dd_train_agree_made(dd_train_run *run, ddit_status status, int (*missing)(void *of), void *of,
                                const char *what, ddit_err *err);

/* Calls the user's progress on rank 0; remembers a wish to stop in run->stop. */
void dd_train_tell(dd_train_run *run, const ddit_train_progress *progress);
ddit_train_progress dd_train_progress(const char *phase); /* losses and times NaN */

/* run->stop of rank 0 on all ranks. */
ddit_status dd_train_share_stop(dd_train_run *run, ddit_err *err);

/* FOLDER/name, owned by the caller. */
ddit_status dd_train_path(const dd_train_run *run, char **path, const char *name, ddit_err *err);

/* dd_make_folder for a path that the user named: a file in its place is said to be one (DDIT_ERR_OUTPUT_PATH). */
ddit_status dd_train_make_folder(const char *path, ddit_err *err);

/* A number that tells files of weights apart: names, shapes and the first bytes of every tensor. */
uint64_t dd_train_fingerprint(const dd_weight_files *files);

#endif
