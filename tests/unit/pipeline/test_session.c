/* Sessions from outside: order of calls, progress, cancelling, what a run leaves behind (trace, picture, latents), replay. */
#include "media/png.h"
#include "unit/pipeline/pipeline_test.h"

/* ---------------------------------------------------------------------------------------------- order of calls */

static void children_keep_their_parents(dd_test *t) {
    opened o;
    ddit_session *s;
    ddit_params p = tiny_params();
    DD_NEED_OK(t, open_tiny(&o, NULL, &t->err));
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    ddit_model_close(o.model); /* has a session: stays */
    ddit_context_free(o.context); /* has a model: stays */
    DD_CHECK(t, o.memory.live > 0 && o.model->children == 1 && o.context->children == 1);
    DD_OK(t, ddit_session_run(s, &t->err));
    ddit_session_free(s);
    DD_CHECK(t, o.model->children == 0 && close_all(&o));
}

static void nothing_before_a_run(dd_test *t) {
    opened o;
    ddit_session *s;
    ddit_params p = tiny_params();
    ddit_image *image = (ddit_image *)t;
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    DD_FAILS(t, ddit_session_decode(s, &image, &t->err), DDIT_ERR_ARGUMENT, "has not been run to its end");
    DD_CHECK(t, image == NULL);
    DD_FAILS(t, ddit_session_save_latent(s, "/tmp/never.safetensors", &t->err), DDIT_ERR_ARGUMENT,
             "has not been run to its end");
    DD_CHECK(t, access("/tmp/never.safetensors", F_OK) != 0);
    json_t *trace = trace_of(s); /* the values a run would have */
    DD_CHECK(t, json_is_null(json_object_get(trace, "schedule")) && json_array_size(json_object_get(trace, "steps")) == 0);
    DD_CHECK(t, json_integer_value(json_object_get(trace, "width")) == 96);
    json_decref(trace);
    ddit_session_free(s);
    DD_CHECK(t, close_all(&o));
}

/* ---------------------------------------------------------------------------------------------- progress */

typedef struct heard {
    char phases[64];
    int calls, stop_at, wrong;
} heard;

static int hear(void *user, const ddit_progress *p) {
    heard *h = user;
    size_t used = strlen(h->phases);
    snprintf(h->phases + used, sizeof h->phases - used, "%c", p->phase[0]);
    if (p->phase[1] == 'e' && p->phase[2] == 'n') { /* denoise */
        static const int cells[7] = {0, 24, 24, 6, 6, 2, 24}; /* 64 x 96: 4 x 6 base cells; factor 4 hangs over the edge */
        h->wrong += p->steps != 6 || p->image_tokens != cells[p->step] || p->text_tokens != 16;
        h->wrong += !(p->sigma > 0 && p->sigma <= 1);
        h->wrong += p->seconds < 0 || p->seconds_left < 0 || (p->step == 6 && p->seconds_left != 0);
        h->wrong += p->cells[0] + p->cells[1] + p->cells[2] != p->image_tokens;
    } else h->wrong += p->step != 0 || p->steps != 0;
    return ++h->calls == h->stop_at;
}

static void progress_and_cancel(dd_test *t) {
    opened o;
    heard h = {0};
    ddit_params p = tiny_params();
    ddit_image *image, *again;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    p.patch = "1x2,2x2,4x1,1x1";
    p.progress = hear;
    p.user = &h;
    DD_NEED_OK(t, ddit_generate(&image, o.model, &p, &t->err));
    DD_CHECK(t, strcmp(h.phases, "edddddd" "d") == 0 && h.wrong == 0); /* encode, six steps, decode */
    for (int stop = 1; stop <= 8; stop++) {
        h = (heard){.stop_at = stop};
        size_t live = o.memory.live;
        DD_FAILS(t, ddit_generate(&again, o.model, &p, &t->err), DDIT_ERR_CANCELLED, "cancelled");
        DD_CHECK(t, again == NULL && h.calls == stop && o.memory.live <= live);
    }
    h = (heard){0};
    DD_OK(t, ddit_generate(&again, o.model, &p, &t->err)); /* as if nothing had happened */
    DD_CHECK(t, ddit_image_psnr(image, again) == INFINITY);
    ddit_image_free(again);
    ddit_image_free(image);
    DD_CHECK(t, close_all(&o));
}

