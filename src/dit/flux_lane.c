/* A lane: its memory, and samples forward. */
#include <string.h>

#include "bind/memory_plan.h"
#include "dit/flux_trainee.h"

/* What a lane is made for, in numbers. */
typedef struct lane_sizes {
    const dd_flux_config *config;
    const dd_train_options *options;
    dd_flux_lane_params params;
    dd_dtype act;
} lane_sizes;

static void *take(dd_memory_plan *plan, dd_dtype dtype, int64_t rows, int64_t cols) {
    return dd_plan_take(plan, dtype, rows, cols).data;
}

static void plan_checkpoints(dd_flux_lane *lane, dd_memory_plan *plan, const lane_sizes *s) {
    int64_t blocks = s->config->num_layers + s->config->num_single_layers + 1;
    int64_t rows = s->params.text_tokens + s->params.max_image_tokens;
    lane->checkpoints = take(plan, DD_DTYPE_F32, blocks * rows, s->config->hidden);
}

static void plan_block(dd_flux_lane *lane, dd_memory_plan *plan, const lane_sizes *s) {
    const dd_flux_config *c = s->config;
    int64_t n = s->params.text_tokens + s->params.max_image_tokens, d = c->hidden, wide = d + c->mlp_hidden;
    int64_t rank = s->options->scope == DD_TRAIN_ADAPTER ? s->options->rank : 0, padded;
    bool all = s->options->scope == DD_TRAIN_ALL;
    dd_grid grid = s->params.grid;
    int64_t latent = (int64_t)c->latent_channels * grid.rows * grid.cols * grid.patch * grid.patch;
    lane->tape = (dd_flux_tape){
        .q = take(plan, s->act, n, d),
        .k = take(plan, s->act, n, d),
        .hidden = take(plan, s->act, n, c->mlp_hidden),
        .lse = take(plan, DD_DTYPE_F32, c->num_attention_heads, n),
        .attention_y = all ? take(plan, s->act, n, d) : NULL,
        .y = all ? take(plan, s->act, n, d) : NULL,
    };
    lane->dx = take(plan, DD_DTYPE_F32, n, d);
    lane->dn = take(plan, DD_DTYPE_F32, n, d);
    lane->dy = take(plan, s->act, n, d);
    lane->dq = take(plan, s->act, n, d);
    lane->dk = take(plan, s->act, n, d);
    lane->dv = take(plan, s->act, n, d);
    lane->dwide = take(plan, s->act, n, wide);
    if (rank > 0) {
        lane->stage = take(plan, DD_DTYPE_F32, n, wide);
        lane->low = take(plan, s->act, n, rank);
        lane->dlow = take(plan, s->act, n, rank);
    }
    padded = (int64_t)dd_flux_padded_latent(c, grid);
    lane->dcells = take(plan, s->act, 1, padded);
    lane->latent = take(plan, DD_DTYPE_F32, 1, latent);
    lane->kept = take(plan, DD_DTYPE_F32, 1, latent);
    lane->velocity = take(plan, DD_DTYPE_F32, 1, latent);
}

/* The run of a lane has no tables of its own. */
static dd_flux_run_params run_params(const dd_flux_lane_params *p) {
    return (dd_flux_run_params){.grid = p->grid, .text_tokens = p->text_tokens};
}

/* Values of the matrices that carry LoRA, in + out, summed over the modules that are chosen. */
static uint64_t lora_sides(const dd_flux_config *c, unsigned targets) {
    uint64_t d = (uint64_t)c->hidden, mlp = (uint64_t)c->mlp_hidden, doubles = (uint64_t)c->num_layers;
    uint64_t singles = (uint64_t)c->num_single_layers, sides = 0;
    if (targets & DD_LORA_DOUBLE_IMAGE) sides += doubles * 2 * (d + mlp);
    if (targets & DD_LORA_DOUBLE_TEXT) sides += doubles * 2 * (d + mlp);
    if (targets & DD_LORA_SINGLE_MLP) sides += singles * (d + mlp);
    if (targets & DD_LORA_SINGLE_OUT) sides += singles * (2 * d + mlp);
    return sides;
}

