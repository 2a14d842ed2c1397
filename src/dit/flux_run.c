#include "dit/flux_run.h"

#include <string.h>

#include "bind/memory_plan.h"

/* The next count values of `size` bytes: NULL while the plan only counts, so that plan and price are one piece of code. */
static void *carve(dd_memory_plan *plan, uint64_t count, uint64_t size) {
    return dd_plan_take(plan, DD_DTYPE_U8, 1, (int64_t)(count * size)).data;
}

static uint64_t cells_of(int length, int factor) { return (uint64_t)((length + factor - 1) / factor); }

uint64_t dd_flux_padded_latent(const dd_flux_config *config, dd_grid grid) {
    uint64_t most = 0, pixels = (uint64_t)config->patch * (uint64_t)config->patch;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        uint64_t k = (uint64_t)dd_factor_at(f);
        uint64_t values = cells_of(grid.rows, (int)k) * cells_of(grid.cols, (int)k) * k * k * pixels;
        if (values > most) most = values;
    }
    return most * (uint64_t)config->latent_channels;
}

static void plan_step(dd_flux_run *run, dd_memory_plan *c, const dd_flux_config *config, const dd_flux_run_params *p,
                      uint64_t act) {
    uint64_t cells = (uint64_t)dd_layout_max_cells(p->grid), rows = cells + (uint64_t)p->text_tokens;
    uint64_t d = (uint64_t)config->hidden, wide = d + (uint64_t)config->mlp_hidden;
    uint64_t latent = dd_flux_padded_latent(config, p->grid);
    run->x = carve(c, rows * d, sizeof(float));
    run->n = carve(c, rows * d, act);
    run->q = carve(c, rows * d, act);
    run->k = carve(c, rows * d, act);
    run->v = carve(c, rows * d, act);
    run->wide = carve(c, rows * wide, act);
    run->cells = carve(c, latent, act);
    run->out = carve(c, latent, sizeof(float));
    run->origin = carve(c, 2 * cells, sizeof(int32_t));
    run->rope = carve(c, rows * (uint64_t)config->attention_head_dim, sizeof(float));
}

static void plan_tables(dd_flux_run *run, dd_memory_plan *c, const dd_flux_config *config, const dd_flux_run_params *p) {
    uint64_t d = (uint64_t)config->hidden, times = (uint64_t)p->time_count;
    for (int branch = 0; branch < p->branches; branch++) {
        dd_flux_tables *t = &run->tables[branch];
        t->times = p->time_count;
        t->text = carve(c, (uint64_t)p->text_tokens * d, sizeof(float));
        t->doubles = carve(c, (uint64_t)config->num_layers * 2 * times * 6 * d, sizeof(float));
        t->singles = carve(c, (uint64_t)config->num_single_layers * times * 3 * d, sizeof(float));
        t->final = carve(c, times * 2 * d, sizeof(float));
    }
}

dd_flux_run_bytes dd_flux_run_measure(const dd_flux_config *config, dd_dtype activation, const dd_flux_run_params *params) {
    dd_flux_run unused = {0};
    dd_memory_plan step = {0}, tables = {0};
    uint64_t act = activation == DD_DTYPE_F32 ? 4 : 2, d = (uint64_t)config->hidden;
    plan_step(&unused, &step, config, params, act);
    plan_tables(&unused, &tables, config, params);
    uint64_t largest = (config->num_layers > 0 ? 6 : 3) * d * d * act; /* one modulation weight, prepared and freed */
    return (dd_flux_run_bytes){step.used, tables.used, largest + (uint64_t)params->time_count * d * (8 + act)};
}

static ddit_status allocate(dd_flux_run *run, const dd_flux_run_params *p, int64_t gradient_rows, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    dd_backend *b = run->b;
    dd_flux_run_bytes bytes = dd_flux_run_measure(&dit->config, b->activation, p);
    size_t rows = (size_t)(run->max_cells + p->text_tokens);
    DD_TRY(dd_alloc(b->allocator, &run->times, (size_t)p->time_count, sizeof *run->times, "the times", err));
    if (p->time_count > 0) memcpy(run->times, p->times, (size_t)p->time_count * sizeof *run->times);
    DD_TRY(dd_flux_rope_init(&run->rope_axes, b->allocator, &dit->config, p->grid, err));
    DD_TRY(dd_alloc_raw(b->allocator, &run->rope_host, rows * (size_t)dit->config.attention_head_dim, sizeof(float),
                        "the positions of a step", err));
    DD_TRY(
        dd_op_alloc(b, &run->memory, bytes.activations + bytes.tables, "the activations and tables of the transformer", err));
    dd_memory_plan c = {.base = run->memory};
    plan_step(run, &c, &dit->config, p, b->activation == DD_DTYPE_F32 ? 4 : 2);
    plan_tables(run, &c, &dit->config, p);
    return dd_op_reserve(b,
                         &(dd_reserve){.attention_queries = (int64_t)rows,
                                       .attention_keys = (int64_t)rows,
                                       .attention_heads = dit->config.num_attention_heads,
                                       .attention_head_size = dit->config.attention_head_dim,
                                       .weights = (const dd_weight *const *)dit->prepared,
                                       .weight_count = dit->prepared_count,
                                       .gradient_rows = gradient_rows},
                         err);
}

ddit_status dd_flux_run_create(dd_flux_run **out, dd_flux_dit *dit, const dd_flux_run_params *params, ddit_err *err) {
    return dd_flux_run_create_on(out, dit, dit->backend, params, 0, err);
}

