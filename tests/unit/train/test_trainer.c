/* The training step on the tiny transformer: it learns; its bytes do not depend on lanes; batches add up; what goes wrong is
 * said and changes nothing. */
#include "harness.h"
#include "unit/train/train_fixture.h"

enum { BATCH = 6 };

typedef struct training {
    fixture f;
    random_source source;
    dd_optimizer optimizer;
    dd_comm *comm;
    dd_trainer *trainer;
} training;

static dd_trainer_params trainer_params(const fixture *f, int batch, int accumulate) {
    dd_trainer_params p = {.seed = 3, .batch = batch, .accumulate = accumulate, .accumulators = 4, .shape = f->shape,
                           .grid = f->grid, .teacher_guidance = 1};
    memcpy(p.factor, f->options.factor, sizeof p.factor);
    if (f->options.scope == DD_TRAIN_ALL) p.share[DD_LAYOUT_X1] = 1;
    else p.share[DD_LAYOUT_X2] = 0.4, p.share[DD_LAYOUT_X4] = 0.3, p.share[DD_LAYOUT_MIXED] = 0.3;
    return p;
}

static ddit_status training_open(training *t, const dd_train_options *options, int lanes, int batch, int accumulate,
                                 ddit_err *err) {
    *t = (training){0};
    DD_TRY(fixture_open(&t->f, options, lanes, batch, err));
    t->source = random_source_of(&t->f, batch * accumulate);
    t->source.has_target = options->scope == DD_TRAIN_ALL;
    dd_optimizer_params op = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW);
    op.lr = 2e-3;
    op.total_steps = 1000;
    DD_TRY(dd_optimizer_init(&t->optimizer, &dd_allocator_libc, &op, t->f.m.values, t->f.m.params->total, err));
    DD_TRY(dd_comm_open(&t->comm, &dd_allocator_libc, err));
    dd_trainer_params p = trainer_params(&t->f, batch, accumulate);
    dd_trainer_parts parts = {.trainee = t->f.m.trainee, .backend = t->f.m.b, .lanes = t->f.lanes, .lane_count = lanes,
                              .pool = t->f.pool, .batch = t->f.m.batch, .source = &t->source.source,
                              .optimizer = &t->optimizer, .comm = t->comm};
    return dd_trainer_create(&t->trainer, &t->f.m.memory.allocator, &p, &parts, err);
}

static bool training_close(training *t) {
    dd_trainer_free(t->trainer);
    dd_optimizer_deinit(&t->optimizer);
    dd_comm_close(t->comm);
    return fixture_close(&t->f);
}

static void learns(dd_test *t) {
    static training r;
    dd_train_options options = fixture_options();
    DD_NEED_OK(t, training_open(&r, &options, 2, BATCH, 1, &t->err));
    r.source.different = BATCH; /* the same few samples again and again */
    double first[DD_LAYOUT_KINDS], last[DD_LAYOUT_KINDS];
    DD_OK(t, dd_trainer_evaluate(r.trainer, r.optimizer.values, &r.source.source, BATCH, first, &t->err));
    for (int i = 0; i < 40; i++) {
        dd_trainer_report report;
        DD_NEED_OK(t, dd_trainer_step(r.trainer, &report, &t->err));
        DD_CHECK(t, report.samples[0] == 0 && report.samples[1] + report.samples[2] + report.samples[3] == BATCH);
        for (int k = 0; k < DD_LAYOUT_KINDS; k++) DD_CHECK(t, isnan(report.loss[k]) == (report.samples[k] == 0));
    }
    DD_OK(t, dd_trainer_evaluate(r.trainer, r.optimizer.values, &r.source.source, BATCH, last, &t->err));
    DD_CHECK(t, isnan(first[DD_LAYOUT_X1]));
    for (int k = 1; k < DD_LAYOUT_KINDS; k++)
        if (!(last[k] < 0.8 * first[k]))
            dd_test_fail(t, __FILE__, __LINE__, "kind %d: loss %g became %g, expected less than four fifths", k, first[k],
                         last[k]);
    DD_CHECK(t, training_close(&r));
}

/* `steps` steps from the start; the values belong to the caller. */
static float *train_some(dd_test *t, const dd_train_options *options, int lanes, int batch, int accumulate, int steps) {
    training *r = malloc(sizeof *r);
    float *values = NULL;
    ddit_status status = training_open(r, options, lanes, batch, accumulate, &t->err);
    for (int i = 0; i < steps && status == DDIT_OK; i++) {
        dd_trainer_report report;
        status = dd_trainer_step(r->trainer, &report, &t->err);
    }
    DD_OK(t, status);
    size_t bytes = (size_t)r->optimizer.count * sizeof(float);
    values = malloc(bytes);
    memcpy(values, r->optimizer.values, bytes);
    DD_CHECK(t, training_close(r));
    free(r);
    return values;
}

