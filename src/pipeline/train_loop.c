/* The steps of a training, and what happens between them: logs, checkpoints, held-out losses, sample pictures. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "pipeline/train.h"
#include "pipeline/train_plot.h"

enum { KEPT_CHECKPOINTS = 3 };

/* ---------------------------------------------------------------------------------------------- saving */

static ddit_status tell_saved(dd_train_run *run, ddit_err *err) {
    char name[64], *path;
    snprintf(name, sizeof name, "checkpoint-%08" PRId64 ".safetensors", run->optimizer.step);
    DD_TRY(dd_train_path(run, &path, name, err));
    ddit_train_progress p = dd_train_progress("save");
    p.step = run->optimizer.step;
    p.steps = run->s.steps;
    p.seconds = run->seconds;
    p.text = path;
    dd_train_tell(run, &p);
    dd_free(run->a, path);
    return DDIT_OK;
}

static ddit_status write_plot(dd_train_run *run, ddit_err *err) {
    char *path;
    DD_TRY(dd_train_path(run, &path, "loss.png", err));
    ddit_status status = dd_train_plot_write(&run->log, path, run->s.all, run->a, err);
    dd_free(run->a, path);
    return status;
}

/* The adapter as it is now, to be tried while training goes on. */
static ddit_status write_latest(dd_train_run *run, ddit_err *err) {
    char *path;
    if (run->s.all) return DDIT_OK;
    DD_TRY(dd_train_path(run, &path, "adapter.safetensors", err));
    ddit_status status = dd_train_write_adapter(run, path, dd_optimizer_average(&run->optimizer), err);
    dd_free(run->a, path);
    return status;
}

static ddit_status save_here(dd_train_run *run, ddit_err *err) {
    DD_TRY(dd_loss_log_flush(&run->log, err));
    DD_TRY(dd_checkpoint_save(run->a, run->s.folder, &run->optimizer, run->seconds, run->settings, KEPT_CHECKPOINTS, err));
    DD_TRY(tell_saved(run, err));
    DD_TRY(write_latest(run, err));
    return write_plot(run, err);
}

static ddit_status save(dd_train_run *run, ddit_err *err) {
    return dd_comm_agree(run->comm, run->rank == 0 ? save_here(run, err) : DDIT_OK, err);
}

static ddit_status draw_samples(dd_train_run *run, ddit_err *err) {
    const float *values = dd_optimizer_average(&run->optimizer);
    return dd_comm_agree(run->comm, run->rank == 0 ? dd_train_draw_samples(run, values, err) : DDIT_OK, err);
}

/* ---------------------------------------------------------------------------------------------- a step */

static ddit_status diverged(const dd_train_run *run, ddit_err *err) {
    char *path = NULL, reason[160];
    snprintf(reason, sizeof reason, "%.150s", err ? err->text : "");
    if (dd_checkpoint_newest(run->a, run->s.folder, &path, NULL) != DDIT_OK) path = NULL;
    ddit_status status =
        dd_fail(err, DDIT_ERR_DIVERGED, "training diverged at step %" PRId64 " (%s); %s%s; try a smaller lr or clip",
                run->optimizer.step + 1, reason, path ? "the last good checkpoint is " : "there is no checkpoint yet",
                path ? path : "");
    dd_free(run->a, path);
    return status;
}

static ddit_status log_step(dd_train_run *run, const dd_trainer_report *r, ddit_err *err) {
    dd_loss_row row = {.step = run->optimizer.step,
                       .seconds = run->seconds,
                       .loss_x2 = r->loss[run->s.all ? DD_LAYOUT_X1 : DD_LAYOUT_X2],
                       .loss_x4 = r->loss[DD_LAYOUT_X4],
                       .lr = r->optimizer.lr};
    return run->rank == 0 ? dd_loss_log_add(&run->log, &row, err) : DDIT_OK;
}

