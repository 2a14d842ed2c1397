/* libddit: pictures with diffusion transformers, with dynamic patch scheduling (DDiT, arXiv 2602.16968).
 *
 *     ddit_context *context; ddit_model *model; ddit_image *image; ddit_err err;
 *     if (ddit_context_create(&context, NULL, &err) || ddit_model_open(&model, context, "models/emoji", NULL, &err)) return 1;
 *     ddit_params params = ddit_params_init(); params.prompt = "red apple";
 *     if (ddit_generate(&image, model, &params, &err) || ddit_image_save_png(image, "apple.png", &err)) return 1;
 *     ddit_image_free(image); ddit_model_close(model); ddit_context_free(context);
 *
 * Objects: a context (processor, threads, memory) > models (weights, immutable after open) > sessions (one picture being made).
 * Children are freed before their parents; freeing a parent that still has children does nothing. A context and everything
 * under it is used by one thread at a time; several contexts are independent. The library never prints, exits or aborts, and
 * keeps no global state. Functions return DDIT_OK or a negative code and write a sentence into *err (which may be NULL). On
 * failure an out-parameter is NULL. Strings are UTF-8.
 */
#ifndef DDIT_DDIT_H
#define DDIT_DDIT_H

#include <stddef.h>
#include <stdint.h>

#include "ddit/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DDIT_API __attribute__((visibility("default")))
#else
#define DDIT_API
#endif

#define DDIT_VERSION "0.1.0"

typedef struct ddit_context ddit_context;
typedef struct ddit_model ddit_model;
typedef struct ddit_session ddit_session;
typedef struct ddit_image ddit_image;

/* The version of the library that is linked, e.g. "0.1.0". */
DDIT_API const char *ddit_version(void);

/* The sentence of a code, e.g. "out of memory". Never NULL. */
DDIT_API const char *ddit_status_text(ddit_status status);

/* ------------------------------------------------------------------------------------------------ context */

typedef struct ddit_context_params {
    size_t struct_size;     /* set by ddit_context_params_init: says which version of this struct the caller knows */
    const char *backend;    /* "cpu" (also when NULL) or "ref" (plain C, slow, the truth for tests) */
    const char *precision;  /* "auto" (also when NULL: bf16 where the processor computes it), "f32", "bf16" */
    int threads;            /* 0: one per core this process may use */
    void *(*alloc)(void *user, size_t size); /* 64-byte aligned memory or NULL; NULL: the C library's */
    void (*free)(void *user, void *memory);  /* together with alloc */
    void *user;             /* for alloc and free */
} ddit_context_params;

DDIT_API ddit_context_params ddit_context_params_init(void);

/* params may be NULL (defaults). Errors: DDIT_ERR_ARGUMENT (also an unknown precision), DDIT_ERR_UNSUPPORTED (an unknown
 * backend, a precision it lacks), DDIT_ERR_BACKEND. */
DDIT_API ddit_status ddit_context_create(ddit_context **out, const ddit_context_params *params, ddit_err *err);
DDIT_API void ddit_context_free(ddit_context *context); /* NULL accepted */

/* The processor and precision in words, e.g. "AMD EPYC (AVX512-BF16), 2 threads, bf16"; lives as long as the context. */
DDIT_API const char *ddit_context_device(const ddit_context *context);

/* ------------------------------------------------------------------------------------------------ model */

/* Opens a diffusers folder of a FluxPipeline and prepares its transformer; text encoders and autoencoder are read when needed.
 * adapter: path of a DDiT adapter file; NULL = the folder's ddit-adapter.safetensors if there is one; "none" = no adapter.
 * Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT, DDIT_ERR_MISMATCH, DDIT_ERR_UNSUPPORTED, DDIT_ERR_NO_MEMORY. */
DDIT_API ddit_status ddit_model_open(ddit_model **out, ddit_context *context, const char *folder, const char *adapter,
                                     ddit_err *err);
DDIT_API void ddit_model_close(ddit_model *model); /* NULL accepted */

/* ------------------------------------------------------------------------------------------------ parameters */

/* What is known after a step; passed to the progress callback. */
typedef struct ddit_progress {
    int step, steps;         /* finished steps 1..steps */
    const char *phase;       /* "encode", "denoise", "decode"; step and steps are 0 outside denoise */
    float sigma;             /* noise level of the step that ended */
    int cells[3];            /* cells of factor 1, 2, 4 that it ran with */
    int text_tokens, image_tokens;
    double seconds;          /* of this step */
    double seconds_left;     /* estimate for the rest of the denoising */
} ddit_progress;