ddit_status dd_flux_run_create_on(dd_flux_run **out, dd_flux_dit *dit, dd_backend *b, const dd_flux_run_params *params,
                                  int64_t gradient_rows, ddit_err *err) {
    dd_flux_run *run;
    *out = NULL;
    DD_TRY(dd_alloc(b->allocator, &run, 1, sizeof *run, "a run", err));
    run->dit = dit;
    run->b = b;
    run->grid = params->grid;
    run->text_tokens = params->text_tokens;
    run->trimmed_text =
        params->trimmed_text > 0 && params->trimmed_text < params->text_tokens ? params->trimmed_text : params->text_tokens;
    run->branches = params->branches;
    run->time_count = params->time_count;
    run->max_cells = dd_layout_max_cells(params->grid);
    run->guidance = params->guidance;
    ddit_status status = allocate(run, params, gradient_rows, err);
    if (status != DDIT_OK) {
        dd_flux_run_free(run);
        return status;
    }
    *out = run;
    return DDIT_OK;
}

void dd_flux_run_free(dd_flux_run *run) {
    if (!run) return;
    dd_backend *b = run->b;
    dd_op_free(b, run->memory);
    dd_flux_rope_deinit(&run->rope_axes);
    dd_free(b->allocator, run->rope_host);
    dd_free(b->allocator, run->times);
    dd_free(b->allocator, run);
}

int dd_flux_run_text_rows(const dd_flux_run *run, const dd_layout *layout) {
    return layout->cell_count[0] == 0 ? run->trimmed_text : run->text_tokens;
}

ddit_status dd_flux_set_positions(const dd_flux_call *c, ddit_err *err) {
    dd_flux_run *run = c->run;
    int factor = dd_layout_uniform_factor(c->layout);
    const dd_grid *grid = &c->layout->grid;
    if (factor && factor == run->rope_factor && run->rope_text == c->text && grid->rows == run->rope_grid.rows &&
        grid->cols == run->rope_grid.cols)
        return DDIT_OK;
    dd_flux_rope_rows(&run->rope_axes, c->text, c->layout, run->rope_host);
    size_t bytes = (size_t)c->rows * (size_t)c->dit->config.attention_head_dim * sizeof(float);
    run->rope_factor = factor;
    run->rope_text = c->text;
    run->rope_grid = *grid;
    return dd_op_upload(c->b, run->rope, run->rope_host, bytes, err);
}

ddit_status dd_flux_call_begin(dd_flux_call *c, dd_flux_run *run, const dd_flux_tables *tables, int time_index,
                               const dd_layout *layout, int text, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    *c = (dd_flux_call){.run = run, .dit = dit, .b = run->b, .layout = layout, .tables = tables, .time_index = time_index,
                        .text = text, .image = layout->cell_total, .rows = text + layout->cell_total,
                        .d = dit->config.hidden};
    for (int f = 1; f < DD_FACTOR_COUNT; f++)
        if (layout->cell_count[f] > 0 && !dit->patch[f].present)
            return dd_fail(err, DDIT_ERR_MISMATCH, "a layout has cells of factor %d, but no adapter for that factor is loaded",
                           dd_factor_at(f));
    return DDIT_OK;
}

/* The residual stream before block `index` into its checkpoint. */
static ddit_status keep(const dd_flux_call *c, float *checkpoints, int index, ddit_err *err) {
    if (!checkpoints) return DDIT_OK;
    dd_tensor kept = dd_tensor_2d(checkpoints + index * c->rows * c->d, DD_DTYPE_F32, c->rows, c->d);
    return dd_op_affine(c->b, kept, 1.0f, dd_flux_residual(c), 0.0f, NULL, DD_ACTIVATION_NONE, err);
}

ddit_status dd_flux_forward(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, float *checkpoints,
                            ddit_err *err) {
    int doubles = c->dit->config.num_layers, singles = c->dit->config.num_single_layers;
    dd_tensor embedded = dd_tensor_2d(c->tables->text, DD_DTYPE_F32, c->text, c->d);
    dd_tensor text = dd_tensor_rows(dd_flux_residual(c), 0, c->text);
    DD_TRY(dd_flux_set_positions(c, err));
    DD_TRY(dd_op_affine(c->b, text, 1.0f, embedded, 0.0f, NULL, DD_ACTIVATION_NONE, err));
    DD_TRY(dd_flux_embed(c, latent, err));
    for (int i = 0; i < doubles; i++) {
        DD_TRY(keep(c, checkpoints, i, err));
        DD_TRY(dd_flux_double_forward(c, i, err));
    }
    for (int i = 0; i < singles; i++) {
        DD_TRY(keep(c, checkpoints, doubles + i, err));
        DD_TRY(dd_flux_single_forward(c, i, err));
    }
    DD_TRY(keep(c, checkpoints, doubles + singles, err));
    return dd_flux_deembed(c, latent, velocity, sigma, err);
}

ddit_status dd_flux_run_velocity(dd_flux_run *run, int branch, int time_index, float sigma, const dd_layout *layout,
                                 dd_tensor latent, dd_tensor velocity, ddit_err *err) {
    dd_flux_call c;
    int text = dd_flux_run_text_rows(run, layout);
    DD_TRY(dd_flux_call_begin(&c, run, &run->tables[branch], time_index, layout, text, err));
    return dd_flux_forward(&c, latent, velocity, sigma, NULL, err);
}
