/* Sample pictures of a training: one contact sheet, a row for each of a few prompts, a column for each way to draw: the base at
 * factor 1, all steps coarse, and coarse steps in the middle alone. With the scope "all" the model as it is. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "media/png.h"
#include "pipeline/train.h"
#include "vae/flux_vae.h"

enum { GAP = 4, MOST_COLUMNS = 3, SCHEDULE_SIZE = 48, FIRST_SEED = 1000 };

/* A sheet on its way. */
typedef struct sheet {
    dd_train_run *run;
    const dd_train_texts *texts;
    int rows, columns, width, height; /* width, height: of the sheet */
    uint8_t *rgb;                     /* owned [height, width, 3] */
    uint8_t *picture;                 /* owned: one picture */
    float *noise;                     /* owned [C, h, w] */
    dd_weight_files *files;           /* owned: the autoencoder's */
    dd_flux_vae *vae;                 /* owned */
} sheet;

static size_t picture_bytes(const dd_train_run *run) {
    return 3 * (size_t)run->s.run.width * (size_t)run->s.run.height;
}

static const dd_train_texts *sample_texts(const dd_train_run *run) {
    return run->eval_texts.count ? &run->eval_texts : &run->texts;
}

static int coarse_factor(const dd_train_run *run) { return run->s.options.factor[1] ? 2 : 4; }

/* The schedule of a column. */
static void schedule_text(const dd_train_run *run, int column, char text[SCHEDULE_SIZE]) {
    int steps = run->s.run.steps, factor = coarse_factor(run), outer = steps / 5;
    if (column == 0) snprintf(text, SCHEDULE_SIZE, "1x%d", steps);
    else if (column == 1 || outer == 0) snprintf(text, SCHEDULE_SIZE, "%dx%d", factor, steps);
    else snprintf(text, SCHEDULE_SIZE, "1x%d,%dx%d,1x%d", outer, factor, steps - 2 * outer, outer);
}

static dd_sampler_params sampler_params(const dd_train_run *run, const dd_patch_schedule *schedule) {
    dd_sampler_params p = dd_settings_sampler(&run->s.run, run->model);
    p.coarse_free = false;
    p.anchor = 0;
    p.trimmed_text = 0;
    p.policy.kind = DD_PATCH_SCHEDULE;
    p.policy.schedule = schedule;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) p.policy.allowed[f] = f == 0 || run->s.options.factor[f];
    return p;
}

uint64_t dd_train_samples_bytes(const dd_train_run *run) {
    dd_dtype act = run->context->backend->activation;
    dd_sampler_params p = sampler_params(run, NULL);
    p.policy.kind = DD_PATCH_OFF;
    dd_sampler_bytes s = dd_sampler_measure(&run->model->config.transformer, act, &p);
    dd_part_bytes vae = dd_flux_vae_bytes(&run->model->config.vae, run->s.run.latent_height, run->s.run.latent_width, act);
    uint64_t pictures = (uint64_t)(2 * DD_TRAIN_SAMPLE_PROMPTS * MOST_COLUMNS) * picture_bytes(run);
    return s.run.activations + s.run.tables + s.latents + vae.weights + vae.activations + pictures;
}

static void place(sheet *s, int row, int column, const uint8_t *picture) {
    size_t width = 3 * (size_t)s->run->s.run.width, height = (size_t)s->run->s.run.height;
    size_t left = (size_t)column * (width + 3 * GAP), top = (size_t)row * (height + GAP);
    for (size_t y = 0; y < height; y++)
        memcpy(s->rgb + (top + y) * 3 * (size_t)s->width + left, picture + y * width, width);
}

static ddit_status draw(sheet *s, int row, const dd_patch_schedule *schedule, ddit_err *err) {
    const dd_train_run *run = s->run;
    const dd_train_prompt *prompt = &s->texts->prompts[row];
    dd_sampler_params params = sampler_params(run, schedule);
    params.guidance = 0.5f * (run->s.guidance_low + run->s.guidance_high);
    dd_sampler *sampler = NULL;
    ddit_status status;
    DD_GO(dd_randn_torch((uint64_t)(FIRST_SEED + row), dd_latent_values(dd_train_shape(&run->s, run->model)), s->noise, err));
    DD_GO(dd_sampler_create(&sampler, run->model->dit, &params, err));
    DD_GO(dd_sampler_condition(sampler, 0, prompt->text, prompt->pooled, err));
    DD_GO(dd_sampler_run(sampler, s->noise, NULL, NULL, err));
    dd_tensor latent = dd_sampler_latent(sampler);
    DD_GO(dd_flux_vae_decode(s->vae, &latent, s->picture, err));
done:
    dd_sampler_free(sampler);
    return status;
}