/* Matrices as they are, once for the forward pass and once for input gradients, and biases. Backends may pad matrices. */
static uint64_t measure_weights(const dd_flux_config *c, const dd_train_options *o, uint64_t act) {
    uint64_t d = (uint64_t)c->hidden, mlp = (uint64_t)c->mlp_hidden, doubles = (uint64_t)c->num_layers;
    uint64_t singles = (uint64_t)c->num_single_layers, modulations = (12 * doubles + 3 * singles + 2) * d * d;
    uint64_t block_linears = doubles * 2 * (4 * d * d + 2 * d * mlp) + singles * (3 * d * d + d * mlp + (d + mlp) * d);
    uint64_t values = block_linears + d * (uint64_t)c->out_channels + modulations, biases = modulations / d;
    if (o->scope == DD_TRAIN_ALL)
        return (values + modulations) * act + (biases + (c->guidance_embeds ? 3 : 2) * d * d) * sizeof(float);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        uint64_t n = (uint64_t)(c->patch * dd_factor_at(f));
        if (!o->factor[f]) continue;
        values += 3 * d * (uint64_t)c->latent_channels * n * n;
        biases += d + (uint64_t)c->latent_channels * n * n;
        values += 2 * (uint64_t)o->rank * lora_sides(c, o->lora_targets);
    }
    return values * act + biases * sizeof(float);
}

dd_flux_train_bytes dd_flux_train_measure(const dd_flux_config *config, dd_dtype activation, const dd_train_options *options,
                                          const dd_flux_lane_params *lane, int batch_count) {
    dd_flux_lane unused = {0};
    dd_memory_plan checkpoints = {0}, block = {0};
    lane_sizes sizes = {config, options, *lane, activation};
    dd_flux_run_params run = run_params(lane);
    plan_checkpoints(&unused, &checkpoints, &sizes);
    plan_block(&unused, &block, &sizes);
    return (dd_flux_train_bytes){
        .weights = measure_weights(config, options, activation == DD_DTYPE_F32 ? 4 : 2),
        .checkpoints = checkpoints.used,
        .block = block.used + dd_flux_run_measure(config, activation, &run).activations,
        .batch = dd_flux_batch_bytes(config, activation, options->scope == DD_TRAIN_ALL, batch_count, lane->text_tokens),
    };
}

ddit_status dd_flux_lane_create(dd_flux_lane **out, dd_flux_trainee *trainee, dd_backend *backend,
                                const dd_flux_lane_params *params, ddit_err *err) {
    const dd_flux_config *config = &trainee->dit->config;
    dd_flux_lane *lane;
    *out = NULL;
    DD_TRY(dd_alloc(backend->allocator, &lane, 1, sizeof *lane, "a lane", err));
    lane->trainee = trainee;
    lane->b = backend;
    lane->params = *params;
    lane_sizes sizes = {config, &trainee->options, *params, backend->activation};
    dd_flux_run_params run = run_params(params);
    dd_memory_plan plan = {0};
    ddit_status status;
    DD_GO(dd_layout_init(&lane->layout, backend->allocator, params->grid, err));
    DD_GO(dd_flux_run_create_on(&lane->run, trainee->dit, backend, &run, params->text_tokens + params->max_image_tokens, err));
    plan_checkpoints(lane, &plan, &sizes);
    plan_block(lane, &plan, &sizes);
    DD_GO(dd_op_alloc(backend, &lane->memory, plan.used, "the checkpoints and gradients of a lane", err));
    plan = (dd_memory_plan){.base = lane->memory};
    plan_checkpoints(lane, &plan, &sizes);
    plan_block(lane, &plan, &sizes);
    *out = lane;
    return DDIT_OK;
done:
    dd_flux_lane_free(lane);
    return status;
}

void dd_flux_lane_free(dd_flux_lane *lane) {
    if (!lane) return;
    dd_backend *b = lane->b;
    dd_op_free(b, lane->memory);
    dd_flux_run_free(lane->run);
    dd_layout_deinit(&lane->layout);
    dd_free(b->allocator, lane);
}

