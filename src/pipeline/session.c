#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "format/safetensors_write.h"
#include "pipeline/pipeline.h"
#include "vae/flux_vae.h"

ddit_params ddit_params_init(void) {
    return (ddit_params){
        .struct_size = sizeof(ddit_params), .guidance = NAN, .cfg_scale = NAN, .tau = NAN, .rho = NAN, .anchor = -1};
}

static size_t latent_values(const ddit_session *s) {
    return (size_t)s->model->config.transformer.latent_channels * (size_t)s->settings.latent_height *
           (size_t)s->settings.latent_width;
}

static ddit_status tell_phase(const ddit_session *s, const char *phase, ddit_err *err) {
    ddit_progress progress = {.phase = phase};
    if (s->callbacks.progress && s->callbacks.progress(s->callbacks.user, &progress))
        return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before the phase %s", phase);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- noise */

static const dd_tensor_entry *noise_entry(const dd_safetensors *file) {
    const dd_tensor_entry *entry = dd_safetensors_find(file, "noise");
    if (!entry) entry = dd_safetensors_find(file, "latent");
    return entry || dd_safetensors_count(file) != 1 ? entry : dd_safetensors_at(file, 0);
}

static bool has_latent_shape(const ddit_session *s, const dd_tensor_entry *entry) {
    int64_t want[3] = {s->model->config.transformer.latent_channels, s->settings.latent_height, s->settings.latent_width};
    int skip = entry->rank == 4 && entry->shape[0] == 1 ? 1 : 0;
    if (entry->rank - skip != 3) return false;
    return memcmp(entry->shape + skip, want, sizeof want) == 0;
}

/* A NaN here would become a picture of nothing, many minutes later. */
static ddit_status check_finite(const ddit_session *s, const char *path, const char *name, ddit_err *err) {
    for (size_t i = 0; i < latent_values(s); i++)
        if (!isfinite(s->noise[i]))
            return dd_fail(err, DDIT_ERR_FORMAT, "%s: tensor \"%s\" holds a value that is not a finite number at %zu", path,
                           name, i);
    return DDIT_OK;
}

static ddit_status read_noise(ddit_session *s, ddit_err *err) {
    const char *path = s->settings.noise_file;
    dd_safetensors *file;
    DD_TRY(dd_safetensors_open(&file, &s->model->context->allocator, path, err));
    const dd_tensor_entry *entry = noise_entry(file);
    ddit_status status;
    if (!entry)
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: found neither a tensor \"noise\" nor \"latent\" nor a single tensor", path);
    else if (!has_latent_shape(s, entry)) {
        char shape[96];
        status = dd_fail(err, DDIT_ERR_MISMATCH, "%s: tensor \"%s\" is %s, expected [%d, %d, %d] for %d x %d pixels", path,
                         entry->name, dd_shape_text(shape, sizeof shape, entry->rank, entry->shape),
                         s->model->config.transformer.latent_channels, s->settings.latent_height, s->settings.latent_width,
                         s->settings.width, s->settings.height);
    } else {
        status = dd_tensor_entry_to_f32(entry, s->noise, err);
        if (status == DDIT_OK) status = check_finite(s, path, entry->name, err);
    }
    dd_safetensors_close(file);
    return status;
}

static ddit_status make_noise(ddit_session *s, ddit_err *err) {
    if (s->settings.noise_file) return read_noise(s, err);
    return dd_randn_torch(s->settings.seed, latent_values(s), s->noise, err);
}

/* ---------------------------------------------------------------------------------------------- create, run */

static ddit_status encode_prompts(ddit_session *s, dd_prompt_embedding embeddings[2], int branches, ddit_err *err) {
    const char *prompts[2] = {s->settings.prompt, s->settings.negative};
    double begin = dd_seconds();
    DD_TRY(tell_phase(s, "encode", err));
    DD_TRY(dd_prompts_encode(s->model, prompts, branches, s->settings.max_sequence_length, embeddings, s->notes,
                             sizeof s->notes, err));
    s->seconds.encode = dd_seconds() - begin;
    return DDIT_OK;
}

