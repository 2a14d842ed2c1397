/* Which weights are parameters, and their way from the flat vector into the weights. */
#include <stdio.h>
#include <string.h>

#include "dit/flux_trainee.h"
#include "op/op_grad.h"

enum { NAME_SIZE = 192 };

static ddit_status bind(dd_flux_trainee *t, dd_flux_binding binding, ddit_err *err) {
    const dd_allocator *a = t->dit->backend->allocator;
    if (t->binding_count == t->binding_room) {
        int room = t->binding_room ? 2 * t->binding_room : 64;
        dd_flux_binding *larger;
        DD_TRY(dd_alloc(a, &larger, (size_t)room, sizeof *larger, "the list of trained weights", err));
        if (t->binding_count) memcpy(larger, t->bindings, (size_t)t->binding_count * sizeof *larger);
        dd_free(a, t->bindings);
        t->bindings = larger;
        t->binding_room = room;
    }
    binding.name = t->params.items[t->params.count - 1].name;
    t->bindings[t->binding_count++] = binding;
    return DDIT_OK;
}

static ddit_status bind_weight(dd_flux_trainee *t, dd_weight *w, int64_t weight, int64_t bias, int64_t id, ddit_err *err) {
    dd_weight_info info = dd_op_weight_info(t->dit->backend, w);
    return bind(t, (dd_flux_binding){.w = w, .out = info.out, .in = info.in, .weight = weight, .bias = bias, .id = id}, err);
}

static ddit_status bind_vector(dd_flux_trainee *t, void *data, int64_t count, int64_t at, ddit_err *err) {
    return bind(t, (dd_flux_binding){.vector = dd_tensor_1d(data, DD_DTYPE_F32, count), .weight = at, .bias = -1, .id = -1},
                err);
}

/* ---------------------------------------------------------------------------------------------- adapter */

/* Appends "ddit.xF.REST". */
static ddit_status add_named(dd_flux_trainee *t, int f, const char *rest, int rank, const int64_t *shape, int64_t *at,
                             ddit_err *err) {
    char name[NAME_SIZE + 24];
    snprintf(name, sizeof name, "ddit.x%d.%s", dd_factor_at(f), rest);
    return dd_param_list_add(&t->params, name, rank, shape, at, err);
}

static ddit_status add_residual(dd_flux_trainee *t, int f, int n, ddit_err *err) {
    dd_flux_dit *dit = t->dit;
    dd_flux_patch *patch = &dit->patch[f];
    int64_t c = dit->config.latent_channels;
    float *zeros;
    DD_TRY(dd_alloc(dit->backend->allocator, &zeros, (size_t)(c * c + c), sizeof *zeros, "the adapter's residual", err));
    const float *pixel = t->options.residual_linear ? zeros : NULL;
    ddit_status status = dd_flux_residual_set(dit, f, n, pixel, t->options.residual_hf, err);
    dd_free(dit->backend->allocator, zeros);
    if (status != DDIT_OK || !t->options.residual_linear) return status;
    DD_TRY(add_named(t, f, "res.weight", 2, (int64_t[]){c, c}, &patch->pixel_at.weight, err));
    DD_TRY(bind_vector(t, patch->pixel_weight.data, c * c, patch->pixel_at.weight, err));
    DD_TRY(add_named(t, f, "res.bias", 1, &c, &patch->pixel_at.bias, err));
    return bind_vector(t, patch->pixel_bias.data, c, patch->pixel_at.bias, err);
}

