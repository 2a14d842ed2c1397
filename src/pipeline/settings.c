/* From parameters and model defaults to the values a run uses. Each check names the parameter, what was found and expected. */
#include <math.h>
#include <string.h>

#include "base/factor_list.h"
#include "pipeline/pipeline.h"
#include "tokenizer/utf8.h"

enum {
    SIZE_UNIT = 16,
    SIZE_MIN = 64,
    SIZE_MAX_PIXELS = 4096,
    DEFAULT_SIZE = 1024,
    DEFAULT_STEPS = 28,
    FEW_STEPS = 4,
    T5_LENGTH = 512,
    T5_LENGTH_SHORT = 256,
    T5_LENGTH_MAX = 4096
};
#define DEFAULT_GUIDANCE 3.5f
#define DEFAULT_TAU 0.001
#define DEFAULT_RHO 0.4

static int first_set(int a, int b, int c) { return a ? a : b ? b : c; }

static ddit_status check_size(const char *name, int value, ddit_err *err) {
    if (value < SIZE_MIN || value > SIZE_MAX_PIXELS || value % SIZE_UNIT)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%s is %d, expected a multiple of %d from %d to %d", name, value, SIZE_UNIT,
                       SIZE_MIN, SIZE_MAX_PIXELS);
    return DDIT_OK;
}

static ddit_status resolve_size(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    const dd_ddit_config *d = &m->config.ddit;
    s->width = first_set(p->width, d->width, DEFAULT_SIZE);
    s->height = first_set(p->height, d->height, DEFAULT_SIZE);
    DD_TRY(check_size("width", s->width, err));
    DD_TRY(check_size("height", s->height, err));
    int scale = m->config.vae.scale, patch = m->config.transformer.patch;
    if (s->width % (scale * patch) || s->height % (scale * patch))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "size %d x %d: this model needs multiples of %d", s->width, s->height,
                       scale * patch);
    s->latent_width = s->width / scale;
    s->latent_height = s->height / scale;
    return DDIT_OK;
}

static ddit_status resolve_prompts(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    const dd_allocator *a = &m->context->allocator;
    const char *negative = p->negative_prompt ? p->negative_prompt : "";
    if (!p->prompt) return dd_fail(err, DDIT_ERR_ARGUMENT, "no prompt was given");
    ddit_status status = dd_prompt_check(p->prompt, strlen(p->prompt), err);
    if (status != DDIT_OK) return dd_fail_prefix(err, status, "prompt");
    status = dd_prompt_check(negative, strlen(negative), err);
    if (status != DDIT_OK) return dd_fail_prefix(err, status, "negative prompt");
    DD_TRY(dd_strdup(a, &s->prompt, p->prompt, err));
    return dd_strdup(a, &s->negative, negative, err);
}

static ddit_status resolve_guidance(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    const dd_ddit_config *d = &m->config.ddit;
    s->guidance = !isnan(p->guidance) ? p->guidance : !isnan(d->guidance) ? d->guidance : DEFAULT_GUIDANCE;
    s->cfg_scale = isnan(p->cfg_scale) ? 1.0f : p->cfg_scale;
    if (!(s->guidance >= 0 && s->guidance <= 1000))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "guidance is %g, expected a number from 0 to 1000", (double)s->guidance);
    if (!(s->cfg_scale >= 0 && s->cfg_scale <= 100))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "cfg scale is %g, expected a number from 0 to 100 (1 = off)",
                       (double)s->cfg_scale);
    return DDIT_OK;
}

static ddit_status resolve_text_length(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    int fallback = m->config.transformer.guidance_embeds ? T5_LENGTH : T5_LENGTH_SHORT;
    int from_tokenizer = m->config.tokenizer_2.model_max_length;
    if (from_tokenizer > T5_LENGTH) from_tokenizer = T5_LENGTH;
    s->max_sequence_length =
        first_set(p->max_sequence_length, m->config.ddit.max_sequence_length, first_set(from_tokenizer, fallback, 0));
    if (s->max_sequence_length < 1 || s->max_sequence_length > T5_LENGTH_MAX)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "max sequence length is %d, expected 1 to %d", s->max_sequence_length,
                       T5_LENGTH_MAX);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- patch policy */

static ddit_status resolve_coarse(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    bool has_adapter = m->adapter.file != NULL;
    if (p->coarse && strcmp(p->coarse, "adapter") && strcmp(p->coarse, "free"))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "coarse is \"%s\", expected adapter or free", p->coarse);
    if (p->coarse && strcmp(p->coarse, "adapter") == 0 && !has_adapter)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "coarse steps by an adapter were asked for, but none is loaded: give one or use free");
    s->coarse_free = p->coarse ? strcmp(p->coarse, "free") == 0 : !has_adapter;
    return DDIT_OK;
}