static void tell_step(dd_train_run *run, const dd_trainer_report *r) {
    ddit_train_progress p = dd_train_progress("train");
    p.step = run->optimizer.step;
    p.steps = run->s.steps;
    memcpy(p.loss, r->loss, sizeof p.loss);
    p.lr = r->optimizer.lr;
    p.gradient_norm = r->optimizer.gradient_norm;
    p.seconds = run->seconds;
    p.samples_per_second = (double)run->s.batch * run->s.accumulate / run->step_seconds;
    p.seconds_left = run->step_seconds * (double)(run->s.steps - run->optimizer.step);
    dd_train_tell(run, &p);
}

static ddit_status step(dd_train_run *run, ddit_err *err) {
    dd_trainer_report report;
    double begin = dd_seconds();
    ddit_status status = dd_trainer_step(run->trainer, &report, err);
    if (status == DDIT_ERR_DIVERGED) return diverged(run, err);
    if (status != DDIT_OK) return status;
    double elapsed = dd_seconds() - begin, share = run->step_seconds > 0 ? 0.1 : 1;
    run->seconds += elapsed;
    run->step_seconds += share * (elapsed - run->step_seconds);
    DD_TRY(dd_comm_agree(run->comm, log_step(run, &report, err), err));
    tell_step(run, &report);
    return dd_train_share_stop(run, err);
}

static ddit_status cancelled(const dd_train_run *run, ddit_err *err) {
    return dd_fail(err, DDIT_ERR_CANCELLED, "stopped after step %" PRId64 " of %" PRId64 "; everything is saved in %s: resume "
                   "goes on", run->optimizer.step, run->s.steps, run->s.folder);
}

/* What the numbers of steps ask for at this one; the last step has its own. */
static bool eval_is_due(const dd_train_run *run) { return run->optimizer.step % run->s.save_every == 0; }

static bool samples_are_due(const dd_train_run *run) {
    return run->s.sample_every > 0 && run->optimizer.step % run->s.sample_every == 0;
}

/* A run may have been stopped after its checkpoint was saved and before the rest of that step was done. */
static ddit_status catch_up(dd_train_run *run, ddit_err *err) {
    double loss[DD_LAYOUT_KINDS];
    if (run->optimizer.step == run->s.steps) return DDIT_OK;
    bool due[2] = {eval_is_due(run) && !dd_train_evaluated(run, run->optimizer.step, loss),
                   samples_are_due(run) && !dd_train_samples_drawn(run)};
    DD_TRY(dd_comm_broadcast(run->comm, due, sizeof due, err));
    if (due[0]) DD_TRY(dd_train_evaluate(run, dd_optimizer_average(&run->optimizer), false, run->eval_last, err));
    return due[1] ? draw_samples(run, err) : DDIT_OK;
}

/* After every step: what is due. */
static ddit_status after_step(dd_train_run *run, ddit_err *err) {
    int64_t at = run->optimizer.step;
    bool last = at == run->s.steps, due = eval_is_due(run);
    if (due || last || run->stop) DD_TRY(save(run, err));
    if (run->stop) return cancelled(run, err);
    if (due && !last) DD_TRY(dd_train_evaluate(run, dd_optimizer_average(&run->optimizer), false, run->eval_last, err));
    if (!last && samples_are_due(run)) DD_TRY(draw_samples(run, err));
    DD_TRY(dd_train_share_stop(run, err)); /* it may have been asked while that was done */
    if (!run->stop || last) return DDIT_OK;
    if (!due) DD_TRY(save(run, err));
    return cancelled(run, err);
}

ddit_status dd_train_loop(dd_train_run *run, ddit_err *err) {
    const float *average = dd_optimizer_average(&run->optimizer);
    if (run->optimizer.step == 0) DD_TRY(dd_train_evaluate(run, average, true, run->eval_first, err));
    else {
        dd_train_evaluated(run, 0, run->eval_first);
        DD_TRY(catch_up(run, err));
    }
    DD_TRY(dd_train_share_stop(run, err));
    if (run->stop && run->optimizer.step > 0) return cancelled(run, err);
    if (run->stop) return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before the first step");
    while (run->optimizer.step < run->s.steps) {
        DD_TRY(step(run, err));
        DD_TRY(after_step(run, err));
    }
    DD_TRY(dd_train_evaluate(run, average, true, run->eval_last, err));
    return run->s.sample_every >= 0 ? draw_samples(run, err) : DDIT_OK;
}