static ddit_status add_patch(dd_flux_trainee *t, int f, ddit_err *err) {
    dd_flux_dit *dit = t->dit;
    dd_flux_patch *patch = &dit->patch[f];
    int64_t d = dit->config.hidden, c = dit->config.latent_channels, n = dit->config.patch * dd_factor_at(f);
    DD_TRY(dd_flux_weight_blank(dit, &patch->embed, "a patch embedding", d, c * n * n, true, DD_WEIGHT_FORWARD, err));
    DD_TRY(dd_flux_weight_blank(dit, &patch->deembed, "a patch de-embedding", c * n * n, d, true,
                                DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT, err));
    DD_TRY(add_named(t, f, "embed.bias", 1, &d, &patch->embed_at.bias, err));
    DD_TRY(add_named(t, f, "id", 1, &d, &patch->id_at, err));
    DD_TRY(add_named(t, f, "embed.weight", 4, (int64_t[]){d, c, n, n}, &patch->embed_at.weight, err));
    DD_TRY(bind_weight(t, patch->embed, patch->embed_at.weight, patch->embed_at.bias, patch->id_at, err));
    DD_TRY(add_named(t, f, "deembed.bias", 3, (int64_t[]){c, n, n}, &patch->deembed_at.bias, err));
    DD_TRY(add_named(t, f, "deembed.weight", 4, (int64_t[]){c, n, n, d}, &patch->deembed_at.weight, err));
    DD_TRY(bind_weight(t, patch->deembed, patch->deembed_at.weight, patch->deembed_at.bias, -1, err));
    DD_TRY(add_residual(t, f, (int)n, err));
    patch->present = true;
    return DDIT_OK;
}

/* The DD_LORA_* bit of a module. */
static unsigned target_of(const char *module) {
    if (strstr(module, ".ff_context.")) return DD_LORA_DOUBLE_TEXT;
    if (strstr(module, ".ff.")) return DD_LORA_DOUBLE_IMAGE;
    return strstr(module, ".proj_mlp") ? DD_LORA_SINGLE_MLP : DD_LORA_SINGLE_OUT;
}

typedef struct lora_adder {
    dd_flux_trainee *trainee;
    int f;
} lora_adder;

static ddit_status add_lora(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in, ddit_err *err) {
    const lora_adder *adder = user;
    dd_flux_trainee *t = adder->trainee;
    int64_t r = t->options.rank;
    int f = adder->f;
    char rest[NAME_SIZE];
    if (!(t->options.lora_targets & target_of(module))) return DDIT_OK;
    const unsigned uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT;
    DD_TRY(dd_flux_weight_blank(t->dit, &linear->lora[f].down, module, r, in, false, uses, err));
    DD_TRY(dd_flux_weight_blank(t->dit, &linear->lora[f].up, module, out, r, false, uses, err));
    snprintf(rest, sizeof rest, "lora.%s.A", module);
    DD_TRY(add_named(t, f, rest, 2, (int64_t[]){r, in}, &linear->lora[f].down_at, err));
    DD_TRY(bind_weight(t, linear->lora[f].down, linear->lora[f].down_at, -1, -1, err));
    snprintf(rest, sizeof rest, "lora.%s.B", module);
    DD_TRY(add_named(t, f, rest, 2, (int64_t[]){out, r}, &linear->lora[f].up_at, err));
    return bind_weight(t, linear->lora[f].up, linear->lora[f].up_at, -1, -1, err);
}

static ddit_status add_adapter(dd_flux_trainee *t, ddit_err *err) {
    const dd_train_options *o = &t->options;
    DD_TRY(dd_flux_residual_alloc(t->dit, err));
    t->dit->lora_scale = o->rank > 0 ? o->alpha / (float)o->rank : 0.0f;
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (!o->factor[f]) continue;
        DD_TRY(add_patch(t, f, err));
        if (o->rank > 0) DD_TRY(dd_flux_lora_walk(t->dit, add_lora, &(lora_adder){t, f}, err));
    }
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- the whole transformer */

static ddit_status add_linear(void *user, dd_weight *w, dd_flux_place *at, const char *name, ddit_err *err) {
    dd_flux_trainee *t = user;
    dd_weight_info info = dd_op_weight_info(t->dit->backend, w);
    char tensor[NAME_SIZE];
    snprintf(tensor, sizeof tensor, "%s.bias", name);
    DD_TRY(dd_param_list_add(&t->params, tensor, 1, &info.out, &at->bias, err));
    snprintf(tensor, sizeof tensor, "%s.weight", name);
    DD_TRY(dd_param_list_add(&t->params, tensor, 2, (int64_t[]){info.out, info.in}, &at->weight, err));
    return bind_weight(t, w, at->weight, at->bias, -1, err);
}

