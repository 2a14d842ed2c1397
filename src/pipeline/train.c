/* Training: the order of things. */
#include "pipeline/train.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/folder.h"
#include "base/out_file.h"

enum {
    TRIAL_STEPS = 10,      /* at most, to measure how long a step takes */
    TRIAL_TOTAL = 1000,    /* so many steps they are told to be of */
    SETTINGS_MAX = 1 << 16
};
#define TRIAL_SHARE 0.05 /* of the time given, at most (but one step) */

/* ---------------------------------------------------------------------------------------------- small things */

ddit_train_progress dd_train_progress(const char *phase) {
    return (ddit_train_progress){.phase = phase, .loss = {NAN, NAN, NAN, NAN}, .seconds_left = NAN};
}

void dd_train_tell(dd_train_run *run, const ddit_train_progress *progress) {
    const ddit_train_params *p = run->params;
    if (run->rank == 0 && p->progress && p->progress(p->user, progress)) run->stop = true;
}

ddit_status dd_train_share_stop(dd_train_run *run, ddit_err *err) {
    return dd_comm_broadcast(run->comm, &run->stop, sizeof run->stop, err);
}

int dd_train_tell_made(dd_train_run *run, double begin, int made, int missing) {
    ddit_train_progress p = dd_train_progress("data");
    p.step = made;
    p.steps = missing;
    p.seconds_left = (dd_seconds() - begin) / made * (missing - made);
    dd_train_tell(run, &p);
    return run->stop;
}

ddit_status dd_train_agree_made(dd_train_run *run, ddit_status status, int (*missing)(void *of), void *of, const char *what,
                                ddit_err *err) {
    DD_TRY(dd_comm_agree(run->comm, status, err));
    int unseen = missing(of);
    if (unseen)
        status = dd_fail(err, DDIT_ERR_NOT_FOUND, "%s: %d %s that other ranks made cannot be seen: give a cache that all ranks "
                         "share", run->s.cache, unseen, what);
    return dd_comm_agree(run->comm, status, err);
}

ddit_status dd_train_path(const dd_train_run *run, char **path, const char *name, ddit_err *err) {
    return dd_path_join(run->a, path, run->s.folder, name, err);
}

/* ---------------------------------------------------------------------------------------------- model */

/* The model without its transformer, which is opened for training later. */
static ddit_status open_model(dd_train_run *run, const char *folder, ddit_err *err) {
    if (!folder) return dd_fail(err, DDIT_ERR_ARGUMENT, "no model folder was given");
    DD_TRY(dd_alloc(run->a, &run->model, 1, sizeof *run->model, "the model", err));
    run->model->context = run->context;
    run->context->children++;
    DD_TRY(dd_strdup(run->a, &run->model->folder, folder, err));
    DD_TRY(dd_model_folder_read(&run->model->config, run->a, folder, err));
    DD_TRY(dd_model_part_open(run->model, "transformer", &run->model->files, err));
    run->fingerprint = dd_train_fingerprint(run->model->files);
    return DDIT_OK;
}

/* The adapter in the model's folder, for its policy alone. One that cannot be read is none. */
static ddit_status open_policy(dd_train_run *run, ddit_err *err) {
    char *path;
    DD_TRY(dd_path_join(run->a, &path, run->model->folder, DD_ADAPTER_NAME, err));
    if (dd_safetensors_open(&run->policy, run->a, path, NULL) != DDIT_OK) run->policy = NULL;
    dd_free(run->a, path);
    return DDIT_OK;
}

/* Of names and values. */
static uint64_t hash_of(const dd_safetensors *file) {
    uint64_t hash = DD_HASH_BEGIN;
    for (size_t i = 0; i < dd_safetensors_count(file); i++) {
        const dd_tensor_entry *e = dd_safetensors_at(file, i);
        hash = dd_hash(hash, e->name, strlen(e->name) + 1);
        hash = dd_hash(hash, e->data, e->bytes);
    }
    return hash;
}