static ddit_status prepare_sampler(ddit_session *s, const dd_prompt_embedding *embeddings, int branches, ddit_err *err) {
    double begin = dd_seconds();
    dd_sampler_params params = dd_settings_sampler(&s->settings, s->model);
    DD_TRY(dd_sampler_create(&s->sampler, s->model->dit, &params, err));
    for (int i = 0; i < branches; i++)
        DD_TRY(dd_sampler_condition(s->sampler, i, embeddings[i].text, embeddings[i].pooled, err));
    s->seconds.prepare = dd_seconds() - begin;
    return DDIT_OK;
}

ddit_status ddit_session_create(ddit_session **out, ddit_model *model, const ddit_params *params, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    dd_prompt_embedding embeddings[2] = {0};
    ddit_session *s;
    *out = NULL;
    DD_TRY(dd_alloc(a, &s, 1, sizeof *s, "the session", err));
    s->model = model;
    model->children++;
    ddit_status status;
    DD_GO(dd_settings_resolve(&s->settings, model, params, err));
    s->callbacks = (ddit_params){.progress = params->progress, .user = params->user};
    int branches = s->settings.cfg_scale > 1 ? 2 : 1;
    DD_GO(dd_alloc_raw(a, &s->noise, latent_values(s), sizeof(float), "the noise", err));
    DD_GO(make_noise(s, err));
    DD_GO(encode_prompts(s, embeddings, branches, err));
    DD_GO(prepare_sampler(s, embeddings, branches, err));
done:
    for (int i = 0; i < 2; i++) dd_prompt_embedding_deinit(&embeddings[i], a);
    if (status != DDIT_OK) ddit_session_free(s);
    else *out = s;
    return status;
}

void ddit_session_free(ddit_session *s) {
    if (!s) return;
    const dd_allocator *a = &s->model->context->allocator;
    dd_sampler_free(s->sampler);
    dd_settings_deinit(&s->settings, a);
    dd_free(a, s->noise);
    dd_free(a, s->trace);
    s->model->children--;
    dd_free(a, s);
}

ddit_status ddit_session_reseed(ddit_session *s, uint64_t seed, ddit_err *err) {
    s->settings.seed = seed;
    s->ran = false;
    return make_noise(s, err);
}

/* From the record of a step to what the caller's callback sees. */
static int tell_step(void *user, const dd_step_record *record) {
    ddit_session *s = user;
    if (!s->callbacks.progress) return 0;
    int done = record->index + 1, count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    double so_far = 0;
    for (int i = 0; i < count; i++) so_far += records[i].seconds;
    ddit_progress progress = {.step = done,
                              .steps = s->settings.steps,
                              .phase = "denoise",
                              .sigma = record->sigma,
                              .text_tokens = record->text_tokens,
                              .image_tokens = record->image_tokens,
                              .seconds = record->seconds,
                              .seconds_left = so_far / done * (s->settings.steps - done)};
    memcpy(progress.cells, record->cells, sizeof progress.cells);
    return s->callbacks.progress(s->callbacks.user, &progress);
}

ddit_status ddit_session_run(ddit_session *s, ddit_err *err) {
    s->ran = false;
    double begin = dd_seconds();
    DD_TRY(dd_sampler_run(s->sampler, s->noise, tell_step, s, err));
    s->seconds.denoise = dd_seconds() - begin;
    s->ran = true;
    return DDIT_OK;
}

const char *ddit_session_notes(const ddit_session *s) { return s->notes; }

/* ---------------------------------------------------------------------------------------------- decode */

static ddit_status decode_pixels(ddit_session *s, ddit_image *image, ddit_err *err) {
    dd_weight_files *files = NULL;
    dd_flux_vae *vae = NULL;
    dd_tensor latent = dd_sampler_latent(s->sampler);
    ddit_status status;
    DD_GO(dd_model_part_open(s->model, "vae", &files, err));
    DD_GO(dd_flux_vae_open(&vae, s->model->context->backend, files, &s->model->config.vae, err));
    DD_GO(dd_flux_vae_decode(vae, &latent, image->rgb, err));
done:
    dd_flux_vae_close(vae);
    dd_weight_files_close(files);
    return status;
}

