/* From the parameters of a training to the values it uses. Each check names the parameter, what was found and expected. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scan.h"
#include "pipeline/train.h"

enum {
    DEFAULT_SAMPLES = 26000,
    DEFAULT_POINTS = 8,
    DEFAULT_TRAJECTORIES = DEFAULT_SAMPLES / DEFAULT_POINTS, /* no sample comes twice */
    DEFAULT_BATCH = 4, /* samples run one by one, so that many small steps cost no more than few large ones */
    ALL_BATCH = 16,
    PAPER_BATCH = 32,
    DEFAULT_RANK = 32,
    DEFAULT_SAVE_EVERY = 1000,
    MAX_BATCH = 65536,
    MAX_RANK = 4096
};
#define ADAPTER_LR 2e-3   /* AdamW at width 256; wider layers sum over more inputs and want smaller steps */
#define ADAPTER_PATCH_LR 0.4 /* embedding and de-embedding start near what they become: larger steps shake them (SPEED.md) */
#define ADAPTER_BETA2 0.99   /* few samples in a step, fewer for each factor: the shorter memory was better (SPEED.md) */
#define DEFAULT_FLOOR 0.4 /* at about this floor all noise levels contribute alike (SPEED.md) */
#define MAX_COUNT INT64_C(1000000000)

ddit_train_params ddit_train_params_init(void) {
    return (ddit_train_params){.struct_size = sizeof(ddit_train_params), .rank = -1, .mixed = NAN, .minutes = NAN, .lr = NAN,
                               .patch_lr = NAN, .weight_decay = NAN, .warmup = -1, .clip = NAN, .ema = NAN, .loss_floor = NAN,
                               .caption_dropout = NAN};
}

/* A parameter of which a name of a list is expected. Returns its index, -1 if it is none of them. */
static int choice(const char *value, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(value, names[i]) == 0) return i;
    return -1;
}

static ddit_status in_range(const char *name, double value, double low, double high, ddit_err *err) {
    if (value >= low && value <= high) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_ARGUMENT, "%s is %g, expected a number from %g to %g", name, value, low, high);
}

static double given(double value, double fallback) { return isnan(value) ? fallback : value; }

static bool is_paper(const ddit_train_params *p) { return p->preset != NULL; }

/* ---------------------------------------------------------------------------------------------- what is trained */

static ddit_status resolve_scope(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    static const char *const scopes[] = {"adapter", "all"};
    int scope = p->scope ? choice(p->scope, scopes, 2) : 0;
    if (scope < 0) return dd_fail(err, DDIT_ERR_ARGUMENT, "scope is \"%s\", expected adapter or all", p->scope);
    if (p->preset && strcmp(p->preset, "paper"))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "preset is \"%s\", expected paper", p->preset);
    s->all = scope == 1;
    s->options.scope = s->all ? DD_TRAIN_ALL : DD_TRAIN_ADAPTER;
    return DDIT_OK;
}

static ddit_status resolve_lora(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    static const char *const names[] = {"image", "text", "mlp", "out"};
    const char *at = p->lora ? p->lora : "all";
    s->options.lora_targets = strcmp(at, "all") == 0 ? DD_LORA_ALL : 0;
    if (strcmp(at, "all") == 0 || strcmp(at, "none") == 0) return DDIT_OK;
    while (*at) {
        size_t length = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < 4; i++)
            if (strlen(names[i]) == length && strncmp(at, names[i], length) == 0) found = i;
        if (found < 0)
            return dd_fail(err, DDIT_ERR_ARGUMENT, "lora is \"%s\", expected all, none, or any of image,text,mlp,out", p->lora);
        s->options.lora_targets |= 1u << found;
        at += length;
        if (*at == ',' && at[1]) at++;
    }
    bool doubles = s->options.lora_targets & (DD_LORA_DOUBLE_IMAGE | DD_LORA_DOUBLE_TEXT);
    bool singles = s->options.lora_targets & (DD_LORA_SINGLE_MLP | DD_LORA_SINGLE_OUT);
    if (!doubles || !singles)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "lora is \"%s\", expected one of image and text and one of mlp and out at "
                       "least: an adapter has LoRA in every block or in none", p->lora);
    return DDIT_OK;
}