/* The adapter to start from must be one, fit the model, and hold what is to be trained. */
static ddit_status open_init(dd_train_run *run, ddit_err *err) {
    const char *path = run->s.init;
    dd_adapter adapter;
    if (!path) return DDIT_OK;
    DD_TRY(dd_adapter_open(&adapter, run->a, path, err));
    ddit_status status = dd_adapter_check(&adapter, &run->model->config.transformer, err);
    if (status == DDIT_OK && (adapter.residual_linear != run->s.options.residual_linear ||
                              adapter.residual_hf != run->s.options.residual_hf || adapter.rank != run->s.options.rank))
        status = dd_fail(err, DDIT_ERR_MISMATCH, "%s: has rank %d and %s linear and %s high-frequency residual, expected those "
                         "of this training: give the same rank and residual", path, adapter.rank,
                         adapter.residual_linear ? "a" : "no", adapter.residual_hf ? "a" : "no");
    if (status == DDIT_OK && adapter.rank > 0) run->s.options.alpha = adapter.alpha;
    if (status != DDIT_OK) {
        dd_adapter_close(&adapter);
        return status;
    }
    run->init = adapter.file; /* owned from here on */
    run->init_hash = hash_of(run->init);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- the run's folder */

static ddit_status check_output(const dd_train_run *run, ddit_err *err) {
    struct stat info;
    if (!run->s.all || stat(run->s.output, &info) != 0) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: exists already; a new model is written to a folder of its own",
                   run->s.output);
}

/* Checkpoints of an earlier run are neither overwritten nor silently gone on with. */
static ddit_status check_folder(dd_train_run *run, ddit_err *err) {
    char *path;
    DD_TRY(check_output(run, err));
    DD_TRY(dd_checkpoint_newest(run->a, run->s.folder, &path, err));
    bool there = path != NULL;
    dd_free(run->a, path);
    if (there && !run->s.resume)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%s holds checkpoints of an earlier training: resume to go on with it, remove "
                       "the folder to begin anew, or name another output", run->s.folder);
    return DDIT_OK;
}

/* Two trainings in one folder would write into each other's logs and checkpoints. What check_folder found may be old by now. */
static ddit_status lock_folder(dd_train_run *run, ddit_err *err) {
    char *path;
    bool taken;
    DD_TRY(dd_train_path(run, &path, "lock", err));
    ddit_status status = dd_lock_file_take(&run->lock, path, &taken, err);
    dd_free(run->a, path);
    if (status != DDIT_OK) return status;
    if (taken)
        return dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: another training is at work in this folder: wait until it ends, or name "
                       "another output", run->s.folder);
    return check_folder(run, err);
}