static size_t count_of(dd_test *t, const dd_train_options *options) {
    fixture f;
    DD_OK(t, fixture_open(&f, options, 1, 1, &t->err));
    size_t count = (size_t)f.m.params->total;
    fixture_close(&f);
    return count;
}

static void lanes_agree(dd_test *t) {
    dd_train_options scopes[2] = {fixture_options(), {.scope = DD_TRAIN_ALL}};
    for (int s = 0; s < 2; s++) {
        size_t count = count_of(t, &scopes[s]);
        float *one = train_some(t, &scopes[s], 1, BATCH, 1, 3), *two = train_some(t, &scopes[s], 2, BATCH, 1, 3);
        DD_CHECK(t, memcmp(one, two, count * sizeof(float)) == 0);
        free(one);
        free(two);
    }
}

static void batches_add_up(dd_test *t) {
    dd_train_options scopes[2] = {fixture_options(), {.scope = DD_TRAIN_ALL}};
    for (int s = 0; s < 2; s++) {
        size_t count = count_of(t, &scopes[s]);
        float *at_once = train_some(t, &scopes[s], 2, BATCH, 1, 2), *in_parts = train_some(t, &scopes[s], 2, BATCH / 3, 3, 2);
        DD_CHECK(t, dd_test_rel_l2(in_parts, at_once, count) < 1e-4);
        DD_CHECK(t, dd_test_rel_l2(in_parts, at_once, count) > 0 || s == 1);
        free(at_once);
        free(in_parts);
    }
}

static void says_what_went_wrong(dd_test *t) {
    static training r;
    dd_train_options options = fixture_options();
    dd_trainer_report report;
    DD_NEED_OK(t, training_open(&r, &options, 2, BATCH, 1, &t->err));
    DD_OK(t, dd_trainer_step(r.trainer, &report, &t->err));
    size_t bytes = (size_t)r.optimizer.count * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, r.optimizer.values, bytes);
    r.source.bad_number = BATCH + 2;
    DD_FAILS(t, dd_trainer_step(r.trainer, &report, &t->err), DDIT_ERR_DIVERGED, "not a finite number");
    r.source.bad_number = UINT64_MAX;
    r.source.fails = true;
    DD_FAILS(t, dd_trainer_step(r.trainer, &report, &t->err), DDIT_ERR_READ, "cannot be read");
    DD_CHECK(t, r.optimizer.step == 1 && memcmp(before, r.optimizer.values, bytes) == 0);
    r.source.fails = false;
    DD_OK(t, dd_trainer_step(r.trainer, &report, &t->err)); /* and goes on */
    free(before);
    DD_CHECK(t, training_close(&r));
}

static void refuses(dd_test *t) {
    static training r;
    dd_train_options options = fixture_options();
    DD_NEED_OK(t, training_open(&r, &options, 1, 2, 1, &t->err));
    dd_trainer_params p = trainer_params(&r.f, 0, 1);
    dd_trainer_parts parts = {.trainee = r.f.m.trainee, .backend = r.f.m.b, .comm = r.comm};
    dd_trainer *trainer;
    DD_FAILS(t, dd_trainer_create(&trainer, &dd_allocator_libc, &p, &parts, &t->err), DDIT_ERR_ARGUMENT, "batch is 0");
    DD_CHECK(t, trainer == NULL);
    DD_CHECK(t, training_close(&r));
}

static void counts_its_bytes(dd_test *t) {
    fixture f;
    dd_train_options options = fixture_options();
    DD_NEED_OK(t, fixture_open(&f, &options, 2, BATCH, &t->err));
    dd_trainer_params p = trainer_params(&f, BATCH, 1);
    uint64_t vector = (uint64_t)f.m.params->total * sizeof(float), bytes = dd_trainer_bytes(&p, 2, f.m.params->total);
    DD_CHECK(t, bytes >= 5 * vector && bytes < 5 * vector + 1000000);
    fixture_close(&f);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"learns", learns},
        {"any number of lanes gives the same bytes", lanes_agree},
        {"accumulated batches are one larger batch", batches_add_up},
        {"a loss that is not finite, a sample that cannot be read", says_what_went_wrong},
        {"refuses an empty batch", refuses},
        {"counts its bytes", counts_its_bytes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