static void a_cancelled_session_can_run_again(dd_test *t) {
    opened o;
    heard h = {.stop_at = 4};
    ddit_params p = tiny_params();
    ddit_session *s, *fresh;
    ddit_image *image;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    p.patch = "1x2,2x2,4x1,1x1";
    DD_NEED_OK(t, ddit_session_create(&fresh, o.model, &p, &t->err));
    DD_OK(t, ddit_session_run(fresh, &t->err));
    p.progress = hear;
    p.user = &h;
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    DD_FAILS(t, ddit_session_run(s, &t->err), DDIT_ERR_CANCELLED, "after step 3 of 6");
    DD_FAILS(t, ddit_session_decode(s, &image, &t->err), DDIT_ERR_ARGUMENT, "run");
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_CHECK(t, same_latent(s, fresh));
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_CHECK(t, same_latent(s, fresh));
    DD_OK(t, ddit_session_reseed(s, 8, &t->err));
    DD_FAILS(t, ddit_session_decode(s, &image, &t->err), DDIT_ERR_ARGUMENT, "run");
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_CHECK(t, !same_latent(s, fresh));
    ddit_session_free(fresh);
    p.seed = 8;
    DD_NEED_OK(t, ddit_session_create(&fresh, o.model, &p, &t->err));
    DD_OK(t, ddit_session_run(fresh, &t->err));
    DD_CHECK(t, same_latent(s, fresh));
    ddit_session_free(fresh);
    ddit_session_free(s);
    DD_CHECK(t, close_all(&o));
}

/* Design 9.14. */
static void off_ones_and_no_adapter_are_the_same_bytes(dd_test *t) {
    static const struct { const char *adapter, *patch; } ways[] = {
        {TINY_ADAPTER, "off"}, {TINY_ADAPTER, "1x6"}, {"none", "off"}, {"none", "1x2,1x4"}, {"none", NULL}};
    float *first = NULL;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        opened o;
        ddit_session *s;
        ddit_params p = tiny_params();
        p.patch = ways[i].patch;
        DD_NEED_OK(t, open_tiny(&o, ways[i].adapter, &t->err));
        DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
        DD_OK(t, ddit_session_run(s, &t->err));
        size_t bytes = latent_count(s) * sizeof(float);
        if (i == 0) memcpy(first = malloc(bytes), dd_sampler_latent(s->sampler).data, bytes);
        DD_CHECK(t, memcmp(first, dd_sampler_latent(s->sampler).data, bytes) == 0);
        ddit_session_free(s);
        DD_CHECK(t, close_all(&o));
    }
    free(first);
}

static void cut_prompts_are_noted(dd_test *t) {
    opened o;
    ddit_session *s;
    ddit_params p = tiny_params();
    char *longest = malloc(32001);
    for (int i = 0; i < 32000; i++) longest[i] = i % 4 ? 'q' : ' ';
    longest[32000] = '\0';
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    DD_CHECK(t, strcmp(ddit_session_notes(s), "") == 0);
    ddit_session_free(s);
    p.prompt = p.negative_prompt = longest;
    p.cfg_scale = 2;
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    const char *notes = ddit_session_notes(s);
    DD_CHECK(t, strstr(notes, "CLIP reads the first 77 of ") && strstr(notes, "T5 reads the first 16 of "));
    DD_CHECK(t, strstr(notes, "negative prompt"));
    ddit_session_free(s);
    free(longest);
    DD_CHECK(t, close_all(&o));
}

/* ---------------------------------------------------------------------------------------------- trace and replay */