/* Everything about one picture. Unset numbers (0, NaN, NULL as said) take the model's default, else the one named here. */
typedef struct ddit_params {
    size_t struct_size;          /* set by ddit_params_init */
    const char *prompt;          /* required; at most 32,000 bytes of UTF-8 */
    const char *negative_prompt; /* used when cfg_scale > 1; NULL = "" */
    int width, height;           /* pixels, multiples of 16 in 64..4096; 0: ddit.json, else 1024 */
    int steps;                   /* 1..1000; 0: the schedule's sum, ddit.json, else 28 (4 for models without guidance input) */
    uint64_t seed;               /* torch's CPU generator */
    float guidance;              /* the guidance input of the network; NaN: ddit.json, else 3.5 */
    float cfg_scale;             /* classifier-free guidance with two branches; NaN or 1: off */
    int max_sequence_length;     /* T5 tokens; 0: ddit.json, tokenizer_2's model_max_length, else 512 (256 without
                                  * guidance input) */
    const char *patch;           /* "off", "auto", "region", a schedule ("1x3,2x20,4x7"), "@FILE" (a trace or a
                                  * picture of ours, whose anchor is taken too);
                                  * NULL: ddit.json, else auto with an adapter, else off */
    double tau;                  /* threshold, used as given; NaN: the adapter's, scaled to the number of steps; else 0.001 */
    double rho;                  /* quantile 0..1; NaN: the adapter's, else 0.4 */
    int order;                   /* 1..3; 0: the adapter's, else 3 */
    const char *sigma_min;       /* "2:0.3,4:0.9", "none"; NULL: the adapter's */
    const char *coarse;          /* "adapter" or "free"; NULL: adapter if one is loaded */
    int anchor;                  /* anchored coarse steps: most steps that one measured correction serves, 0..1000; 0: none;
                                  * -1: the adapter's, else none (docs/method.md) */
    const char *noise_file;      /* safetensors file that replaces the seed's noise; NULL */
    int keep_steps;              /* keep latents and velocities of all steps for ddit_session_save_latent */
    /* Called from the thread that runs the session, after every step and phase. A non-zero result cancels the run, which then
     * ends with DDIT_ERR_CANCELLED. NULL: none. */
    int (*progress)(void *user, const ddit_progress *progress);
    void *user;
} ddit_params;

DDIT_API ddit_params ddit_params_init(void);

/* ------------------------------------------------------------------------------------------------ making pictures */

/* The whole way in one call: session, run, decode. The image belongs to the caller. Errors: those of the session functions. */
DDIT_API ddit_status ddit_generate(ddit_image **out, ddit_model *model, const ddit_params *params, ddit_err *err);

/* Checks the parameters, encodes the prompts, plans and allocates all memory of the run. params is copied.
 * Errors: DDIT_ERR_ARGUMENT (a sentence naming the parameter, found and expected), those of reading text encoders,
 * tokenizers, noise and replayed schedules, DDIT_ERR_NO_MEMORY, DDIT_ERR_CANCELLED. */
DDIT_API ddit_status ddit_session_create(ddit_session **out, ddit_model *model, const ddit_params *params, ddit_err *err);

/* Denoises from the noise to the final latent. May be called again: with the same seed it does the same again.
 * Errors: DDIT_ERR_CANCELLED, DDIT_ERR_BACKEND. */
DDIT_API ddit_status ddit_session_run(ddit_session *session, ddit_err *err);

/* Another seed for the next run; prompts and plans are kept. */
DDIT_API ddit_status ddit_session_reseed(ddit_session *session, uint64_t seed, ddit_err *err);

/* Decodes the latent of the last run. The image belongs to the caller and outlives the session. */
DDIT_API ddit_status ddit_session_decode(ddit_session *session, ddit_image **out, ddit_err *err);

/* The effective values, schedule, statistics and seconds of the last run as JSON text (format "ddit-trace", docs/trace.md).
 * Before a run has ended, the effective values alone: "schedule" is null and "steps" empty.
 * The text belongs to the session and lives until its next call. */
DDIT_API ddit_status ddit_session_trace(ddit_session *session, const char **json, ddit_err *err);

/* What the user should know and would not see: prompts that were cut, a policy that never fired. One sentence per line, ""
 * if none. Belongs to the session. */
DDIT_API const char *ddit_session_notes(const ddit_session *session);

/* Writes `noise`, `latent` and (keep_steps) `step.K.latent`, `step.K.velocity`, float32, to a safetensors file.
 * Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE; the file appears whole or not at all. */
DDIT_API ddit_status ddit_session_save_latent(ddit_session *session, const char *path, ddit_err *err);

DDIT_API void ddit_session_free(ddit_session *session); /* NULL accepted */

/* ------------------------------------------------------------------------------------------------ images */