static ddit_status make_folders(dd_train_run *run, ddit_err *err) {
    bool needs_cache = run->s.eval && !run->heldout;
    if (run->rank > 0) return DDIT_OK;
    if (!run->s.measure_only || (needs_cache && strcmp(run->s.cache, run->s.folder) == 0))
        DD_TRY(dd_train_make_folder(run->s.folder, err));
    if (!run->s.measure_only) DD_TRY(lock_folder(run, err));
    return strcmp(run->s.cache, run->s.folder) ? dd_train_make_folder(run->s.cache, err) : DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- steps */

/* The number of steps that an earlier part of this run found; 0 if it did not come so far. */
static int64_t steps_found(const dd_train_run *run) {
    char *path, *text = NULL;
    size_t size;
    int64_t steps = 0;
    if (!run->s.resume || dd_train_path(run, &path, "settings.txt", NULL) != DDIT_OK) return 0;
    if (dd_read_file(run->a, path, SETTINGS_MAX, &text, &size, NULL) == DDIT_OK) {
        const char *line = strstr(text, "\nsteps=");
        if (line) steps = strtoll(line + 7, NULL, 10);
        dd_free(run->a, text);
    }
    dd_free(run->a, path);
    return steps;
}

static ddit_status write_settings(const dd_train_run *run, ddit_err *err) {
    char *path;
    dd_out_file out;
    DD_TRY(dd_train_path(run, &path, "settings.txt", err));
    ddit_status status = dd_out_file_open(&out, run->a, path, err);
    dd_free(run->a, path);
    if (status != DDIT_OK) return status;
    fputs(run->settings, out.stream);
    return dd_out_file_commit(&out, err);
}

/* A part for LoRA and one for what stands between it, as often as they alternate. */
static int find_parts(const dd_train_run *run, const dd_param_list *list, dd_optimizer_part *parts) {
    int count = 0;
    for (int i = 0; i < list->count; i++) {
        double rate = strstr(list->items[i].name, ".lora.") ? 1 : run->s.patch_lr;
        int64_t end = i + 1 < list->count ? list->items[i + 1].offset : list->total;
        if (count == 0 || parts[count - 1].rate != rate) parts[count++] = (dd_optimizer_part){.rate = rate};
        parts[count - 1].end = end;
    }
    return count;
}

static ddit_status start_optimizer(dd_train_run *run, ddit_err *err) {
    const dd_param_list *list = dd_flux_trainee_params(run->student.trainee);
    dd_optimizer_params params = run->s.optimizer;
    dd_optimizer_part *parts = NULL;
    dd_optimizer_deinit(&run->optimizer);
    if (run->s.patch_lr != 1) {
        DD_TRY(dd_alloc(run->a, &parts, (size_t)list->count, sizeof *parts, "the optimizer", err));
        params.parts = parts;
        params.part_count = find_parts(run, list, parts);
    }
    ddit_status status = dd_optimizer_init(&run->optimizer, run->a, &params, run->start, list->total, err);
    dd_free(run->a, parts);
    return status;
}

static void tell_trial(dd_train_run *run, int64_t tried) {
    ddit_train_progress p = dd_train_progress("trial");
    p.step = tried;
    p.steps = TRIAL_STEPS;
    dd_train_tell(run, &p);
}

/* Tries a few steps, whose effect is thrown away, and works out how many the time given holds. All ranks call it, and all end
 * alike. */
static ddit_status find_steps(dd_train_run *run, ddit_err *err) {
    double begin = dd_seconds(), time = run->s.minutes * 60, elapsed = 0;
    int64_t steps = steps_found(run), tried = 0;
    DD_TRY(dd_comm_broadcast(run->comm, &steps, sizeof steps, err));
    if (steps > 0) {
        dd_train_settings_fix_steps(&run->s, steps);
        return DDIT_OK;
    }
    bool more = true;
    while (more) {
        dd_trainer_report report;
        DD_TRY(dd_trainer_step(run->trainer, &report, err));
        elapsed = dd_seconds() - begin;
        tell_trial(run, tried + 1);
        DD_TRY(dd_train_share_stop(run, err));
        if (run->stop) return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before the first step");
        more = ++tried < TRIAL_STEPS && elapsed < TRIAL_SHARE * time;
        DD_TRY(dd_comm_broadcast(run->comm, &more, sizeof more, err));
    }
    double fit = (time - elapsed) / (elapsed / (double)tried);
    steps = fit > 1 ? (int64_t)fit : 1;
    DD_TRY(dd_comm_broadcast(run->comm, &steps, sizeof steps, err));
    dd_train_settings_fix_steps(&run->s, steps);
    return DDIT_OK;
}

/* What an adapter has and this training has not would be lost without a word. */
static ddit_status check_init_tensors(const dd_train_run *run, const dd_param_list *list, ddit_err *err) {
    for (size_t i = 0; i < dd_safetensors_count(run->init); i++) {
        const char *name = dd_safetensors_at(run->init, i)->name;
        if (!dd_param_list_find(list, name))
            return dd_fail(err, DDIT_ERR_MISMATCH, "%s: tensor \"%s\" is not trained here: give the factors and lora that the "
                           "adapter was made with", run->s.init, name);
    }
    return DDIT_OK;
}

static void free_start(dd_train_run *run) {
    dd_free(run->a, run->start);
    run->start = NULL;
}

static ddit_status start_values(dd_train_run *run, ddit_err *err) {
    const dd_param_list *list = dd_flux_trainee_params(run->student.trainee);
    if (run->init) DD_TRY(check_init_tensors(run, list, err));
    DD_TRY(dd_alloc(run->a, &run->start, (size_t)list->total, sizeof(float), "the start values", err));
    if (!run->init) return dd_flux_trainee_start(run->student.trainee, run->s.seed, run->start, err);
    return dd_param_list_read(list, run->init, run->start, err);
}

static ddit_status load_checkpoint(dd_train_run *run, ddit_err *err) {
    char *path;
    DD_TRY(dd_checkpoint_newest(run->a, run->s.folder, &path, err));
    ddit_status status = DDIT_OK;
    if (path) status = dd_checkpoint_load(run->a, path, &run->optimizer, &run->seconds, run->settings, err);
    dd_free(run->a, path);
    return status;
}

/* The state that rank 0 went on from, to all: the others need not see the run's folder. */
static ddit_status share_state(dd_train_run *run, ddit_err *err) {
    dd_optimizer *o = &run->optimizer;
    dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS];
    int count = dd_optimizer_vectors(o, vectors);
    double scalars[] = {run->seconds, o->d, o->d_max, o->d_numerator};
    DD_TRY(dd_comm_broadcast(run->comm, &o->step, sizeof o->step, err));
    DD_TRY(dd_comm_broadcast(run->comm, scalars, sizeof scalars, err));
    for (int i = 0; i < count; i++)
        DD_TRY(dd_comm_broadcast(run->comm, vectors[i].values, (size_t)o->count * sizeof(float), err));
    run->seconds = scalars[0];
    o->d = scalars[1];
    o->d_max = scalars[2];
    o->d_numerator = scalars[3];
    return DDIT_OK;
}

