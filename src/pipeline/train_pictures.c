/* Pictures with captions as training data: their latents, made once and kept. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/folder.h"
#include "pipeline/picture_encode.h"
#include "pipeline/train.h"

ddit_status dd_train_pictures_read(dd_train_run *run, ddit_err *err) {
    dd_picture_folder *f = &run->data->folder;
    DD_TRY(dd_picture_folder_read(f, run->a, run->s.data, err));
    if (f->count > DD_PICTURES_MAX)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "data: %s has %d pictures, expected at most %d", run->s.data, f->count,
                       DD_PICTURES_MAX);
    for (int i = 0; i < f->count; i++) {
        const char *caption = f->entries[i].caption;
        char where[DDIT_ERR_TEXT_SIZE / 2];
        snprintf(where, sizeof where, "%s: its caption", f->entries[i].path);
        DD_TRY(dd_train_text_check(caption, strlen(caption), where, err));
        DD_TRY(dd_train_texts_add(&run->texts, run->a, caption, strlen(caption), err));
    }
    return DDIT_OK;
}

uint64_t dd_train_pictures_hash(const dd_train_run *run) {
    const dd_picture_folder *f = &run->data->folder;
    uint64_t hash = dd_train_texts_hash(&run->texts);
    for (int i = 0; i < f->count; i++) hash = dd_hash(hash, f->entries[i].stamp, strlen(f->entries[i].stamp) + 1);
    return hash;
}

/* ---------------------------------------------------------------------------------------------- latents */

/* Encoding on its way. */
typedef struct encoding {
    dd_train_run *run;
    dd_weight_files *files;       /* owned: the autoencoder's */
    dd_flux_vae_encoder *encoder; /* owned */
    double begin;
} encoding;

static ddit_status encode(void *user, int index, bool mirrored, float *latent, ddit_err *err) {
    const encoding *e = user;
    const dd_train_run *run = e->run;
    return dd_picture_encode(e->encoder, run->a, run->data->folder.entries[index].path, run->s.run.width, run->s.run.height,
                             mirrored, latent, err);
}

static int tell_made(void *user, int made, int missing) {
    const encoding *e = user;
    return dd_train_tell_made(e->run, e->begin, made, missing);
}

static int still_missing(void *pictures) { return dd_pictures_missing(pictures); }

static ddit_status make_missing(dd_train_run *run, encoding *e, ddit_err *err) {
    DD_TRY(dd_flux_vae_encoder_open(&e->encoder, run->context->backend, e->files, &run->model->config.vae, err));
    return dd_pictures_make(run->data->pictures, encode, e, tell_made, e, err);
}

static dd_pictures_params pictures_params(dd_train_run *run, const char *folder, const char *key) {
    const dd_train_settings *s = &run->s;
    return (dd_pictures_params){.folder = folder, .key = key, .shape = dd_train_shape(s, run->model), .items = run->data->items,
                                .count = run->data->folder.count, .samples_per_step = s->batch * s->accumulate,
                                .seed = s->seed, .has_target = s->all, .empty = s->all ? run->empty.prompts : NULL,
                                .caption_dropout = s->caption_dropout, .guidance_low = s->guidance_low,
                                .guidance_high = s->guidance_high, .levels = s->levels, .logit_mean = 0, .logit_std = 1,
                                .rank = run->rank, .ranks = run->ranks, .sigma_of = dd_train_sigma_of, .sigma_user = run};
}

/* Opens CACHE/pictures; what of it belongs to this autoencoder and size is said by the key. */
static ddit_status open_pictures(dd_train_run *run, const dd_weight_files *files, int *missing, ddit_err *err) {
    dd_train_data *d = run->data;
    char key[96], *folder;
    DD_TRY(dd_alloc(run->a, &d->items, (size_t)d->folder.count, sizeof *d->items, "the pictures", err));
    for (int i = 0; i < d->folder.count; i++)
        d->items[i] = (dd_pictures_item){d->folder.entries[i].stamp, run->texts.prompts[i]};
    snprintf(key, sizeof key, "autoencoder %016" PRIx64 ", %d x %d", dd_train_fingerprint(files), run->s.run.width,
             run->s.run.height);
    DD_TRY(dd_path_join(run->a, &folder, run->s.cache, "pictures", err));
    dd_pictures_params params = pictures_params(run, folder, key);
    ddit_status status = dd_pictures_open(&d->pictures, run->a, &params, missing, err);
    dd_free(run->a, folder);
    return status;
}

ddit_status dd_train_pictures_make(dd_train_run *run, ddit_err *err) {
    encoding e = {.run = run, .begin = dd_seconds()};
    int missing = 0;
    ddit_status status = dd_model_part_open(run->model, "vae", &e.files, err);
    if (status == DDIT_OK) status = open_pictures(run, e.files, &missing, err);
    if (status == DDIT_OK && missing) status = make_missing(run, &e, err);
    dd_flux_vae_encoder_close(e.encoder);
    dd_weight_files_close(e.files);
    return dd_train_agree_made(run, status, still_missing, run->data->pictures, "pictures", err);
}

void dd_train_pictures_close(dd_train_run *run) {
    dd_pictures_close(run->data->pictures);
    dd_picture_folder_deinit(&run->data->folder);
    dd_free(run->a, run->data->items);
}