/* The base's pictures do not change while an adapter is trained: they are drawn once. */
static ddit_status draw_column(sheet *s, int column, ddit_err *err) {
    dd_train_run *run = s->run;
    bool keep = column == 0 && !run->s.all, kept = keep && run->base_pictures;
    char text[SCHEDULE_SIZE];
    dd_patch_schedule schedule = {0};
    schedule_text(run, column, text);
    DD_TRY(dd_patch_schedule_parse(&schedule, run->a, text, err));
    ddit_status status = DDIT_OK;
    if (keep && !kept)
        DD_GO(dd_alloc_raw(run->a, &run->base_pictures, (size_t)s->rows, picture_bytes(run), "sample pictures", err));
    for (int row = 0; row < s->rows && !run->stop; row++) {
        uint8_t *base = keep ? run->base_pictures + (size_t)row * picture_bytes(run) : NULL;
        if (!kept) DD_GO(draw(s, row, &schedule, err));
        if (keep && !kept) memcpy(base, s->picture, picture_bytes(run));
        place(s, row, column, kept ? base : s->picture);
        ddit_train_progress p = dd_train_progress("sample");
        p.step = run->optimizer.step;
        p.steps = run->s.steps;
        dd_train_tell(run, &p);
    }
    if (keep && run->stop) { /* not all were drawn */
        dd_free(run->a, run->base_pictures);
        run->base_pictures = NULL;
    }
done:
    dd_patch_schedule_deinit(&schedule);
    return status;
}

static ddit_status open_sheet(sheet *s, ddit_err *err) {
    dd_train_run *run = s->run;
    const dd_allocator *a = run->a;
    s->texts = sample_texts(run);
    s->rows = s->texts->count < DD_TRAIN_SAMPLE_PROMPTS ? s->texts->count : DD_TRAIN_SAMPLE_PROMPTS;
    s->columns = run->s.all ? 1 : run->s.run.steps >= 5 ? 3 : 2;
    s->width = s->columns * run->s.run.width + (s->columns - 1) * GAP;
    s->height = s->rows * run->s.run.height + (s->rows - 1) * GAP;
    DD_TRY(dd_alloc(a, &s->rgb, (size_t)s->width * (size_t)s->height, 3, "the sample pictures", err));
    memset(s->rgb, 255, (size_t)s->width * (size_t)s->height * 3);
    DD_TRY(dd_alloc_raw(a, &s->picture, picture_bytes(run), 1, "a sample picture", err));
    DD_TRY(dd_alloc_raw(a, &s->noise, dd_latent_values(dd_train_shape(&run->s, run->model)), sizeof(float), "noise", err));
    DD_TRY(dd_model_part_open(run->model, "vae", &s->files, err));
    return dd_flux_vae_open(&s->vae, run->context->backend, s->files, &run->model->config.vae, err);
}

static ddit_status sheet_path(const dd_train_run *run, char **path, ddit_err *err) {
    char name[48];
    snprintf(name, sizeof name, "samples-%08" PRId64 ".png", run->optimizer.step);
    return dd_train_path(run, path, name, err);
}

bool dd_train_samples_drawn(const dd_train_run *run) {
    char *path;
    if (sheet_path(run, &path, NULL) != DDIT_OK) return false;
    bool drawn = access(path, F_OK) == 0;
    dd_free(run->a, path);
    return drawn;
}

static ddit_status write_sheet(sheet *s, ddit_err *err) {
    dd_train_run *run = s->run;
    char *path;
    DD_TRY(sheet_path(run, &path, err));
    ddit_status status = dd_png_write(run->a, path, s->width, s->height, s->rgb, NULL, 0, err);
    ddit_train_progress p = dd_train_progress("sample");
    p.step = run->optimizer.step;
    p.steps = run->s.steps;
    p.text = path;
    if (status == DDIT_OK) {
        json_array_append_new(run->files, json_string(path));
        dd_train_tell(run, &p);
    }
    dd_free(run->a, path);
    return status;
}

ddit_status dd_train_draw_samples(dd_train_run *run, const float *values, ddit_err *err) {
    sheet s = {.run = run};
    ddit_status status;
    DD_TRY(dd_flux_trainee_update(run->student.trainee, values, err));
    DD_GO(open_sheet(&s, err));
    for (int column = 0; column < s.columns && !run->stop; column++) DD_GO(draw_column(&s, column, err));
    if (!run->stop) DD_GO(write_sheet(&s, err));
done:
    dd_flux_vae_close(s.vae);
    dd_weight_files_close(s.files);
    dd_free(run->a, s.rgb);
    dd_free(run->a, s.picture);
    dd_free(run->a, s.noise);
    return status;
}
