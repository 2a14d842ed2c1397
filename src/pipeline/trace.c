/* What a run leaves behind as text: the trace (docs/trace.md) and the parameters line of pictures. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/pipeline.h"

/* A float32 as the shortest decimal that reads back as the same float, so that 0.3 is not 0.30000001192092896. */
static json_t *float_number(float x) {
    char text[32];
    if (!isfinite(x)) return json_null();
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    return json_real(strtod(text, NULL));
}

/* A number that may have been a float32 in an adapter file. */
static json_t *number_or_null(double x) {
    if ((double)(float)x == x) return float_number((float)x);
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *step_json(const dd_step_record *r, bool compact) {
    json_t *step = json_object();
    json_object_set_new(step, "index", json_integer(r->index));
    json_object_set_new(step, "sigma", float_number(r->sigma));
    json_object_set_new(step, "sigma_next", float_number(r->sigma_next));
    if (!compact)
        json_object_set_new(step, "stat", json_pack("{s:o,s:o}", "2", float_number(r->stat[1]), "4", float_number(r->stat[2])));
    json_object_set_new(step, "cells", json_pack("{s:i,s:i,s:i}", "1", r->cells[0], "2", r->cells[1], "4", r->cells[2]));
    json_object_set_new(step, "layout", r->layout ? json_string(r->layout) : json_null());
    if (r->anchored) json_object_set_new(step, "anchored", json_true());
    if (compact) return step;
    json_object_set_new(step, "tokens", json_pack("{s:i,s:i}", "text", r->text_tokens, "image", r->image_tokens));
    json_object_set_new(step, "cached", json_false());
    json_object_set_new(step, "seconds", json_real(r->seconds));
    return step;
}

static const char *policy_name(dd_patch_kind kind) {
    switch (kind) {
        case DD_PATCH_OFF: return "off";
        case DD_PATCH_AUTO: return "auto";
        case DD_PATCH_REGION: return "region";
        case DD_PATCH_SCHEDULE: return "schedule";
    }
    return "off";
}

static int factor_of(const dd_step_record *r) {
    for (int f = 0; f < DD_FACTOR_COUNT; f++)
        if (r->cells[f] > 0 && r->cells[(f + 1) % 3] == 0 && r->cells[(f + 2) % 3] == 0) return dd_factor_at(f);
    return 0;
}

/* The schedule that came out, in its written form; the caller frees it. */
static ddit_status written_schedule(const ddit_session *s, const dd_step_record *records, int count, char **text,
                                    ddit_err *err) {
    const dd_allocator *a = &s->model->context->allocator;
    dd_patch_schedule schedule;
    DD_TRY(dd_patch_schedule_init(&schedule, a, count, err));
    for (int k = 0; k < count; k++) dd_patch_schedule_record(&schedule, k, factor_of(&records[k]));
    ddit_status status = dd_patch_schedule_format(&schedule, a, text, err);
    dd_patch_schedule_deinit(&schedule);
    return status;
}

static json_t *policy_json(const ddit_session *s) {
    const dd_patch_policy *p = &s->settings.policy;
    bool decides = p->kind == DD_PATCH_AUTO || p->kind == DD_PATCH_REGION;
    return json_pack("{s:s,s:o,s:o,s:o,s:o,s:{s:f,s:f}}", "name", policy_name(p->kind), "tau",
                     decides ? number_or_null(p->tau) : json_null(), "tau_effective",
                     decides ? number_or_null(dd_sampler_tau(s->sampler)) : json_null(), "rho",
                     decides ? number_or_null(p->rho) : json_null(), "order", decides ? json_integer(p->order) : json_null(),
                     "sigma_min", "2", p->sigma_min[1], "4", p->sigma_min[2]);
}

static json_t *phases_json(const dd_phase_seconds *s) {
    return json_pack("{s:f,s:f,s:f,s:f}", "encode", s->encode, "prepare", s->prepare, "denoise", s->denoise, "decode",
                     s->decode);
}

static void set_settings(json_t *root, const ddit_session *s) {
    const dd_settings *v = &s->settings;
    const ddit_model *m = s->model;
    const char *slash = strrchr(m->folder, '/');
    const char *name = m->config.ddit.name[0] ? m->config.ddit.name : slash && slash[1] ? slash + 1 : m->folder;
    json_object_set_new(root, "format", json_string("ddit-trace"));
    json_object_set_new(root, "version", json_integer(1));
    json_object_set_new(root, "model", json_string(name));
    json_object_set_new(root, "adapter", m->adapter_path ? json_string(m->adapter_path) : json_null());
    json_object_set_new(root, "prompt", json_string(v->prompt));
    json_object_set_new(root, "negative_prompt", v->cfg_scale > 1 ? json_string(v->negative) : json_null());
    json_object_set_new(root, "seed", json_integer((json_int_t)v->seed));
    json_object_set_new(root, "noise_file", v->noise_file ? json_string(v->noise_file) : json_null());
    json_object_set_new(root, "width", json_integer(v->width));
    json_object_set_new(root, "height", json_integer(v->height));
    json_object_set_new(root, "guidance", float_number(v->guidance));
    json_object_set_new(root, "cfg_scale", float_number(v->cfg_scale));
    json_object_set_new(root, "max_sequence_length", json_integer(v->max_sequence_length));
    json_object_set_new(root, "precision", json_string(m->context->backend->activation == DD_DTYPE_F32 ? "f32" : "bf16"));
    json_object_set_new(root, "device", json_string(m->context->device));
    json_object_set_new(root, "policy", policy_json(s));
    json_object_set_new(root, "coarse", json_string(v->coarse_free ? "free" : "adapter"));
    json_object_set_new(root, "anchor", json_integer(v->anchor));
}

/* Copies a text of jansson's into memory of the context's allocator. */
static ddit_status dump(const ddit_session *s, const json_t *root, bool compact, char **text, ddit_err *err) {
    char *dumped = json_dumps(root, compact ? JSON_COMPACT : JSON_INDENT(1));
    if (!dumped) return dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory: the trace");
    ddit_status status = dd_strdup(&s->model->context->allocator, text, dumped, err);
    free(dumped);
    return status;
}

ddit_status dd_trace_json(const ddit_session *s, bool compact, char **text, ddit_err *err) {
    const dd_allocator *a = &s->model->context->allocator;
    int count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    char *schedule = NULL;
    *text = NULL;
    if (!s->ran) count = 0;
    if (count > 0) DD_TRY(written_schedule(s, records, count, &schedule, err));
    json_t *root = json_object(), *steps = json_array();
    set_settings(root, s);
    json_object_set_new(root, "schedule", schedule ? json_string(schedule) : json_null());
    if (!compact) json_object_set_new(root, "phases", phases_json(&s->seconds));
    for (int k = 0; k < count; k++) json_array_append_new(steps, step_json(&records[k], compact));
    json_object_set_new(root, "steps", steps);
    ddit_status status = dump(s, root, compact, text, err);
    json_decref(root);
    dd_free(a, schedule);
    return status;
}

ddit_status dd_trace_parameters(const ddit_session *s, char **text, ddit_err *err) {
    const dd_allocator *a = &s->model->context->allocator;
    const dd_settings *v = &s->settings;
    int count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    char *schedule = NULL, *line = NULL;
    *text = NULL;
    DD_TRY(written_schedule(s, records, count, &schedule, err));
    size_t size = strlen(v->prompt) + strlen(v->negative) + strlen(schedule) + 512;
    ddit_status status = dd_alloc(a, &line, size, 1, "the parameters text", err);
    if (status == DDIT_OK) {
        snprintf(line, size,
                 "%s\n%s%s%sSteps: %d, Sampler: Euler, CFG scale: %g, Distilled CFG Scale: %g, Seed: %" PRIu64
                 ", Size: %dx%d, Patch schedule: %s, Version: ddit %s",
                 v->prompt, v->cfg_scale > 1 ? "Negative prompt: " : "", v->cfg_scale > 1 ? v->negative : "",
                 v->cfg_scale > 1 ? "\n" : "", v->steps, (double)v->cfg_scale, (double)v->guidance, v->seed, v->width,
                 v->height, schedule, DDIT_VERSION);
        *text = line;
    }
    dd_free(a, schedule);
    return status;
}
