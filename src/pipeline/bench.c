/* ddit_bench: a model, or random blocks of a known shape, step by step on this machine. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/bench.h"

enum { DEFAULT_REPEATS = 7, DEFAULT_SIDE = 1024, EMOJI_SIDE = 256, LATENT_SCALE = 8 };

ddit_bench_params ddit_bench_params_init(void) { return (ddit_bench_params){.struct_size = sizeof(ddit_bench_params)}; }

/* ---------------------------------------------------------------------------------------------- result */

static json_t *result_json(int factor, const dd_bench_result *r, const dd_bench_result *base, double gemm) {
    int tokens = r->text_tokens + r->image_tokens, base_tokens = base->text_tokens + base->image_tokens;
    double rate = r->flops / r->seconds;
    return json_pack("{s:i,s:{s:i,s:i},s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "factor", factor, "tokens", "text",
                     r->text_tokens, "image", r->image_tokens, "seconds", r->seconds, "seconds_best", r->best, "linear",
                     r->linear, "attention", r->attention, "rest", r->rest, "gflop", r->flops * 1e-9,
                     "gflop_per_second", rate * 1e-9, "share_of_gemm", rate / gemm, "token_share",
                     (double)tokens / base_tokens, "cost_share", r->cost_share);
}

static json_t *report(const ddit_context *context, const char *what, const dd_bench_case *c, int width, int height,
                      const dd_bench_result results[DD_FACTOR_COUNT], double gemm) {
    json_t *factors = json_array();
    for (int f = 0; f < DD_FACTOR_COUNT; f++)
        if (results[f].measured) json_array_append_new(factors, result_json(dd_factor_at(f), &results[f], &results[0], gemm));
    const dd_flux_config *config = dd_flux_dit_config(c->dit);
    return json_pack("{s:s,s:i,s:s,s:s,s:i,s:i,s:i,s:{s:i,s:i,s:i},s:i,s:{s:i,s:f},s:o}", "format", "ddit-bench", "version", 1,
                     "what", what, "device", context->device, "width", width, "height", height, "text_tokens", c->text_tokens,
                     "blocks", "double", config->num_layers, "single", config->num_single_layers, "hidden", config->hidden,
                     "repeats", c->repeats, "gemm", "size", 4096, "gflop_per_second", gemm * 1e-9, "factors", factors);
}

static ddit_status measure(json_t **out, const ddit_context *context, const char *what, const dd_bench_case *c, int scale,
                           ddit_err *err) {
    dd_bench_result results[DD_FACTOR_COUNT];
    double gemm;
    DD_TRY(dd_bench_measure(c, results, &gemm, err));
    int pixels = scale * c->grid.patch;
    *out = report(context, what, c, c->grid.cols * pixels, c->grid.rows * pixels, results, gemm);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- what is measured */

static ddit_status check_side(const char *name, int value, ddit_err *err) {
    if (value < 64 || value > 4096 || value % 16)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%s is %d, expected a multiple of 16 from 64 to 4096", name, value);
    return DDIT_OK;
}

static ddit_status bench_shape(json_t **out, ddit_context *context, const ddit_bench_params *p, dd_bench_case *c,
                               ddit_err *err) {
    const char *name = p->shape ? p->shape : "flux-dev";
    int side = strcmp(name, "emoji") == 0 ? EMOJI_SIDE : DEFAULT_SIDE;
    int width = p->width ? p->width : side, height = p->height ? p->height : side;
    dd_bench_shape shape;
    DD_TRY(check_side("width", width, err));
    DD_TRY(check_side("height", height, err));
    DD_TRY(dd_bench_shape_make(&shape, &context->allocator, name, err));
    ddit_status status;
    DD_GO(dd_flux_dit_open(&c->dit, &c->timer->base, &shape.config, shape.files, err));
    DD_GO(dd_flux_dit_add_adapter(c->dit, &shape.adapter, err));
    int cell = LATENT_SCALE * shape.config.patch;
    c->grid = (dd_grid){height / cell, width / cell, shape.config.patch};
    c->text_tokens = shape.text_tokens;
    status = measure(out, context, name, c, LATENT_SCALE, err);
done:
    dd_flux_dit_close(c->dit);
    dd_bench_shape_free(&shape);
    return status;
}

static ddit_status bench_open_model(json_t **out, const ddit_context *context, const ddit_model *model,
                                    const ddit_bench_params *p, dd_bench_case *c, ddit_err *err) {
    dd_settings settings;
    ddit_params params = ddit_params_init();
    params.prompt = "";
    params.width = p->width;
    params.height = p->height;
    DD_TRY(dd_settings_resolve(&settings, model, &params, err));
    int patch = model->config.transformer.patch;
    c->dit = model->dit;
    c->grid = (dd_grid){settings.latent_height / patch, settings.latent_width / patch, patch};
    c->text_tokens = settings.max_sequence_length;
    c->trimmed_text = model->adapter.text_tokens;
    dd_settings_deinit(&settings, &context->allocator);
    return measure(out, context, model->folder, c, model->config.vae.scale, err);
}

/* The model is opened on the timer, which stands in for the context's backend meanwhile. */
static ddit_status bench_model(json_t **out, ddit_context *context, const ddit_bench_params *p, dd_bench_case *c,
                               ddit_err *err) {
    dd_backend *backend = context->backend;
    ddit_model *model;
    context->backend = &c->timer->base;
    ddit_status status = ddit_model_open(&model, context, p->model, NULL, err);
    if (status == DDIT_OK) status = bench_open_model(out, context, model, p, c, err);
    ddit_model_close(model);
    context->backend = backend;
    return status;
}

ddit_status ddit_bench(char **json, ddit_context *context, const ddit_bench_params *params, ddit_err *err) {
    ddit_bench_params p = params ? *params : ddit_bench_params_init();
    dd_bench_timer timer;
    dd_bench_case c = {.timer = &timer, .repeats = p.repeats ? p.repeats : DEFAULT_REPEATS, .callbacks = &p};
    json_t *root = NULL;
    *json = NULL;
    if (p.struct_size != sizeof p)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "parameters of %zu bytes, expected %zu: call ddit_bench_params_init",
                       p.struct_size, sizeof p);
    if (c.repeats < 1 || c.repeats > DD_BENCH_MAX_REPEATS)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "repeats is %d, expected 1 to %d", c.repeats, DD_BENCH_MAX_REPEATS);
    dd_bench_timer_init(&timer, context->backend);
    DD_TRY(p.model ? bench_model(&root, context, &p, &c, err) : bench_shape(&root, context, &p, &c, err));
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(root);
    if (!text) return dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory: the measurements");
    ddit_status status = dd_strdup(&context->allocator, json, text, err);
    free(text);
    return status;
}