/* Every key of `object` is in `keys` and the other way round. */
static void check_keys(dd_test *t, const json_t *object, const char *const *keys, size_t count, const char *what) {
    DD_CHECK(t, json_is_object(object));
    for (size_t i = 0; i < count; i++)
        if (!json_object_get(object, keys[i])) dd_test_fail(t, __FILE__, __LINE__, "%s: key \"%s\" is missing", what, keys[i]);
    if (json_object_size(object) != count)
        dd_test_fail(t, __FILE__, __LINE__, "%s: %zu keys, expected %zu", what, json_object_size(object), count);
}

#define KEYS(t, object, what, ...) \
    check_keys(t, object, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), what)

static void check_trace(dd_test *t, ddit_session *s) {
    int count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    json_t *trace = trace_of(s);
    DD_NEED(t, trace != NULL);
    /* the keys of docs/trace.md */
    KEYS(t, trace, "trace", "format", "version", "model", "adapter", "prompt", "seed", "width", "height", "guidance",
         "cfg_scale", "policy", "coarse", "schedule", "phases", "steps", "negative_prompt", "noise_file", "max_sequence_length",
         "precision", "device", "anchor");
    KEYS(t, json_object_get(trace, "policy"), "policy", "name", "tau", "tau_effective", "rho", "order", "sigma_min");
    DD_CHECK(t, json_real_value(json_object_get(json_object_get(trace, "policy"), "rho")) == 0.4); /* not 0.40000000596 */
    KEYS(t, json_object_get(trace, "phases"), "phases", "encode", "prepare", "denoise", "decode");
    DD_CHECK(t, strcmp(json_string_value(json_object_get(trace, "format")), "ddit-trace") == 0);
    DD_CHECK(t, json_integer_value(json_object_get(trace, "version")) == 1);
    DD_CHECK(t, strcmp(json_string_value(json_object_get(trace, "model")), "flux_head32") == 0);
    DD_CHECK(t, json_integer_value(json_object_get(trace, "seed")) == 7);
    const json_t *steps = json_object_get(trace, "steps");
    DD_CHECK(t, (int)json_array_size(steps) == count && count == 6);
    for (int k = 0; k < count; k++) {
        const json_t *step = json_array_get(steps, (size_t)k);
        const json_t *cells = json_object_get(step, "cells"), *stat = json_object_get(step, "stat");
        KEYS(t, step, "step", "index", "sigma", "sigma_next", "stat", "cells", "layout", "tokens", "cached", "seconds");
        KEYS(t, cells, "cells", "1", "2", "4");
        KEYS(t, stat, "stat", "2", "4");
        KEYS(t, json_object_get(step, "tokens"), "tokens", "text", "image");
        DD_CHECK(t, json_integer_value(json_object_get(step, "index")) == k);
        DD_CHECK(t, (float)json_real_value(json_object_get(step, "sigma")) == records[k].sigma);
        DD_CHECK(t, json_integer_value(json_object_get(cells, "2")) == records[k].cells[1]);
        DD_CHECK(t, json_is_null(json_object_get(stat, "2")) == (isnan(records[k].stat[1]) != 0));
        if (k >= 3) DD_CHECK(t, (float)json_real_value(json_object_get(stat, "4")) == records[k].stat[2]);
        const char *layout = json_string_value(json_object_get(step, "layout"));
        DD_CHECK(t, !layout == !records[k].layout && (!layout || strcmp(layout, records[k].layout) == 0));
    }
    json_decref(trace);
}

/* A threshold for region under which layouts are mixed: the statistic of factor 4 in a run with `off`. */
static double mixing_tau(ddit_model *model, ddit_params p) {
    ddit_session *s;
    int count;
    p.patch = "off";
    if (ddit_session_create(&s, model, &p, NULL) != DDIT_OK || ddit_session_run(s, NULL) != DDIT_OK) return 1;
    double tau = (double)dd_sampler_records(s->sampler, &count)[3].stat[2] * 1.000001; /* the first step that region decides */
    ddit_session_free(s);
    return tau;
}

static bool is_mixed(const ddit_session *s) {
    int count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    for (int k = 0; k < count; k++)
        if (records[k].layout) return true;
    return false;
}