/* The latent's bytes if the layout fits the lane. */
static ddit_status latent_bytes(const dd_flux_lane *lane, const dd_layout *layout, size_t *bytes, ddit_err *err) {
    dd_grid g = layout->grid, most = lane->params.grid;
    if (g.rows > most.rows || g.cols > most.cols || g.patch != most.patch)
        return dd_fail(err, DDIT_ERR_INTERNAL, "a lane for %d x %d cells was given a layout of %d x %d", most.rows, most.cols,
                       g.rows, g.cols);
    *bytes = (size_t)lane->trainee->dit->config.latent_channels * (size_t)(g.rows * g.patch) * (size_t)(g.cols * g.patch) *
             sizeof(float);
    return DDIT_OK;
}

/* One call from host to host; z is the lane's buffer for the latent. */
static ddit_status run_forward(dd_flux_lane *lane, const dd_flux_batch *batch, int index, float sigma, const dd_layout *layout,
                               const float *latent, float *z, float *checkpoints, float *velocity, ddit_err *err) {
    int64_t h = layout->grid.rows * layout->grid.patch, w = layout->grid.cols * layout->grid.patch;
    int64_t channels = lane->trainee->dit->config.latent_channels;
    size_t bytes = 0;
    dd_flux_call c;
    dd_flux_tables tables = dd_flux_batch_tables(batch, &batch->tables, index);
    if (index < 0 || index >= batch->count || batch->text_tokens != lane->params.text_tokens)
        return dd_fail(err, DDIT_ERR_INTERNAL, "sample %d of %d, %d text tokens in a lane for %d", index, batch->count,
                       batch->text_tokens, lane->params.text_tokens);
    DD_TRY(latent_bytes(lane, layout, &bytes, err));
    DD_TRY(dd_flux_call_begin(&c, lane->run, &tables, index, layout, batch->text_tokens, err));
    DD_TRY(dd_op_upload(lane->b, z, latent, bytes, err));
    DD_TRY(dd_flux_forward(&c, dd_tensor_3d(z, DD_DTYPE_F32, channels, h, w),
                           dd_tensor_3d(lane->velocity, DD_DTYPE_F32, channels, h, w), sigma, checkpoints, err));
    return dd_op_download(lane->b, velocity, lane->velocity, bytes, err);
}

ddit_status dd_flux_lane_velocity(dd_flux_lane *lane, const dd_flux_batch *batch, int index, float sigma,
                                  const dd_layout *layout, const float *latent, float *velocity, ddit_err *err) {
    return run_forward(lane, batch, index, sigma, layout, latent, lane->latent, NULL, velocity, err);
}

/* What the backward pass reads of a layout; `to` was made for the largest grid. */
static void copy_layout(dd_layout *to, const dd_layout *from) {
    to->grid = from->grid;
    memcpy(to->cell_count, from->cell_count, sizeof to->cell_count);
    memcpy(to->cell_begin, from->cell_begin, sizeof to->cell_begin);
    memcpy(to->text_share, from->text_share, sizeof to->text_share);
    to->cell_total = from->cell_total;
    memcpy(to->factor, from->factor, (size_t)(from->grid.rows * from->grid.cols) * sizeof *to->factor);
    memcpy(to->origin, from->origin, 2 * (size_t)from->cell_total * sizeof *to->origin);
    memcpy(to->position, from->position, 2 * (size_t)from->cell_total * sizeof *to->position);
}

ddit_status dd_flux_lane_forward(dd_flux_lane *lane, dd_flux_batch *batch, int index, float sigma, const dd_layout *layout,
                                 const float *latent, float *velocity, ddit_err *err) {
    lane->ready = false;
    if (layout->cell_total > lane->params.max_image_tokens)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "a layout has %d cells, the lane was made for training with at most %d",
                       layout->cell_total, lane->params.max_image_tokens);
    if (lane->trainee->options.scope == DD_TRAIN_ALL && dd_layout_uniform_factor(layout) != 1)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "a layout has cells of factor 2 or 4, but the whole transformer is trained at factor 1");
    DD_TRY(run_forward(lane, batch, index, sigma, layout, latent, lane->kept, lane->checkpoints, velocity, err));
    copy_layout(&lane->layout, layout);
    lane->batch = batch;
    lane->index = index;
    lane->ready = true;
    return DDIT_OK;
}