static ddit_status resolve_adapter(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    static const char *const residuals[] = {"none", "linear", "hf", "linear+hf"};
    static const char *const factors[] = {"2,4", "2", "4"};
    int residual = p->residual ? choice(p->residual, residuals, 4) : is_paper(p) ? 1 : 2;
    int factor = p->factors ? choice(p->factors, factors, 3) : 0;
    if (s->all && (p->residual || p->factors || p->lora || p->rank >= 0 || !isnan(p->mixed)))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "one of factors, rank, lora, residual and mixed is given, which belong to "
                       "adapters: leave it out with scope all");
    if (s->all) return DDIT_OK;
    if (residual < 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "residual is \"%s\", expected none, linear, hf or linear+hf", p->residual);
    if (factor < 0) return dd_fail(err, DDIT_ERR_ARGUMENT, "factors is \"%s\", expected 2,4 or 2 or 4", p->factors);
    s->options.residual_linear = residual & 1;
    s->options.residual_hf = residual & 2;
    s->options.factor[1] = factor != 2;
    s->options.factor[2] = factor != 1;
    s->options.rank = p->rank < 0 ? DEFAULT_RANK : p->rank;
    DD_TRY(in_range("rank", p->rank, -1, MAX_RANK, err));
    DD_TRY(resolve_lora(s, p, err));
    if (s->options.rank == 0) s->options.lora_targets = 0;
    if (s->options.lora_targets == 0) s->options.rank = 0;
    s->options.alpha = (float)s->options.rank;
    s->mixed = given(p->mixed, is_paper(p) ? 0 : 0.1);
    return in_range("mixed", s->mixed, 0, 1, err);
}

/* ---------------------------------------------------------------------------------------------- how it is trained */

static ddit_status resolve_length(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    s->minutes = p->minutes;
    s->measure_only = p->steps == -1;
    if (p->steps < -1 || p->steps > MAX_COUNT)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "steps is %" PRId64 ", expected 0 (the default), -1 (measure only) or 1 to "
                       "%" PRId64, p->steps, MAX_COUNT);
    if (!isnan(p->minutes)) {
        DD_TRY(in_range("minutes", p->minutes, 1e-3, 1e7, err));
        if (p->steps) return dd_fail(err, DDIT_ERR_ARGUMENT, "both steps and minutes are given: leave one of them out");
    }
    s->batch = p->batch ? p->batch : is_paper(p) ? PAPER_BATCH : s->all ? ALL_BATCH : DEFAULT_BATCH;
    s->accumulate = p->accumulate ? p->accumulate : 1;
    DD_TRY(in_range("batch", s->batch, 1, MAX_BATCH, err));
    DD_TRY(in_range("accumulate", s->accumulate, 1, MAX_BATCH, err));
    int64_t samples = (int64_t)s->batch * s->accumulate;
    s->steps = p->steps > 0 ? p->steps : isnan(p->minutes) ? (DEFAULT_SAMPLES + samples - 1) / samples : 0;
    s->save_every = p->save_every ? p->save_every : DEFAULT_SAVE_EVERY;
    s->sample_every = p->sample_every;
    DD_TRY(in_range("save_every", (double)s->save_every, 1, (double)MAX_COUNT, err));
    return in_range("sample_every", (double)s->sample_every, -1, (double)MAX_COUNT, err);
}

static ddit_status resolve_optimizer(dd_train_settings *s, const ddit_train_params *p, int64_t hidden, ddit_err *err) {
    static const char *const kinds[] = {"adamw", "prodigy"}, *const decays[] = {"none", "linear", "cosine"};
    int kind = p->optimizer ? choice(p->optimizer, kinds, 2) : is_paper(p);
    int decay = p->decay ? choice(p->decay, decays, 3) : is_paper(p) ? 0 : 2;
    if (kind < 0) return dd_fail(err, DDIT_ERR_ARGUMENT, "optimizer is \"%s\", expected adamw or prodigy", p->optimizer);
    if (decay < 0) return dd_fail(err, DDIT_ERR_ARGUMENT, "decay is \"%s\", expected none, linear or cosine", p->decay);
    bool prodigy = kind == 1;
    dd_optimizer_params *o = &s->optimizer;
    *o = dd_optimizer_defaults(prodigy ? DD_OPTIMIZER_PRODIGY : DD_OPTIMIZER_ADAMW);
    o->decay = decay == 0 ? DD_DECAY_NONE : decay == 1 ? DD_DECAY_LINEAR : DD_DECAY_COSINE;
    o->lr = given(p->lr, prodigy ? 1 : s->all ? 3e-4 : ADAPTER_LR * 256 / (double)hidden);
    s->patch_lr = given(p->patch_lr, prodigy || s->all ? 1 : ADAPTER_PATCH_LR);
    o->weight_decay = given(p->weight_decay, prodigy ? 0 : 0.01);
    if (!prodigy && !s->all) o->beta2 = ADAPTER_BETA2;
    o->clip_norm = given(p->clip, 1);
    o->ema_decay = given(p->ema, 0.998);
    s->warmup = p->warmup;
    s->loss_floor = given(p->loss_floor, s->all ? 0 : DEFAULT_FLOOR);
    DD_TRY(in_range("lr", o->lr, 1e-12, 1e3, err));
    DD_TRY(in_range("patch_lr", s->patch_lr, 0, 1e3, err));
    if ((prodigy || s->all) && s->patch_lr != 1)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "patch_lr is %g, expected none: %s", s->patch_lr,
                       s->all ? "with scope all every weight learns at the same rate" : "prodigy finds one rate for all");
    DD_TRY(in_range("weight_decay", o->weight_decay, 0, 100, err));
    DD_TRY(in_range("clip", o->clip_norm, 0, 1e9, err));
    DD_TRY(in_range("ema", o->ema_decay, 0, 0.9999999, err));
    DD_TRY(in_range("loss_floor", s->loss_floor, 0, 1e6, err));
    return in_range("warmup", (double)p->warmup, -1, (double)MAX_COUNT, err);
}

