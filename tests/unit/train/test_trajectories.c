/* Trajectories of the tiny transformer: files, going on, the samples they give. */
#include <dirent.h>
#include <unistd.h>

#include "harness.h"
#include "train/trajectories.h"
#include "unit/train/train_fixture.h"

enum { COUNT = 5, POINTS = 3 };

typedef struct folder {
    char path[64];
} folder;

static folder folder_make(void) {
    folder f = {"/tmp/ddit-test-traj-XXXXXX"};
    if (!mkdtemp(f.path)) abort();
    return f;
}

static int folder_clear(folder *f, bool remove) {
    char path[512];
    int files = 0;
    DIR *d = opendir(f->path);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", f->path, e->d_name);
        if (remove) unlink(path);
        files++;
    }
    closedir(d);
    if (remove) rmdir(f->path);
    return files;
}

static float shifted(const void *user, double u) {
    (void)user;
    return (float)(2 * u / (1 + u));
}

static dd_trajectories_params params_of(const fixture *f, const folder *d) {
    return (dd_trajectories_params){.folder = d->path, .key = "one", .shape = f->shape, .patch = 2, .count = COUNT,
                                    .points = POINTS, .samples_per_step = 4, .seed = 8, .prompts = f->prompts,
                                    .prompt_count = FIX_PROMPTS, .guidance_low = 1, .guidance_high = 3, .ranks = 1,
                                    .sigma_of = shifted};
}

static dd_trajectories_makers makers_of(const fixture *f) {
    return (dd_trajectories_makers){.lanes = f->lanes, .lane_count = f->lane_count, .pool = f->pool, .batch = f->m.batch,
                                    .group = 2};
}

static int stop_after_first(void *user, int made, int missing) {
    (void)missing;
    *(int *)user = made;
    return 1;
}

static dd_train_options frozen(void) { return (dd_train_options){.scope = DD_TRAIN_ADAPTER}; }

static void made_in_parts(dd_test *t) {
    fixture f;
    folder d = folder_make();
    dd_train_options o = frozen();
    dd_trajectories *tr;
    int missing, made = 0;
    DD_NEED_OK(t, fixture_open(&f, &o, 2, 4, &t->err));
    dd_trajectories_params p = params_of(&f, &d);
    dd_trajectories_makers makers = makers_of(&f);
    DD_NEED_OK(t, dd_trajectories_open(&tr, &f.m.memory.allocator, &p, &missing, &t->err));
    DD_CHECK(t, missing == COUNT);
    makers.done = stop_after_first;
    makers.user = &made;
    DD_FAILS(t, dd_trajectories_make(tr, &makers, &t->err), DDIT_ERR_CANCELLED, "2 of 5");
    DD_CHECK(t, made == 2 && folder_clear(&d, false) == 2);
    dd_trajectories_close(tr);
    DD_NEED_OK(t, dd_trajectories_open(&tr, &f.m.memory.allocator, &p, &missing, &t->err));
    DD_CHECK(t, missing == COUNT - 2);
    makers.done = NULL;
    DD_OK(t, dd_trajectories_make(tr, &makers, &t->err));
    DD_CHECK(t, dd_trajectories_missing(tr) == 0);
    dd_trajectories_close(tr);
    p.key = "two"; /* made with other settings */
    DD_NEED_OK(t, dd_trajectories_open(&tr, &f.m.memory.allocator, &p, &missing, &t->err));
    DD_CHECK(t, missing == COUNT);
    dd_trajectories_close(tr);
    folder_clear(&d, true);
    DD_CHECK(t, fixture_close(&f));
}

/* Is the sample's target the frozen model's velocity at its latent? */
static void check_sample(dd_test *t, fixture *f, const dd_train_source *s, int i, float *sigma) {
    size_t count = dd_latent_values(f->shape);
    float *latent = malloc(3 * count * sizeof(float)), *target = latent + count, *velocity = target + count;
    dd_train_sample sample;
    dd_layout fine;
    DD_OK(t, s->plan(s, 0, i, &sample, &t->err));
    DD_OK(t, s->fetch(s, 0, i, latent, target, &t->err));
    DD_CHECK(t, sample.has_target && sample.guidance >= 1 && sample.guidance <= 3 && sample.sigma > 0 && sample.sigma <= 1);
    dd_flux_condition c = {sample.text, sample.pooled, 1000 * sample.sigma, sample.guidance};
    DD_OK(t, dd_flux_batch_condition(f->m.batch, &c, 1, &t->err));
    DD_OK(t, dd_layout_init(&fine, &dd_allocator_libc, f->grid, &t->err));
    DD_OK(t, dd_flux_lane_velocity(f->lanes[0], f->m.batch, 0, sample.sigma, &fine, latent, velocity, &t->err));
    DD_CHECK(t, dd_test_rel_l2(target, velocity, count) < 2e-3); /* the latent was rounded to half precision */
    *sigma = sample.sigma;
    dd_layout_deinit(&fine);
    free(latent);
}

