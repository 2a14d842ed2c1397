/* The memory of a training, item by item, before anything is made. Encoding prompts comes before training; drawing samples
 * comes on top of it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/inspect.h"
#include "pipeline/train.h"
#include "vae/flux_vae.h"
#include "text/clip_encoder.h"
#include "text/t5_encoder.h"

enum {
    PROGRAM_BYTES = 16 << 20, /* code that is touched, stacks, small things */
    TILE_ROWS = 128,          /* rows of x that a thread lays out for a matrix product, at most */
    SLICE_BYTES = 512 << 10,  /* scores and tiles of a thread in attention, about */
    ALIGNMENT = 16            /* of segments in the flat vector, values */
};

/* ---------------------------------------------------------------------------------------------- parameters */

static int64_t segment(int64_t values) { return (values + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static int64_t lora_params(int64_t rank, int64_t in, int64_t out) { return segment(rank * in) + segment(rank * out); }

static int64_t adapter_params(const dd_flux_config *c, const dd_train_options *o, int factor) {
    int64_t d = c->hidden, wide = c->mlp_hidden, channels = c->latent_channels, n = c->patch * factor, r = o->rank;
    int64_t cell = channels * n * n, sum = 2 * segment(d * cell) + 2 * segment(d) + segment(cell);
    if (o->residual_linear) sum += segment(channels * channels) + segment(channels);
    if (r == 0) return sum;
    int64_t feed_forward = lora_params(r, d, wide) + lora_params(r, wide, d), doubles = 0, singles = 0;
    if (o->lora_targets & DD_LORA_DOUBLE_IMAGE) doubles += feed_forward;
    if (o->lora_targets & DD_LORA_DOUBLE_TEXT) doubles += feed_forward;
    if (o->lora_targets & DD_LORA_SINGLE_MLP) singles += lora_params(r, d, wide);
    if (o->lora_targets & DD_LORA_SINGLE_OUT) singles += lora_params(r, d + wide, d);
    return sum + c->num_layers * doubles + c->num_single_layers * singles;
}

int64_t dd_train_param_count(const dd_train_run *run) {
    const dd_flux_config *c = &run->model->config.transformer;
    int64_t sum = 0;
    for (int f = 1; !run->s.all && f < DD_FACTOR_COUNT; f++)
        if (run->s.options.factor[f]) sum += adapter_params(c, &run->s.options, dd_factor_at(f));
    for (size_t i = 0; run->s.all && i < dd_weight_files_count(run->model->files); i++)
        sum += segment((int64_t)dd_weight_files_at(run->model->files, i)->count);
    return sum;
}

uint64_t dd_train_fingerprint(const dd_weight_files *files) {
    enum { LOOKED_AT = 256 };
    uint64_t hash = DD_HASH_BEGIN;
    for (size_t i = 0; i < dd_weight_files_count(files); i++) {
        const dd_tensor_entry *e = dd_weight_files_at(files, i);
        hash = dd_hash(hash, e->name, strlen(e->name));
        hash = dd_hash(hash, e->shape, (size_t)e->rank * sizeof *e->shape);
        hash = dd_hash(hash, e->data, e->bytes < LOOKED_AT ? e->bytes : LOOKED_AT);
    }
    return hash;
}

/* ---------------------------------------------------------------------------------------------- items */

typedef struct tally {
    char text[2048];
    size_t used;
    uint64_t sum;
} tally;

static void item(tally *t, const char *name, uint64_t bytes) {
    if (bytes == 0) return;
    t->sum += bytes;
    int n = snprintf(t->text + t->used, sizeof t->text - t->used, "%s: %" PRIu64 "\n", name, bytes);
    if (n > 0 && (size_t)n < sizeof t->text - t->used) t->used += (size_t)n;
}

/* What the backend and its lanes hold for themselves: values laid out for attention and matrix products. */
static uint64_t scratch_bytes(const dd_train_run *run, uint64_t act) {
    const dd_flux_config *c = &run->model->config.transformer;
    dd_flux_lane_params lane = dd_train_lane_params(run);
    uint64_t rows = (uint64_t)lane.grid.rows * (uint64_t)lane.grid.cols + (uint64_t)lane.text_tokens;
    uint64_t each = 2 * rows * (uint64_t)c->hidden * act, depth = (uint64_t)(c->hidden + c->mlp_hidden);
    uint64_t thread = SLICE_BYTES + TILE_ROWS * depth * act;
    return (uint64_t)run->lane_count * each + (uint64_t)run->context->backend->threads * thread;
}

static int text_count(const dd_train_run *run) { return run->texts.count + run->eval_texts.count + run->empty.count; }

static void encode_items(tally *t, const dd_train_run *run) {
    const ddit_model *m = run->model;
    dd_dtype act = run->context->backend->activation;
    dd_part_bytes clip = dd_clip_encoder_bytes(&m->config.clip, act);
    dd_part_bytes t5 = dd_t5_encoder_bytes(&m->config.t5, run->s.run.max_sequence_length, act);
    uint64_t clip_sum = clip.weights + clip.activations, t5_sum = t5.weights + t5.activations;
    item(t, "program and libraries (about)", PROGRAM_BYTES);
    item(t, "prompt embeddings", dd_train_texts_bytes(m, &run->s, text_count(run)));
    uint64_t text = clip_sum > t5_sum ? clip_sum : t5_sum, vae = 0;
    if (run->s.data) {
        dd_part_bytes b = dd_flux_vae_encoder_bytes(&m->config.vae, run->s.run.height, run->s.run.width, act);
        vae = b.weights + b.activations + 3 * (uint64_t)run->s.run.height * (uint64_t)run->s.run.width;
    }
    if (text > vae) item(t, "text encoder (freed before training)", text);
    else item(t, "autoencoder (freed before training)", vae);
}

static void engine_items(tally *t, const dd_train_run *run) {
    const dd_flux_config *c = &run->model->config.transformer;
    dd_dtype act = run->context->backend->activation;
    dd_flux_lane_params lane = dd_train_lane_params(run);
    uint64_t lanes = (uint64_t)run->lane_count, weights = dd_inspect_prepared_bytes(run->model->files, act);
    dd_flux_train_bytes b = dd_flux_train_measure(c, act, &run->s.options, &lane, run->local);
    item(t, "transformer weights", weights);
    item(t, "weights that training adds", b.weights);
    item(t, "checkpoints of the lanes", lanes * b.checkpoints);
    item(t, "one block of each lane", lanes * b.block);
    item(t, "conditions of a batch", b.batch);
    if (!run->s.distil) return;
    dd_train_options frozen = {.scope = DD_TRAIN_ADAPTER};
    b = dd_flux_train_measure(c, act, &frozen, &lane, 2 * run->local);
    item(t, "teacher", weights + b.weights + lanes * (b.checkpoints + b.block) + b.batch);
}

static void train_items(tally *t, const dd_train_run *run) {
    dd_trainer_params params = dd_train_trainer_params(run);
    int64_t total = dd_train_param_count(run);
    uint64_t act = run->context->backend->activation == DD_DTYPE_F32 ? 4 : 2;
    item(t, "program and libraries (about)", PROGRAM_BYTES);
    item(t, "prompt embeddings", dd_train_texts_bytes(run->model, &run->s, text_count(run)));
    engine_items(t, run);
    item(t, "scratch of matrix products and attention", scratch_bytes(run, act));
    item(t, "gradients and latents", dd_trainer_bytes(&params, run->lane_count, total));
    item(t, "optimizer", dd_optimizer_bytes(&run->s.optimizer, total));
    item(t, "start values (while speed is measured)", run->s.steps ? 0 : (uint64_t)total * sizeof(float));
    item(t, "held-out velocities and data", dd_train_data_bytes(run));
    item(t, "sample pictures", run->s.sample_every < 0 || run->s.measure_only ? 0 : dd_train_samples_bytes(run));
}

ddit_status dd_train_announce(dd_train_run *run, ddit_err *err) {
    tally encode = {.used = 0}, train = {.used = 0};
    encode_items(&encode, run);
    train_items(&train, run);
    const tally *largest = encode.sum > train.sum ? &encode : &train;
    run->bytes = largest->sum;
    ddit_train_progress p = dd_train_progress("plan");
    p.steps = run->s.steps;
    p.bytes = largest->sum;
    p.text = largest->text;
    dd_train_tell(run, &p);
    return run->stop ? dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before anything was done") : DDIT_OK;
}