void dd_train_settings_fix_steps(dd_train_settings *s, int64_t steps) {
    s->steps = steps;
    s->optimizer.total_steps = steps;
    s->optimizer.warmup_steps = s->warmup >= 0 ? s->warmup : (steps + 10) / 20;
}

/* "LO,HI" or one number. */
static ddit_status resolve_guidance(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    s->guidance_low = s->guidance_high = s->run.guidance;
    if (!p->guidance) return DDIT_OK;
    const char *at = dd_skip_blanks(p->guidance);
    double low, high;
    bool good = dd_scan_decimal(&at, &low);
    high = low;
    at = dd_skip_blanks(at);
    bool range = good && *at == ',';
    if (range) {
        at = dd_skip_blanks(at + 1);
        good = dd_scan_decimal(&at, &high);
    }
    if (!good || *dd_skip_blanks(at) || low > high || high > 1000)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "guidance is \"%s\", expected a number or two rising ones from 0 to 1000, such "
                       "as 1,4", p->guidance);
    s->guidance_low = (float)low;
    s->guidance_high = (float)high;
    s->distil = s->all && range;
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- data and files */

static ddit_status resolve_data(dd_train_settings *s, const ddit_train_params *p, ddit_err *err) {
    s->prompts = p->prompts;
    s->data = p->data;
    s->init = p->init;
    s->eval = p->eval;
    s->trajectories = p->trajectories ? p->trajectories : DEFAULT_TRAJECTORIES;
    s->points = p->points ? p->points : DEFAULT_POINTS;
    s->caption_dropout = s->all && !s->distil ? given(p->caption_dropout, 0.1) : 0;
    static const char *const levels[] = {"uniform", "logit-normal"};
    int level = p->levels ? choice(p->levels, levels, 2) : s->all;
    if (level < 0) return dd_fail(err, DDIT_ERR_ARGUMENT, "levels is \"%s\", expected uniform or logit-normal", p->levels);
    s->levels = level == 1 ? DD_NOISE_LOGIT_NORMAL : DD_NOISE_UNIFORM;
    if (p->prompts && p->data) return dd_fail(err, DDIT_ERR_ARGUMENT, "both prompts and data are given: leave one of them out");
    if (!p->prompts && !p->data && !s->measure_only)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "neither prompts nor data is given: name a text file with a prompt a line, or a "
                       "folder of pictures with captions");
    if (s->measure_only && !p->eval)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "steps is -1, which only measures, but eval is not given: name a held-out set "
                       "or a file of prompts");
    if (s->all && p->prompts && !s->distil)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "scope all learns from pictures: give data instead of prompts, or a range of "
                       "guidance (LO,HI) for guidance distillation");
    if (s->all && p->init) return dd_fail(err, DDIT_ERR_ARGUMENT, "init is an adapter, which scope all does not train");
    DD_TRY(in_range("trajectories", s->trajectories, 1, DD_TRAJECTORIES_MAX, err));
    DD_TRY(in_range("points", s->points, 1, 1000, err));
    return in_range("caption_dropout", s->caption_dropout, 0, 1, err);
}