static ddit_status add_norm(void *user, dd_flux_head_norm *norm, const char *name, ddit_err *err) {
    dd_flux_trainee *t = user;
    int64_t size = norm->weight.shape[0];
    DD_TRY(dd_param_list_add(&t->params, name, 1, &size, &norm->at, err));
    return bind_vector(t, norm->weight.data, size, norm->at, err);
}

/* ---------------------------------------------------------------------------------------------- */

static ddit_status check(const dd_flux_dit *dit, const dd_train_options *options, ddit_err *err) {
    if (!dit->backend->ops->grad || !dit->backend->ops->weight_update)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the backend %s cannot train: it has no backward passes",
                       dit->backend->ops->name);
    if (!dit->trainable || (options->scope == DD_TRAIN_ALL && !dit->all))
        return dd_fail(err, DDIT_ERR_INTERNAL, "the transformer was not opened for this training");
    if (dit->residual_vectors) return dd_fail(err, DDIT_ERR_INTERNAL, "the transformer has an adapter already");
    return DDIT_OK;
}

ddit_status dd_flux_trainee_create(dd_flux_trainee **out, dd_flux_dit *dit, const dd_train_options *options, ddit_err *err) {
    const dd_allocator *a = dit->backend->allocator;
    dd_flux_trainee *t;
    *out = NULL;
    DD_TRY(check(dit, options, err));
    DD_TRY(dd_alloc(a, &t, 1, sizeof *t, "the parameters", err));
    t->dit = dit;
    t->options = *options;
    t->dit_bytes = dit->weight_bytes;
    t->dit_prepared = dit->prepared_count;
    dd_param_list_init(&t->params, a);
    dd_flux_visitor visitor = {add_linear, add_norm, t};
    ddit_status status;
    DD_GO(dd_alloc(a, &t->bias, (size_t)dit->config.hidden, sizeof *t->bias, "a bias", err));
    DD_GO(options->scope == DD_TRAIN_ALL ? dd_flux_weights_walk(dit, &visitor, err) : add_adapter(t, err));
    *out = t;
    return DDIT_OK;
done:
    dd_flux_trainee_free(t);
    return status;
}

void dd_flux_trainee_free(dd_flux_trainee *t) {
    if (!t) return;
    dd_flux_dit *dit = t->dit;
    const dd_allocator *a = dit->backend->allocator;
    if (t->options.scope == DD_TRAIN_ADAPTER) {
        dd_flux_adapter_free(dit);
        dit->weight_bytes = t->dit_bytes;
        dit->prepared_count = t->dit_prepared;
    }
    dd_param_list_deinit(&t->params);
    dd_free(a, t->bindings);
    dd_free(a, t->bias);
    dd_free(a, t);
}

const dd_param_list *dd_flux_trainee_params(const dd_flux_trainee *t) { return &t->params; }

ddit_status dd_flux_trainee_update(dd_flux_trainee *t, const float *values, ddit_err *err) {
    dd_backend *b = t->dit->backend;
    for (int i = 0; i < t->binding_count; i++) {
        const dd_flux_binding *p = &t->bindings[i];
        const float *bias = p->bias < 0 ? NULL : values + p->bias;
        if (!p->w) {
            DD_TRY(dd_op_upload(b, p->vector.data, values + p->weight, (size_t)p->vector.shape[0] * sizeof *values, err));
            continue;
        }
        if (p->id >= 0) {
            for (int64_t k = 0; k < p->out; k++) t->bias[k] = bias[k] + values[p->id + k];
            bias = t->bias;
        }
        dd_weight_desc desc = {.name = p->name, .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = p->out, .in = p->in,
                               .data = values + p->weight, .bias = bias, .bias_dtype = DD_DTYPE_F32};
        DD_TRY(dd_op_weight_update(b, p->w, &desc, err));
    }
    return DDIT_OK;
}