static void samples(dd_test *t) {
    fixture f;
    folder d = folder_make();
    dd_train_options o = frozen();
    dd_trajectories *tr;
    int missing, at_one = 0;
    DD_NEED_OK(t, fixture_open(&f, &o, 1, 4, &t->err));
    dd_trajectories_params p = params_of(&f, &d);
    dd_trajectories_makers makers = makers_of(&f);
    makers.group = 4;
    DD_NEED_OK(t, dd_trajectories_open(&tr, &f.m.memory.allocator, &p, &missing, &t->err));
    DD_NEED_OK(t, dd_trajectories_make(tr, &makers, &t->err));
    const dd_train_source *s = dd_trajectories_source(tr);
    float seen[COUNT * POINTS];
    for (int i = 0; i < COUNT * POINTS; i++) {
        check_sample(t, &f, s, i, &seen[i]);
        at_one += seen[i] == 1;
        for (int j = 0; j < i; j++) DD_CHECK(t, seen[i] == 1 || seen[i] != seen[j]); /* one pass: each point once */
    }
    DD_CHECK(t, at_one == COUNT);
    dd_train_sample a, b; /* step 1 begins with sample number 4 */
    DD_OK(t, s->plan(s, 1, 0, &a, &t->err));
    DD_OK(t, s->plan(s, 0, 4, &b, &t->err));
    DD_CHECK(t, a.sigma == b.sigma && a.text == b.text);
    dd_trajectories_close(tr);
    folder_clear(&d, true);
    DD_CHECK(t, fixture_close(&f));
}

/* Two ranks make disjoint shares, whoever looks first. */
static void ranks_share(dd_test *t) {
    fixture f;
    folder d = folder_make();
    dd_train_options o = frozen();
    dd_trajectories *tr[2];
    int missing;
    DD_NEED_OK(t, fixture_open(&f, &o, 1, 4, &t->err));
    dd_trajectories_makers makers = makers_of(&f);
    for (int r = 0; r < 2; r++) {
        dd_trajectories_params p = params_of(&f, &d);
        p.rank = r;
        p.ranks = 2;
        DD_NEED_OK(t, dd_trajectories_open(&tr[r], &f.m.memory.allocator, &p, &missing, &t->err));
        DD_OK(t, dd_trajectories_make(tr[r], &makers, &t->err));
    }
    for (int r = 0; r < 2; r++) {
        DD_CHECK(t, dd_trajectories_missing(tr[r]) == 0);
        dd_trajectories_close(tr[r]);
    }
    folder_clear(&d, true);
    DD_CHECK(t, fixture_close(&f));
}

static void refused(dd_test *t) {
    fixture f;
    folder d = folder_make();
    dd_train_options o = frozen();
    dd_trajectories *tr;
    int missing;
    DD_NEED_OK(t, fixture_open(&f, &o, 1, 1, &t->err));
    dd_trajectories_params p = params_of(&f, &d);
    p.count = 0;
    DD_FAILS(t, dd_trajectories_open(&tr, &dd_allocator_libc, &p, &missing, &t->err), DDIT_ERR_ARGUMENT, "trajectories is 0");
    p = params_of(&f, &d);
    p.folder = "/tmp/no-such-folder-ddit/x";
    DD_FAILS(t, dd_trajectories_open(&tr, &dd_allocator_libc, &p, &missing, &t->err), DDIT_ERR_OUTPUT_PATH, "does not exist");
    p.folder = "/dev/null";
    DD_FAILS(t, dd_trajectories_open(&tr, &dd_allocator_libc, &p, &missing, &t->err), DDIT_ERR_WRITE, "cannot be made");
    DD_CHECK(t, tr == NULL);
    folder_clear(&d, true);
    DD_CHECK(t, fixture_close(&f));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"made in parts, kept by key", made_in_parts},
        {"samples are the base's own", samples},
        {"ranks share the work", ranks_share},
        {"refused", refused},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