static void check_replay(dd_test *t, ddit_model *model, const ddit_params *p, const ddit_session *want, scratch *dir,
                         const char *name) {
    ddit_params again = *p;
    char at[160];
    ddit_session *s;
    snprintf(at, sizeof at, "@%s", scratch_path(dir, name));
    again.patch = at;
    again.steps = 0;
    again.tau = NAN;
    DD_NEED_OK(t, ddit_session_create(&s, model, &again, &t->err));
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_CHECK(t, same_latent(s, want) && is_mixed(s));
    ddit_session_free(s);
    again.width = 192; /* mixed layouts belong to a size */
    DD_FAILS(t, ddit_session_create(&s, model, &again, &t->err), DDIT_ERR_MISMATCH,
             "does not fit a latent of 8 x 12 base cells");
}

static void region_runs_can_be_replayed(dd_test *t) {
    static const char *const names[] = {"run.json", "run.png"};
    scratch dir = scratch_make();
    opened o;
    ddit_session *s;
    ddit_image *image;
    ddit_params p = tiny_params();
    const char *text;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    p.width = p.height = 128;
    p.sigma_min = "none";
    p.prompt = "červené jablko 🍎\n\"on\" a \\ table"; /* not Latin-1: an iTXt chunk; characters that JSON escapes */
    p.tau = mixing_tau(o.model, p);
    p.patch = "region";
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_CHECK(t, is_mixed(s));
    check_trace(t, s);
    DD_OK(t, ddit_session_trace(s, &text, &t->err));
    scratch_write(&dir, "run.json", text);
    DD_NEED_OK(t, ddit_session_decode(s, &image, &t->err));
    DD_OK(t, ddit_image_save_png(image, scratch_path(&dir, "run.png"), &t->err));
    check_replay(t, o.model, &p, s, &dir, "run.json");
    check_replay(t, o.model, &p, s, &dir, "run.png");
    ddit_image_free(image);
    ddit_session_free(s);
    scratch_remove(&dir, names, 2);
    DD_CHECK(t, close_all(&o));
}

/* Steps that ran at both sizes, in the trace and in the picture's text; others lack the key. */
static void check_anchored(dd_test *t, const json_t *trace, bool with_tokens) {
    static const int image[6] = {24, 24, 6 + 24, 6, 6, 6 + 24};
    const json_t *steps = json_object_get(trace, "steps");
    DD_CHECK(t, json_integer_value(json_object_get(trace, "anchor")) == 2 && json_array_size(steps) == 6);
    for (int k = 0; k < 6; k++) {
        const json_t *step = json_array_get(steps, (size_t)k), *tokens = json_object_get(step, "tokens");
        DD_CHECK(t, k == 2 || k == 5 ? json_is_true(json_object_get(step, "anchored")) : !json_object_get(step, "anchored"));
        DD_CHECK(t, (tokens != NULL) == with_tokens);
        if (with_tokens) DD_CHECK(t, json_integer_value(json_object_get(tokens, "image")) == image[k]);
        if (with_tokens) DD_CHECK(t, json_integer_value(json_object_get(tokens, "text")) == (k == 2 || k == 5 ? 32 : 16));
    }
}

static void anchored_steps_are_traced(dd_test *t) {
    static const char *const names[] = {"run.json"};
    scratch dir = scratch_make();
    char at[160];
    opened o;
    ddit_session *s, *again;
    ddit_image *image;
    ddit_params p = tiny_params();
    const char *text;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    p.patch = "1x2,2x4";
    p.anchor = 2;
    DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
    DD_OK(t, ddit_session_run(s, &t->err));
    DD_OK(t, ddit_session_trace(s, &text, &t->err));
    scratch_write(&dir, names[0], text);
    json_t *trace = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    check_anchored(t, trace, true);
    json_decref(trace);
    DD_NEED_OK(t, ddit_session_decode(s, &image, &t->err));
    json_t *metadata = json_loads(image->metadata, JSON_REJECT_DUPLICATES, NULL);
    check_anchored(t, metadata, false);
    json_decref(metadata);
    ddit_image_free(image);
    snprintf(at, sizeof at, "@%s/%s", dir.folder, names[0]);
    p.patch = at; /* replays layouts and anchor, unless another is asked for */
    p.steps = 0;
    static const int anchors[] = {-1, 2, 0};
    for (int i = 0; i < 3; i++) {
        p.anchor = anchors[i];
        DD_NEED_OK(t, ddit_session_create(&again, o.model, &p, &t->err));
        DD_OK(t, ddit_session_run(again, &t->err));
        DD_CHECK(t, same_latent(again, s) == (anchors[i] != 0));
        ddit_session_free(again);
    }
    ddit_session_free(s);
    scratch_remove(&dir, names, 1);
    DD_CHECK(t, close_all(&o));
}