/* output without trailing slashes; the run's folder: output with .run for .safetensors. */
static ddit_status resolve_paths(dd_train_settings *s, const dd_allocator *a, const ddit_train_params *p, ddit_err *err) {
    static const char ending[] = ".safetensors";
    if (!p->output || !*p->output) return dd_fail(err, DDIT_ERR_ARGUMENT, "output is not given: name the file to be written");
    size_t length = strlen(p->output), end = sizeof ending - 1;
    while (length > 1 && p->output[length - 1] == '/') length--;
    bool file = length > end && memcmp(p->output + length - end, ending, end) == 0;
    if (!s->all && !file)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "output is \"%s\", expected a name that ends in .safetensors", p->output);
    if (s->all && file)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "output is \"%s\", expected a folder: scope all writes a whole model",
                       p->output);
    DD_TRY(dd_strndup(a, &s->output, p->output, length, err));
    if (file) length -= end;
    DD_TRY(dd_alloc(a, &s->folder, length + 5, 1, "a path", err));
    snprintf(s->folder, length + 5, "%.*s.run", (int)length, p->output);
    return dd_strdup(a, &s->cache, p->cache ? p->cache : s->folder, err);
}

static ddit_status resolve_picture(dd_train_settings *s, const ddit_model *model, const ddit_train_params *p, ddit_err *err) {
    ddit_params run = ddit_params_init();
    run.prompt = "";
    run.patch = "off";
    run.width = p->width;
    run.height = p->height;
    return dd_settings_resolve(&s->run, model, &run, err);
}

ddit_status dd_train_settings_resolve(dd_train_settings *s, const ddit_model *model, const ddit_train_params *p,
                                      ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    ddit_status status;
    *s = (dd_train_settings){.seed = p->seed, .resume = p->resume != 0};
    DD_GO(resolve_picture(s, model, p, err));
    DD_GO(resolve_scope(s, p, err));
    DD_GO(resolve_adapter(s, p, err));
    DD_GO(resolve_length(s, p, err));
    DD_GO(resolve_optimizer(s, p, model->config.transformer.hidden, err));
    DD_GO(resolve_guidance(s, p, err));
    DD_GO(resolve_data(s, p, err));
    DD_GO(resolve_paths(s, a, p, err));
    if (s->steps > 0) dd_train_settings_fix_steps(s, s->steps);
done:
    if (status != DDIT_OK) dd_train_settings_deinit(s, a);
    return status;
}

void dd_train_settings_deinit(dd_train_settings *s, const dd_allocator *a) {
    dd_settings_deinit(&s->run, a);
    dd_free(a, s->output);
    dd_free(a, s->folder);
    dd_free(a, s->cache);
    *s = (dd_train_settings){0};
}

dd_latent_shape dd_train_shape(const dd_train_settings *s, const ddit_model *model) {
    return (dd_latent_shape){model->config.transformer.latent_channels, s->run.latent_height, s->run.latent_width};
}

dd_grid dd_train_grid(const dd_train_settings *s, const ddit_model *model) {
    int p = model->config.transformer.patch;
    return (dd_grid){s->run.latent_height / p, s->run.latent_width / p, p};
}

/* ---------------------------------------------------------------------------------------------- as text */

void dd_train_settings_text(dd_train_run *run) {
    const dd_train_settings *s = &run->s;
    const dd_optimizer_params *o = &s->optimizer;
    const dd_train_options *t = &s->options;
    snprintf(run->settings, sizeof run->settings,
             "scope=%s\nmodel=%016" PRIx64 "\nprecision=%s\nwidth=%d\nheight=%d\ntext_tokens=%d\nfactors=%s%s\nrank=%d\n"
             "alpha=%.9g\nlora=%u\nresidual=%d\nmixed=%.17g\ndata=%016" PRIx64 "\ntrajectories=%d\npoints=%d\n"
             "steps=%" PRId64 "\nbatch=%d\naccumulate=%d\nvectors=%d\noptimizer=%d\nlr=%.17g\npatch_lr=%.17g\n"
             "weight_decay=%.17g\nwarmup=%" PRId64 "\ndecay=%d\nclip=%.17g\nema=%.17g\nloss_floor=%.17g\n"
             "guidance=%.9g,%.9g\ncaption_dropout=%.17g\ndistil=%d\nlevels=%d\ninit=%016" PRIx64 "\nseed=%" PRIu64 "\n",
             s->all ? "all" : "adapter", run->fingerprint, dd_dtype_name(run->context->backend->activation), s->run.width,
             s->run.height, s->run.max_sequence_length, t->factor[1] ? "2" : "", t->factor[2] ? "4" : "", t->rank,
             (double)t->alpha, t->lora_targets, t->residual_linear + 2 * t->residual_hf, s->mixed, dd_train_data_hash(run),
             s->trajectories, s->points, s->steps, s->batch, s->accumulate, run->vectors, (int)o->kind, o->lr,
             s->patch_lr, o->weight_decay, o->warmup_steps, (int)o->decay, o->clip_norm, o->ema_decay, s->loss_floor,
             (double)s->guidance_low, (double)s->guidance_high, s->caption_dropout, s->distil, (int)s->levels,
             run->init_hash, s->seed);
}