/* Threshold, quantile, order, floors: by hand, else the adapter's, else the paper's. */
static ddit_status resolve_rule(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    dd_patch_policy *policy = &s->policy;
    bool has_adapter = m->adapter.file != NULL;
    double tau = has_adapter && !isnan(m->adapter.tau) ? (double)m->adapter.tau : DEFAULT_TAU;
    if (policy->kind == DD_PATCH_REGION && has_adapter && !isnan(m->adapter.tau_region)) tau = (double)m->adapter.tau_region;
    policy->tau_by_hand = !isnan(p->tau);
    policy->tau = policy->tau_by_hand ? p->tau : tau;
    policy->tau_steps = has_adapter ? m->adapter.tau_steps : 50;
    policy->rho = !isnan(p->rho) ? p->rho : has_adapter && !isnan(m->adapter.rho) ? (double)m->adapter.rho : DEFAULT_RHO;
    policy->order = first_set(p->order, has_adapter ? m->adapter.order : 0, DD_MAX_ORDER);
    double floors[DD_FACTOR_COUNT] = {0};
    if (p->sigma_min) DD_TRY(dd_sigma_min_parse(floors, p->sigma_min, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++)
        policy->sigma_min[f] = p->sigma_min ? floors[f] : has_adapter ? m->adapter.sigma_min[f] : 0.0;
    return DDIT_OK;
}

/* Factors the run may use: those of the adapter, or those the free step can divide the latent by. */
static void resolve_allowed(dd_settings *s, const ddit_model *m) {
    int patch = m->config.transformer.patch;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        int k = dd_factor_at(f);
        bool divides = s->latent_height % (patch * k) == 0 && s->latent_width % (patch * k) == 0;
        s->policy.allowed[f] = f == 0 || (s->coarse_free ? divides : m->adapter.factor[f].present);
    }
}

static ddit_status resolve_anchor(dd_settings *s, const ddit_model *m, const ddit_params *p, int replayed, ddit_err *err) {
    int by_adapter = s->coarse_free || !m->adapter.file ? 0 : m->adapter.anchor;
    s->anchor = p->anchor >= 0 ? p->anchor : replayed >= 0 ? replayed : by_adapter;
    if (p->anchor < -1 || s->anchor > DD_MAX_STEPS)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "anchor is %d, expected 0 (none) to %d steps", p->anchor, DD_MAX_STEPS);
    return DDIT_OK;
}

static ddit_status parse_policy(dd_settings *s, const ddit_model *m, int *anchor, ddit_err *err) {
    const dd_allocator *a = &m->context->allocator;
    static const struct { const char *name; dd_patch_kind kind; } names[] = {
        {"off", DD_PATCH_OFF}, {"auto", DD_PATCH_AUTO}, {"region", DD_PATCH_REGION}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(s->patch, names[i].name) == 0) {
            s->policy.kind = names[i].kind;
            return DDIT_OK;
        }
    s->policy.kind = DD_PATCH_SCHEDULE;
    if (s->patch[0] == '@') DD_TRY(dd_replay_read(&s->schedule, anchor, a, s->patch + 1, err));
    else {
        ddit_status status = dd_patch_schedule_parse(&s->schedule, a, s->patch, err);
        if (status != DDIT_OK)
            return dd_fail_prefix(err, status, "patch (off, auto, region, a schedule such as 1x3,2x20, or @FILE)");
    }
    s->policy.schedule = &s->schedule;
    return DDIT_OK;
}

static ddit_status resolve_steps(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    int scheduled = s->policy.kind == DD_PATCH_SCHEDULE ? s->schedule.count : 0;
    int fallback = m->config.transformer.guidance_embeds ? DEFAULT_STEPS : FEW_STEPS;
    s->steps = first_set(p->steps, scheduled, first_set(m->config.ddit.steps, fallback, 0));
    if (s->steps < 1 || s->steps > DD_MAX_STEPS)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "steps is %d, expected 1 to %d", s->steps, DD_MAX_STEPS);
    if (scheduled && scheduled != s->steps)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "the schedule has %d steps, but %d were asked for: leave one of them out or make them agree", scheduled,
                       s->steps);
    return DDIT_OK;
}