ddit_status ddit_session_decode(ddit_session *s, ddit_image **out, ddit_err *err) {
    const dd_allocator *a = &s->model->context->allocator;
    double begin = dd_seconds();
    ddit_image *image = NULL;
    *out = NULL;
    if (!s->ran) return dd_fail(err, DDIT_ERR_ARGUMENT, "there is nothing to decode: the session has not been run to its end");
    DD_TRY(tell_phase(s, "decode", err));
    DD_TRY(dd_alloc(a, &image, 1, sizeof *image, "the image", err));
    image->allocator = *a;
    image->width = s->settings.width;
    image->height = s->settings.height;
    ddit_status status;
    DD_GO(dd_alloc_raw(a, &image->rgb, (size_t)image->width * (size_t)image->height, 3, "the image", err));
    DD_GO(decode_pixels(s, image, err));
    s->seconds.decode = dd_seconds() - begin;
    DD_GO(dd_trace_parameters(s, &image->parameters, err));
    DD_GO(dd_trace_json(s, true, &image->metadata, err));
    *out = image;
    return DDIT_OK;
done:
    ddit_image_free(image);
    return status;
}

ddit_status ddit_session_trace(ddit_session *s, const char **json, ddit_err *err) {
    *json = NULL;
    dd_free(&s->model->context->allocator, s->trace);
    s->trace = NULL;
    DD_TRY(dd_trace_json(s, false, &s->trace, err));
    *json = s->trace;
    return DDIT_OK;
}

ddit_status ddit_generate(ddit_image **out, ddit_model *model, const ddit_params *params, ddit_err *err) {
    ddit_session *session;
    *out = NULL;
    DD_TRY(ddit_session_create(&session, model, params, err));
    ddit_status status = ddit_session_run(session, err);
    if (status == DDIT_OK) status = ddit_session_decode(session, out, err);
    ddit_session_free(session);
    return status;
}

/* ---------------------------------------------------------------------------------------------- latents */

enum { NAME_SIZE = 40 };

/* The items of the file; names [count][NAME_SIZE] hold the steps' names. Returns the number of items. */
static size_t latent_items(ddit_session *s, const float *final, dd_safetensors_item *items, char *names) {
    int steps = 0;
    if (s->settings.keep_steps) dd_sampler_records(s->sampler, &steps);
    dd_safetensors_item item = {
        .dtype = DD_DTYPE_F32,
        .rank = 3,
        .shape = {s->model->config.transformer.latent_channels, s->settings.latent_height, s->settings.latent_width}};
    size_t count = 0;
    item.name = "noise", item.data = s->noise, items[count++] = item;
    item.name = "latent", item.data = final, items[count++] = item;
    for (int k = 0; k < steps; k++) {
        const char *parts[2] = {"latent", "velocity"};
        const float *data[2] = {dd_sampler_kept_latent(s->sampler, k), dd_sampler_kept_velocity(s->sampler, k)};
        for (int i = 0; i < 2; i++, names += NAME_SIZE) {
            snprintf(names, NAME_SIZE, "step.%d.%s", k, parts[i]);
            item.name = names, item.data = data[i], items[count++] = item;
        }
    }
    return count;
}

ddit_status ddit_session_save_latent(ddit_session *s, const char *path, ddit_err *err) {
    const dd_allocator *a = &s->model->context->allocator;
    float *final = NULL;
    dd_safetensors_item *items = NULL;
    char *names = NULL;
    size_t most = 2 + 2 * (size_t)s->settings.steps, values = latent_values(s);
    ddit_status status;
    if (!s->ran) return dd_fail(err, DDIT_ERR_ARGUMENT, "there is no latent: the session has not been run to its end");
    DD_GO(dd_alloc_raw(a, &final, values, sizeof *final, "the latent", err));
    DD_GO(dd_op_download(s->model->context->backend, final, dd_sampler_latent(s->sampler).data, values * sizeof *final, err));
    DD_GO(dd_alloc(a, &items, most, sizeof *items, "the list of latents", err));
    DD_GO(dd_alloc(a, &names, most, NAME_SIZE, "the names of latents", err));
    size_t count = latent_items(s, final, items, names);
    DD_GO(dd_safetensors_write(a, path, items, count, NULL, 0, err));
done:
    dd_free(a, final);
    dd_free(a, items);
    dd_free(a, names);
    return status;
}