static void pictures_say_how_they_were_made(dd_test *t) {
    static const char *const names[] = {"a.png"};
    scratch dir = scratch_make();
    opened o;
    ddit_image *image;
    dd_png_info info;
    ddit_params p = tiny_params();
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    p.patch = "1x2,2x3,4x1";
    p.cfg_scale = 2;
    p.negative_prompt = "blurry";
    DD_NEED_OK(t, ddit_generate(&image, o.model, &p, &t->err));
    DD_CHECK(t, ddit_image_width(image) == 96 && ddit_image_height(image) == 64 && ddit_image_pixels(image));
    DD_OK(t, ddit_image_save_png(image, scratch_path(&dir, "a.png"), &t->err));
    DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, dir.path, &t->err));
    DD_CHECK(t, info.width == 96 && info.height == 64 && info.count == 2);
    const char *parameters = dd_png_info_find(&info, "parameters"), *metadata = dd_png_info_find(&info, "ddit");
    DD_CHECK(t, parameters &&
             strstr(parameters, "red apple\nNegative prompt: blurry\nSteps: 6, Sampler: Euler, CFG scale: 2, "));
    DD_CHECK(t, parameters && strstr(parameters, "Seed: 7, Size: 96x64, Patch schedule: 1x2,2x3,4x1"));
    json_t *json = json_loads(metadata ? metadata : "", 0, NULL);
    DD_CHECK(t, json && strcmp(json_string_value(json_object_get(json, "schedule")), "1x2,2x3,4x1") == 0);
    DD_CHECK(t, strcmp(json_string_value(json_object_get(json, "negative_prompt")), "blurry") == 0);
    json_decref(json);
    dd_png_info_deinit(&info);
    ddit_image_strip(image);
    DD_OK(t, ddit_image_save_png(image, dir.path, &t->err));
    DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, dir.path, &t->err));
    DD_CHECK(t, info.count == 0);
    dd_png_info_deinit(&info);
    DD_FAILS(t, ddit_image_save_png(image, "/tmp/no/such/folder/a.png", &t->err), DDIT_ERR_OUTPUT_PATH, "/tmp/no/such/folder");
    ddit_image_free(image);
    scratch_remove(&dir, names, 1);
    DD_CHECK(t, close_all(&o));
}

static void latents_are_saved(dd_test *t) {
    static const char *const names[] = {"latent"};
    scratch dir = scratch_make();
    opened o;
    ddit_session *s;
    dd_safetensors *file;
    ddit_params p = tiny_params();
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    for (int keep = 0; keep < 2; keep++) {
        p.keep_steps = keep;
        DD_NEED_OK(t, ddit_session_create(&s, o.model, &p, &t->err));
        DD_OK(t, ddit_session_run(s, &t->err));
        DD_OK(t, ddit_session_save_latent(s, scratch_path(&dir, "latent"), &t->err));
        DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, dir.path, &t->err));
        const dd_tensor_entry *noise = dd_safetensors_find(file, "noise"), *final = dd_safetensors_find(file, "latent");
        DD_CHECK(t, dd_safetensors_count(file) == (keep ? 14u : 2u) && noise && final && final->rank == 3 &&
                 final->shape[2] == 12);
        DD_CHECK(t, memcmp(final->data, dd_sampler_latent(s->sampler).data, final->bytes) == 0);
        const dd_tensor_entry *first = dd_safetensors_find(file, "step.0.latent");
        const dd_tensor_entry *last = dd_safetensors_find(file, "step.5.velocity");
        DD_CHECK(t, keep ? first && last && memcmp(first->data, noise->data, noise->bytes) == 0 : !first && !last);
        dd_safetensors_close(file);
        DD_FAILS(t, ddit_session_save_latent(s, "/tmp/no/such/folder/x", &t->err), DDIT_ERR_OUTPUT_PATH, NULL);
        ddit_session_free(s);
    }
    p.noise_file = dir.path; /* "noise" of the file, as the seed made it */
    p.seed = 99;
    ddit_image *a, *b;
    DD_NEED_OK(t, ddit_generate(&a, o.model, &p, &t->err));
    p.noise_file = NULL;
    p.seed = 7;
    DD_NEED_OK(t, ddit_generate(&b, o.model, &p, &t->err));
    DD_CHECK(t, ddit_image_psnr(a, b) == INFINITY);
    ddit_image_free(a);
    ddit_image_free(b);
    scratch_remove(&dir, names, 1);
    DD_CHECK(t, close_all(&o));
}