DDIT_API int ddit_image_width(const ddit_image *image);
DDIT_API int ddit_image_height(const ddit_image *image);
/* [height, width, 3] RGB, 8 bit; belongs to the image. */
DDIT_API const uint8_t *ddit_image_pixels(const ddit_image *image);
DDIT_API void ddit_image_free(ddit_image *image); /* NULL accepted */

/* Writes a PNG with two texts, `parameters` (as AUTOMATIC1111 writes them) and `ddit` (JSON that repeats the run); the file
 * appears whole or not at all. Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE. */
DDIT_API ddit_status ddit_image_save_png(const ddit_image *image, const char *path, ddit_err *err);

/* A new image that shows both beside each other, `left` first, for comparing; it has no texts. Heights must be equal.
 * Errors: DDIT_ERR_ARGUMENT, DDIT_ERR_NO_MEMORY. The image belongs to the caller. */
DDIT_API ddit_status ddit_image_join(ddit_image **out, const ddit_image *left, const ddit_image *right, ddit_err *err);

/* Peak signal-to-noise ratio in dB between two images of one size, over all 8-bit values; infinity when they are equal, NaN
 * when the sizes differ. */
DDIT_API double ddit_image_psnr(const ddit_image *a, const ddit_image *b);

/* Removes the texts from the image, so that ddit_image_save_png writes none. */
DDIT_API void ddit_image_strip(ddit_image *image);

/* ------------------------------------------------------------------------------------------------ looking and measuring */

/* Frees a text handed out by the functions below. NULL accepted. */
DDIT_API void ddit_text_free(ddit_context *context, char *text);

/* What a safetensors file, adapter, model folder or PNG of ours holds, as JSON; for a model folder also the memory that a run
 * of the given size would need, item by item. params may be NULL (the model's defaults). *json is freed with ddit_text_free.
 * Errors: as ddit_model_open. */
DDIT_API ddit_status ddit_inspect(char **json, ddit_context *context, const char *path, const ddit_params *params,
                                  ddit_err *err);

typedef struct ddit_bench_params {
    size_t struct_size;
    const char *model;   /* folder, or NULL to make random blocks */
    const char *shape;   /* without model: "flux-dev" (one double and one single block of FLUX.1's width) or "emoji" */
    int width, height;   /* 0: 1024 x 1024, or the model's default */
    int repeats;         /* 0: 7 */
    int (*progress)(void *user, const char *what);
    void *user;
} ddit_bench_params;
DDIT_API ddit_bench_params ddit_bench_params_init(void);

/* Seconds per step at factors 1, 2, 4, split into linear layers, attention and the rest, and GFLOP/s beside the best large
 * matrix product of the same run; JSON, freed with ddit_text_free. */
DDIT_API ddit_status ddit_bench(char **json, ddit_context *context, const ddit_bench_params *params, ddit_err *err);

/* ------------------------------------------------------------------------------------------------ training */

/* What is known during training; passed to the progress callback. */
typedef struct ddit_train_progress {
    const char *phase;       /* "plan" (once, first), "encode", "data", "trial" (with minutes), "train", "sample", "save",
                              * "evaluate" */
    int64_t step, steps;     /* train: finished steps 1..steps; data: trajectories or pictures done, and all */
    double loss[4];          /* train: of this step at factor 1, 2, 4 and mixed layouts; NaN: none. evaluate: held-out losses */
    double lr, gradient_norm;
    double seconds;          /* trained so far, earlier parts of a resumed run included */
    double samples_per_second; /* lately */
    double seconds_left;     /* estimate; NaN: not known */
    uint64_t bytes;          /* plan: memory that training will take, all of it */
    const char *text;        /* plan: that memory item by item, lines "what: bytes"; save, sample: the file's path; else NULL */
} ddit_train_progress;

