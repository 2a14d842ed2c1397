/* The public call of training on the tiny model, in a scratch folder. */
#ifndef DD_TEST_TRAIN_PUBLIC_H
#define DD_TEST_TRAIN_PUBLIC_H

#include <ftw.h>
#include <sys/stat.h>

#include "unit/pipeline/pipeline_test.h"

/* What the callback saw, and when it asks to stop. */
typedef struct watcher {
    int64_t stop_at;  /* after this step; 0: never */
    const char *stop_in; /* in this phase; NULL: never */
    int64_t steps_seen;
    uint64_t bytes;
    int saves, samples, evaluations;
    double first_loss, last_loss; /* all kinds of a step */
} watcher;

static inline int watch(void *user, const ddit_train_progress *p) {
    watcher *w = user;
    if (strcmp(p->phase, "plan") == 0) w->bytes = p->bytes;
    if (strcmp(p->phase, "save") == 0 && p->text) w->saves++;
    if (strcmp(p->phase, "sample") == 0 && p->text) w->samples++;
    if (strcmp(p->phase, "evaluate") == 0 && (!isnan(p->loss[0]) || !isnan(p->loss[1]))) w->evaluations++;
    if (strcmp(p->phase, "train") == 0) {
        double sum = 0, count = 0;
        for (int k = 0; k < 4; k++)
            if (!isnan(p->loss[k])) sum += p->loss[k], count++;
        if (w->steps_seen++ == 0) w->first_loss = sum / count;
        w->last_loss = sum / count;
        if (w->stop_at && p->step >= w->stop_at) return 1;
    }
    return w->stop_in && strcmp(w->stop_in, p->phase) == 0;
}

static inline int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at) {
    (void)info, (void)kind, (void)at;
    return remove(path);
}

static inline void scratch_remove_all(scratch *s) { nftw(s->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

/* 96 x 64, 5 trajectories of 3 points over the prompts of the scratch folder, 4 samples a step. output is folder/NAME. */
typedef struct tiny_run {
    ddit_train_params p;
    char output[128], prompts[128], cache[128];
    watcher seen;
} tiny_run;

static inline void tiny_run_init(tiny_run *r, scratch *s, const char *name) {
    *r = (tiny_run){.p = ddit_train_params_init()};
    snprintf(r->output, sizeof r->output, "%s/%s", s->folder, name);
    snprintf(r->prompts, sizeof r->prompts, "%s/prompts.txt", s->folder);
    snprintf(r->cache, sizeof r->cache, "%s/cache", s->folder);
    r->p.output = r->output;
    r->p.prompts = r->prompts;
    r->p.cache = r->cache;
    r->p.width = 96;
    r->p.height = 64;
    r->p.trajectories = 5;
    r->p.points = 3;
    r->p.rank = 2;
    r->p.steps = 6;
    r->p.batch = 4;
    r->p.save_every = 2;
    r->p.sample_every = -1;
    r->p.seed = 3;
    r->p.progress = watch;
    r->p.user = &r->seen;
}

static inline scratch train_scratch(void) {
    scratch s = scratch_make();
    scratch_write(&s, "prompts.txt", "# three of them\nred apple\n\n  panda  \r\nrocket on a blue background\n");
    return s;
}

static inline ddit_status tiny_train(opened *o, tiny_run *r, char **json, ddit_err *err) {
    r->seen = (watcher){.stop_at = r->seen.stop_at, .stop_in = r->seen.stop_in};
    return ddit_train(json, o->context, TINY_MODEL, &r->p, err);
}

static inline bool same_file(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 1;
    bool same = dd_read_file(&dd_allocator_libc, a, 1 << 28, &x, &n, NULL) == DDIT_OK &&
                dd_read_file(&dd_allocator_libc, b, 1 << 28, &y, &m, NULL) == DDIT_OK && n == m && memcmp(x, y, n) == 0;
    dd_free(&dd_allocator_libc, x);
    dd_free(&dd_allocator_libc, y);
    return same;
}

#endif