/* A schedule may only hold factors that can run; said here, where the cure is known. */
static ddit_status check_schedule_factors(const dd_settings *s, const ddit_model *m, ddit_err *err) {
    for (int k = 0; k < s->schedule.count; k++) {
        int factor = s->schedule.factor[k];
        if (factor <= 1 || s->policy.allowed[dd_factor_index(factor)]) continue;
        if (s->coarse_free)
            return dd_fail(err, DDIT_ERR_ARGUMENT,
                           "step %d of the schedule has factor %d: the free coarse step then needs width and height "
                           "that are multiples of %d, found %d x %d",
                           k, factor, 16 * factor, s->width, s->height);
        return dd_fail(err, DDIT_ERR_ARGUMENT, "step %d of the schedule has factor %d, which the adapter %s does not have", k,
                       factor, m->adapter_path);
    }
    return DDIT_OK;
}

static ddit_status resolve_policy(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    const dd_allocator *a = &m->context->allocator;
    bool has_adapter = m->adapter.file != NULL;
    const char *by_model =
        m->config.ddit.patch[0] && (has_adapter || strcmp(m->config.ddit.patch, "off") == 0) ? m->config.ddit.patch : NULL;
    const char *patch = p->patch ? p->patch : by_model ? by_model : has_adapter ? "auto" : "off";
    DD_TRY(dd_strdup(a, &s->patch, patch, err));
    s->policy = dd_patch_policy_default();
    int replayed_anchor = -1;
    DD_TRY(parse_policy(s, m, &replayed_anchor, err));
    DD_TRY(resolve_coarse(s, m, p, err));
    DD_TRY(resolve_anchor(s, m, p, replayed_anchor, err));
    DD_TRY(resolve_rule(s, m, p, err));
    resolve_allowed(s, m);
    DD_TRY(resolve_steps(s, m, p, err));
    return check_schedule_factors(s, m, err);
}

ddit_status dd_settings_resolve(dd_settings *s, const ddit_model *m, const ddit_params *p, ddit_err *err) {
    const dd_allocator *a = &m->context->allocator;
    ddit_status status;
    *s = (dd_settings){.seed = p->seed, .keep_steps = p->keep_steps != 0};
    if (p->struct_size != sizeof *p)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "parameters of %zu bytes, expected %zu: call ddit_params_init", p->struct_size,
                       sizeof *p);
    DD_GO(resolve_size(s, m, p, err));
    DD_GO(resolve_prompts(s, m, p, err));
    DD_GO(resolve_guidance(s, m, p, err));
    DD_GO(resolve_text_length(s, m, p, err));
    DD_GO(resolve_policy(s, m, p, err));
    if (p->noise_file) DD_GO(dd_strdup(a, &s->noise_file, p->noise_file, err));
    dd_sampler_params sampler = dd_settings_sampler(s, m);
    DD_GO(dd_sampler_check(&m->config.transformer, a, &sampler, err));
done:
    if (status != DDIT_OK) dd_settings_deinit(s, a);
    return status;
}

void dd_settings_deinit(dd_settings *s, const dd_allocator *a) {
    dd_free(a, s->prompt);
    dd_free(a, s->negative);
    dd_free(a, s->patch);
    dd_free(a, s->noise_file);
    dd_patch_schedule_deinit(&s->schedule);
    *s = (dd_settings){0};
}

static dd_noise_schedule_params noise_params(const dd_scheduler_config *c) {
    return (dd_noise_schedule_params){
        .use_dynamic_shifting = c->use_dynamic_shifting,
        .shift = c->shift,
        .base_shift = c->base_shift,
        .max_shift = c->max_shift,
        .base_image_seq_len = c->base_image_seq_len,
        .max_image_seq_len = c->max_image_seq_len,
        .time_shift_type = c->time_shift == DD_SCHEDULER_SHIFT_LINEAR ? DD_TIME_SHIFT_LINEAR : DD_TIME_SHIFT_EXPONENTIAL};
}

dd_sampler_params dd_settings_sampler(const dd_settings *s, const ddit_model *m) {
    dd_sampler_params p = {.latent_height = s->latent_height,
                           .latent_width = s->latent_width,
                           .steps = s->steps,
                           .noise = noise_params(&m->config.scheduler),
                           .policy = s->policy,
                           .coarse_free = s->coarse_free,
                           .anchor = s->anchor,
                           .guidance = s->guidance,
                           .cfg_scale = s->cfg_scale,
                           .text_tokens = s->max_sequence_length,
                           .trimmed_text = s->coarse_free ? 0 : m->adapter.text_tokens,
                           .keep_steps = s->keep_steps};
    memcpy(p.free_detail, m->config.ddit.free_detail, sizeof p.free_detail);
    return p;
}