/* Everything about one training. Unset values (0, NaN, NULL) take what is named; preset "paper" changes those it names. */
typedef struct ddit_train_params {
    size_t struct_size;     /* set by ddit_train_params_init */
    const char *output;     /* required: ADAPTER.safetensors; with scope "all" the folder of the new model. The run's folder
                             * lies beside it: ADAPTER.run (loss.csv, loss.png, eval.csv, samples, checkpoints) */
    const char *scope;      /* "adapter": distil a patch-size adapter from the frozen model; "all": train every weight of the
                             * transformer at factor 1 (flow matching; with guidance LO,HI: guidance distillation) */
    /* data: one of prompts and data is required (neither with steps = -1) */
    const char *prompts;    /* text file, a prompt a line: latents of the base's own trajectories, no pictures needed */
    const char *data;       /* folder of pictures with captions: NAME.txt beside each, or captions.jsonl ({"file","text"}) */
    const char *cache;      /* where trajectories or encoded pictures are kept; NULL: the run's folder */
    int trajectories;       /* drawn from the base; 0: 3250 */
    int points;             /* noise levels of each trajectory; 0: 8 */
    int width, height;      /* pixels; 0: the model's default */
    /* adapter */
    const char *factors;    /* "2,4", "2" or "4"; NULL: "2,4" */
    int rank;               /* of LoRA; -1: 32 */
    const char *residual;   /* "none", "linear", "hf", "linear+hf"; NULL: "hf" */
    const char *lora;       /* layers with LoRA, any of "image,text,mlp,out" ("all", "none"); NULL: all */
    double mixed;           /* share of samples with mixed layouts, 0..1; NaN: 0.1 */
    const char *init;       /* an adapter to start from instead of the untrained start; shapes must agree */
    /* optimisation */
    int64_t steps;          /* 0: 26,000 samples, or as many as `minutes` allow; -1: measure only, see ddit_train */
    double minutes;         /* instead of steps: as many as fit into so many minutes; a few steps are tried to measure that,
                             * then the number is fixed and kept in the run's folder; NaN: no limit */
    int batch, accumulate;  /* samples of a step = batch * accumulate; 0: 4 (all: 16) and 1 */
    const char *optimizer;  /* "adamw" (NULL) or "prodigy" */
    double lr;              /* NaN: adamw 2e-3 * 256 / width (all: 3e-4), prodigy 1 */
    double patch_lr;        /* adamw, adapter: factor of lr for what is not LoRA; NaN: 0.4 (prodigy, all: 1) */
    double weight_decay;    /* NaN: 0.01 (prodigy 0) */
    int64_t warmup;         /* steps; -1: 5 % of all */
    const char *decay;      /* "none", "linear", "cosine"; NULL: cosine */
    double clip;            /* largest gradient norm; NaN: 1; 0: no clipping */
    double ema;             /* decay of the moving average; NaN: 0.998; 0: none */
    double loss_floor;      /* w in the weight sigma^2 / (sigma^2 + w); NaN: 0.4 (all: 0, no weight) */
    const char *guidance;   /* "LO,HI" or one number: guidance input; NULL: the model's default */
    const char *levels;     /* noise levels of pictures before the model's shift: "uniform" or "logit-normal" (mean 0, deviation
                             * 1); NULL: uniform, with scope all logit-normal */
    double caption_dropout; /* scope all: share of samples with an empty caption; NaN: 0.1 */
    uint64_t seed;
    /* living with it */
    int resume;             /* go on from the newest checkpoint of the run's folder */
    const char *eval;       /* prompts file or held-out set (.safetensors): losses at every save (eval.csv), prompts for
                             * samples; NULL: the first training prompts for samples, no losses */
    int64_t sample_every;   /* steps; 0: only at the end; -1: never */
    int64_t save_every;     /* steps between checkpoints; 0: every 1000 */
    const char *preset;     /* "paper": rank 32, residual linear, prodigy with lr 1, batch 32, no decay, no mixed layouts;
                             * NULL */
    /* A non-zero result stops: everything is saved, DDIT_ERR_CANCELLED. NULL: none. */
    int (*progress)(void *user, const ddit_train_progress *progress);
    void *user;
} ddit_train_params;

DDIT_API ddit_train_params ddit_train_params_init(void); /* everything unset */

/* Trains and writes params->output (whole or not at all). model: a diffusers folder; the adapter that may lie in it is not
 * used. *json (freed with ddit_text_free; may be NULL): files written, settings, losses, seconds, samples, memory; on ranks
 * above 0 an empty text.
 * steps = -1 trains nothing: `init` (or the untrained start) is evaluated, and nothing is written.
 * Started by mpirun (and built with MPI), the ranks share the samples of every step; rank 0 writes.
 * Errors: those of ddit_model_open; DDIT_ERR_ARGUMENT (a sentence naming the parameter); DDIT_ERR_NOT_FOUND, DDIT_ERR_FORMAT
 * (data without pictures, captions missing, a prompts file with a NUL); DDIT_ERR_MISMATCH (init of another shape, a checkpoint
 * of other settings); DDIT_ERR_OUTPUT_PATH (also: another training is at work in the run's folder), DDIT_ERR_WRITE
 * (checkpoints so far stay); DDIT_ERR_UNSUPPORTED (started by mpirun, but built without MPI); DDIT_ERR_DIVERGED (names step and
 * last good checkpoint); DDIT_ERR_CANCELLED (saved; resume goes on). */
DDIT_API ddit_status ddit_train(char **json, ddit_context *context, const char *model, const ddit_train_params *params,
                                ddit_err *err);

#ifdef __cplusplus
}
#endif
#endif