static void pictures_are_joined_and_compared(dd_test *t) {
    opened o;
    ddit_image *a, *b, *both;
    ddit_params p = tiny_params();
    p.steps = 1;
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    DD_NEED_OK(t, ddit_generate(&a, o.model, &p, &t->err));
    p.width = 64;
    DD_NEED_OK(t, ddit_generate(&b, o.model, &p, &t->err));
    DD_NEED_OK(t, ddit_image_join(&both, a, b, &t->err));
    DD_CHECK(t, ddit_image_width(both) == 160 && ddit_image_height(both) == 64 && !both->metadata && !both->parameters);
    for (int y = 0; y < 64; y++) {
        const uint8_t *row = ddit_image_pixels(both) + (size_t)y * 480;
        DD_CHECK(t, memcmp(row, a->rgb + (size_t)y * 288, 288) == 0 && memcmp(row + 288, b->rgb + (size_t)y * 192, 192) == 0);
    }
    DD_CHECK(t, isnan(ddit_image_psnr(a, b)) && ddit_image_psnr(a, a) == INFINITY);
    ddit_image_free(both);
    DD_NEED_OK(t, ddit_image_join(&both, b, b, &t->err)); /* 128 wide */
    uint8_t *value = &b->rgb[1000];
    uint8_t before = *value;
    DD_CHECK(t, b->metadata && both->rgb);
    *value = (uint8_t)(before < 128 ? before + 10 : before - 10);
    ddit_image *changed;
    DD_NEED_OK(t, ddit_image_join(&changed, b, b, &t->err)); /* two values of 128 * 64 * 3 are off by 10 */
    DD_CHECK(t, fabs(ddit_image_psnr(both, changed) - 10 * log10(255.0 * 255.0 * 128 * 64 * 3 / 200.0)) < 1e-9);
    ddit_image_free(changed);
    ddit_image_free(both);
    b->height = 63;
    DD_FAILS(t, ddit_image_join(&both, a, b, &t->err), DDIT_ERR_ARGUMENT, "heights 64 and 63");
    DD_CHECK(t, both == NULL);
    ddit_image_free(a);
    ddit_image_free(b);
    DD_CHECK(t, close_all(&o));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"children_keep_their_parents", children_keep_their_parents},
        {"nothing_before_a_run", nothing_before_a_run},
        {"progress_and_cancel", progress_and_cancel},
        {"a_cancelled_session_can_run_again", a_cancelled_session_can_run_again},
        {"off_ones_and_no_adapter_are_the_same_bytes", off_ones_and_no_adapter_are_the_same_bytes},
        {"cut_prompts_are_noted", cut_prompts_are_noted},
        {"region_runs_can_be_replayed", region_runs_can_be_replayed},
        {"anchored_steps_are_traced", anchored_steps_are_traced},
        {"pictures_say_how_they_were_made", pictures_say_how_they_were_made},
        {"latents_are_saved", latents_are_saved},
        {"pictures_are_joined_and_compared", pictures_are_joined_and_compared},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