static ddit_status resume(dd_train_run *run, ddit_err *err) {
    if (!run->s.resume) return DDIT_OK;
    DD_TRY(dd_comm_agree(run->comm, run->rank == 0 ? load_checkpoint(run, err) : DDIT_OK, err));
    return share_state(run, err);
}

static ddit_status open_logs(dd_train_run *run, ddit_err *err) {
    if (run->rank > 0) return DDIT_OK;
    DD_TRY(write_settings(run, err));
    run->logging = true;
    return dd_loss_log_open(&run->log, run->a, run->s.folder, run->optimizer.step, err);
}

/* Values, optimizer, trainer. The number of steps may still be unknown; then a few are tried with what is made here. */
static ddit_status open_training(dd_train_run *run, ddit_err *err) {
    bool fixed = run->s.steps > 0;
    if (!fixed) dd_train_settings_fix_steps(&run->s, TRIAL_TOTAL);
    DD_TRY(start_values(run, err));
    DD_TRY(start_optimizer(run, err));
    if (fixed) free_start(run);
    return dd_train_trainer_open(run, err);
}

static ddit_status restart_optimizer(dd_train_run *run, ddit_err *err) {
    DD_TRY(start_optimizer(run, err));
    free_start(run);
    return DDIT_OK;
}

/* Where the training begins: values, optimizer, log; or where an earlier part of it ended. All ranks call it, and all end
 * alike. */
static ddit_status begin(dd_train_run *run, ddit_err *err) {
    bool fixed = run->s.steps > 0;
    DD_TRY(dd_comm_agree(run->comm, open_training(run, err), err));
    if (!fixed) {
        DD_TRY(find_steps(run, err));
        DD_TRY(dd_comm_agree(run->comm, restart_optimizer(run, err), err));
    }
    if (run->s.measure_only) return DDIT_OK;
    dd_train_settings_text(run);
    DD_TRY(resume(run, err));
    return dd_comm_agree(run->comm, open_logs(run, err), err);
}

