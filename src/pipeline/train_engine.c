/* The transformer opened for training, its lanes, and how many of them there are. */
#include <string.h>

#include "pipeline/train.h"
#include "train/mixed_layout.h"

enum {
    SMALL_LANE = 64 << 20,      /* a lane up to so many bytes is worth a core of its own */
    SMALL_GRADIENTS = 256 << 20, /* gradient vectors of such models may take so much together */
    MOST_VECTORS = 8
};

static int cells_at(dd_grid g, int factor) { return ((g.rows + factor - 1) / factor) * ((g.cols + factor - 1) / factor); }

dd_flux_lane_params dd_train_lane_params(const dd_train_run *run) {
    const dd_train_settings *s = &run->s;
    dd_grid grid = dd_train_grid(s, run->model);
    int most = s->all ? cells_at(grid, 1) : cells_at(grid, s->options.factor[1] ? 2 : 4);
    int mixed = s->all || s->mixed <= 0 ? 0 : dd_mixed_layouts_most(grid, s->options.factor);
    return (dd_flux_lane_params){.grid = grid, .text_tokens = s->run.max_sequence_length,
                                 .max_image_tokens = mixed > most ? mixed : most};
}

/* Gradient vectors follow from model and batch alone, so that the bytes of the result do not depend on threads or ranks. */
void dd_train_choose_lanes(dd_train_run *run) {
    dd_backend *b = run->context->backend;
    dd_flux_lane_params lane = dd_train_lane_params(run);
    dd_flux_train_bytes bytes = dd_flux_train_measure(&run->model->config.transformer, b->activation, &run->s.options, &lane,
                                                      run->local);
    uint64_t vector = (uint64_t)dd_train_param_count(run) * sizeof(float);
    bool small = bytes.checkpoints + bytes.block < SMALL_LANE;
    int vectors = 1, all = 1; /* of this rank, of all ranks */
    while (small && 2 * all <= MOST_VECTORS && 2 * all <= run->s.batch && (uint64_t)(2 * all + 1) * vector <= SMALL_GRADIENTS)
        all *= 2;
    while (2 * vectors * run->ranks <= all) vectors *= 2;
    run->vectors = all;
    run->accumulators = vectors;
    int lanes = b->threads < vectors ? b->threads : vectors;
    run->lane_count = b->threads <= 2 * vectors ? lanes : 1; /* many idle cores: all of them on one sample instead */
}

static ddit_status open_lanes(dd_train_run *run, dd_train_engine *e, ddit_err *err) {
    dd_flux_lane_params params = dd_train_lane_params(run);
    DD_TRY(dd_alloc(run->a, &e->lanes, (size_t)run->lane_count, sizeof *e->lanes, "the lanes", err));
    for (int i = 0; i < run->lane_count; i++)
        DD_TRY(dd_flux_lane_create(&e->lanes[i], e->trainee, run->lane_backends[i], &params, err));
    return DDIT_OK;
}

static ddit_status open_engine(dd_train_run *run, dd_train_engine *e, const dd_train_options *options, int conditions,
                               ddit_err *err) {
    ddit_model *m = run->model;
    bool all = options->scope == DD_TRAIN_ALL;
    DD_TRY(dd_flux_dit_open_trainable(&e->dit, run->context->backend, &m->config.transformer, m->files, all, err));
    DD_TRY(dd_flux_trainee_create(&e->trainee, e->dit, options, err));
    DD_TRY(dd_flux_batch_create(&e->batch, e->trainee, conditions, run->s.run.max_sequence_length, err));
    return open_lanes(run, e, err);
}

static ddit_status open_backends(dd_train_run *run, ddit_err *err) {
    dd_backend *main = run->context->backend;
    DD_TRY(dd_alloc(run->a, &run->lane_backends, (size_t)run->lane_count, sizeof *run->lane_backends, "the lanes", err));
    DD_TRY(dd_pool_create(&run->pool, run->a, run->lane_count, NULL, err));
    if (run->lane_count == 1) run->lane_backends[0] = main;
    for (int i = 0; run->lane_count > 1 && i < run->lane_count; i++)
        DD_TRY(dd_op_lane_open(main, i, &run->lane_backends[i], err));
    return DDIT_OK;
}

ddit_status dd_train_engines_open(dd_train_run *run, ddit_err *err) {
    DD_TRY(open_backends(run, err));
    DD_TRY(open_engine(run, &run->student, &run->s.options, run->local, err));
    run->model->dit = run->student.dit;
    if (!run->s.distil) return DDIT_OK;
    dd_train_options frozen = {.scope = DD_TRAIN_ADAPTER}; /* no factor: nothing of it is trained */
    return open_engine(run, &run->teacher, &frozen, 2 * run->local, err);
}

static void close_engine(dd_train_run *run, dd_train_engine *e) {
    for (int i = 0; e->lanes && i < run->lane_count; i++) dd_flux_lane_free(e->lanes[i]);
    dd_free(run->a, e->lanes);
    dd_flux_batch_free(e->batch);
    dd_flux_trainee_free(e->trainee);
    dd_flux_dit_close(e->dit);
    *e = (dd_train_engine){0};
}

void dd_train_engines_close(dd_train_run *run) {
    close_engine(run, &run->teacher);
    close_engine(run, &run->student);
    if (run->model) run->model->dit = NULL;
    for (int i = 0; run->lane_backends && run->lane_count > 1 && i < run->lane_count; i++)
        dd_op_lane_close(run->lane_backends[i]);
    dd_free(run->a, run->lane_backends);
    run->lane_backends = NULL;
    dd_pool_free(run->pool);
    run->pool = NULL;
}

dd_trainer_params dd_train_trainer_params(const dd_train_run *run) {
    const dd_train_settings *s = &run->s;
    dd_trainer_params p = {.seed = s->seed,
                           .batch = s->batch,
                           .accumulate = s->accumulate,
                           .accumulators = run->accumulators,
                           .weight_floor = s->loss_floor,
                           .teacher_guidance = 1,
                           .shape = dd_train_shape(s, run->model),
                           .grid = dd_train_grid(s, run->model)};
    memcpy(p.factor, s->options.factor, sizeof p.factor);
    /* Policies take factor 2 in most of the steps that they coarsen, and more hangs on it. */
    static const double weight[DD_FACTOR_COUNT] = {0, 8, 3};
    double sum = weight[1] * p.factor[1] + weight[2] * p.factor[2];
    if (s->all) p.share[DD_LAYOUT_X1] = 1;
    else {
        p.share[DD_LAYOUT_MIXED] = s->mixed;
        for (int f = 1; f < DD_FACTOR_COUNT; f++) p.share[f] = p.factor[f] * (1 - s->mixed) * weight[f] / sum;
    }
    return p;
}

ddit_status dd_train_trainer_open(dd_train_run *run, ddit_err *err) {
    dd_trainer_params params = dd_train_trainer_params(run);
    dd_trainer_parts parts = {.trainee = run->student.trainee,
                              .backend = run->context->backend,
                              .lanes = run->student.lanes,
                              .lane_count = run->lane_count,
                              .pool = run->pool,
                              .batch = run->student.batch,
                              .teacher = run->teacher.lanes,
                              .teacher_batch = run->teacher.batch,
                              .empty = run->empty.prompts,
                              .source = run->source,
                              .optimizer = &run->optimizer,
                              .comm = run->comm};
    return dd_trainer_create(&run->trainer, run->a, &params, &parts, err);
}
