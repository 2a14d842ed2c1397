/* The tiny FLUX transformer of tests/golden opened for training, with a trainee, a batch and a lane. */
#ifndef DD_TEST_TRAIN_TEST_H
#define DD_TEST_TRAIN_TEST_H

#include "dit/flux_train.h"
#include "op/op_grad.h"
#include "unit/dit/dit_test.h"

typedef struct tiny_trainee {
    dd_test_allocator memory;
    dd_backend *b;
    dd_model_folder config;
    dd_weight_files *files;
    dd_flux_dit *dit;
    dd_flux_trainee *trainee;
    dd_flux_batch *batch;
    const dd_param_list *params;
    float *values, *gradient; /* host [params->total] */
    float *accumulator;       /* backend memory [params->total] */
} tiny_trainee;

static inline ddit_status tiny_trainee_open(tiny_trainee *m, tiny_kind kind, const dd_train_options *options, int samples,
                                            int text_tokens, ddit_err *err) {
    *m = (tiny_trainee){0};
    dd_test_allocator_init(&m->memory);
    const dd_allocator *a = &m->memory.allocator;
    DD_TRY(dd_backend_open(&m->b, kind.name, kind.precision, 2, a, err));
    DD_TRY(dd_model_folder_read(&m->config, a, "tests/golden/flux_head32", err));
    DD_TRY(dd_weight_files_open(&m->files, a, "tests/golden/flux_head32/transformer", err));
    DD_TRY(dd_flux_dit_open_trainable(&m->dit, m->b, &m->config.transformer, m->files, options->scope == DD_TRAIN_ALL, err));
    DD_TRY(dd_flux_trainee_create(&m->trainee, m->dit, options, err));
    DD_TRY(dd_flux_batch_create(&m->batch, m->trainee, samples, text_tokens, err));
    m->params = dd_flux_trainee_params(m->trainee);
    size_t total = (size_t)m->params->total;
    m->values = calloc(total, sizeof(float));
    m->gradient = calloc(total, sizeof(float));
    DD_TRY(dd_op_alloc(m->b, (void **)&m->accumulator, total * sizeof(float), "a gradient", err));
    return dd_op_upload(m->b, m->accumulator, m->gradient, total * sizeof(float), err);
}

/* false if memory of the allocator is still held. */
static inline bool tiny_trainee_close(tiny_trainee *m) {
    free(m->values);
    free(m->gradient);
    if (m->b) dd_op_free(m->b, m->accumulator);
    dd_flux_batch_free(m->batch);
    dd_flux_trainee_free(m->trainee);
    dd_flux_dit_close(m->dit);
    dd_weight_files_close(m->files);
    dd_backend_close(m->b);
    return m->memory.live == 0;
}

/* Whether this kind computes backward passes; a case over several kinds passes over the others. */
static inline bool tiny_can_train(tiny_kind kind) {
    dd_backend *b;
    if (dd_backend_open(&b, kind.name, kind.precision, 1, &dd_allocator_libc, NULL) != DDIT_OK) return false;
    bool can = b->ops->grad && b->ops->grad->input && b->ops->grad->attention && b->ops->weight_update;
    dd_backend_close(b);
    return can;
}

#endif