static ddit_status finish(dd_train_run *run, ddit_err *err) {
    const float *values = dd_optimizer_average(&run->optimizer);
    if (run->rank > 0) return DDIT_OK;
    DD_TRY(run->s.all ? dd_train_write_model(run, values, err) : dd_train_write_adapter(run, run->s.output, values, err));
    json_array_insert_new(run->files, 0, json_string(run->s.output));
    return DDIT_OK;
}

static ddit_status train(dd_train_run *run, ddit_err *err) {
    DD_TRY(begin(run, err));
    if (run->s.measure_only)
        return dd_train_evaluate(run, dd_optimizer_average(&run->optimizer), true, run->eval_last, err);
    DD_TRY(dd_train_loop(run, err));
    return dd_comm_agree(run->comm, finish(run, err), err);
}

/* ---------------------------------------------------------------------------------------------- the call */

/* Everything that can be refused before anything is done. */
static ddit_status prepare(dd_train_run *run, const char *folder, ddit_err *err) {
    DD_TRY(open_model(run, folder, err));
    DD_TRY(dd_train_settings_resolve(&run->s, run->model, run->params, err));
    if (run->s.batch % run->ranks)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "batch is %d, expected a multiple of the %d ranks that share it", run->s.batch,
                       run->ranks);
    run->local = run->s.batch / run->ranks;
    if (!run->s.measure_only) DD_TRY(check_folder(run, err));
    DD_TRY(open_policy(run, err));
    DD_TRY(open_init(run, err));
    DD_TRY(dd_train_data_read(run, err));
    dd_train_choose_lanes(run);
    DD_TRY(make_folders(run, err));
    return dd_train_announce(run, err);
}

static ddit_status do_all(dd_train_run *run, const char *folder, ddit_err *err) {
    DD_TRY(dd_comm_agree(run->comm, prepare(run, folder, err), err));
    DD_TRY(dd_comm_agree(run->comm, dd_train_data_encode(run, err), err));
    if (run->s.data && !run->s.measure_only) DD_TRY(dd_train_pictures_make(run, err));
    DD_TRY(dd_comm_agree(run->comm, dd_train_engines_open(run, err), err));
    DD_TRY(dd_train_data_make(run, err));
    return train(run, err);
}

static void close_all(dd_train_run *run) {
    dd_trainer_free(run->trainer);
    dd_optimizer_deinit(&run->optimizer);
    if (run->logging) dd_loss_log_close(&run->log);
    dd_lock_file_drop(&run->lock);
    dd_train_data_close(run);
    dd_train_engines_close(run);
    dd_safetensors_close(run->init);
    dd_safetensors_close(run->policy);
    dd_free(run->a, run->start);
    dd_free(run->a, run->base_pictures);
    json_decref(run->files);
    dd_train_settings_deinit(&run->s, run->a);
    ddit_model_close(run->model); /* its transformer was the engines' and is gone */
    dd_comm_close(run->comm);
}

ddit_status ddit_train(char **json, ddit_context *context, const char *model, const ddit_train_params *params, ddit_err *err) {
    dd_train_run run = {.context = context, .a = &context->allocator, .params = params};
    if (json) *json = NULL;
    if (params->struct_size != sizeof *params)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "parameters of %zu bytes, expected %zu: call ddit_train_params_init",
                       params->struct_size, sizeof *params);
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) run.eval_first[k] = run.eval_last[k] = NAN;
    ddit_status status;
    DD_GO(dd_comm_open(&run.comm, run.a, err));
    run.rank = dd_comm_rank(run.comm);
    run.ranks = dd_comm_size(run.comm);
    run.files = json_array();
    if (!run.files) DD_GO(dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory"));
    DD_GO(do_all(&run, model, err));
    if (json) DD_GO(dd_train_report(&run, json, err));
done:
    close_all(&run);
    return status;
}
