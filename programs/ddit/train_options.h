/* What `ddit train` can be asked for. */
#ifndef DDIT_PROGRAM_TRAIN_OPTIONS_H
#define DDIT_PROGRAM_TRAIN_OPTIONS_H

#include <ddit/ddit.h>

#include "options.h"

/* Unset: NULL, NaN, and for counts -1 where 0 means something, else 0. */
typedef struct train_options {
    const char *model, *output, *scope, *preset;
    const char *prompts, *data, *cache, *guidance, *levels;
    int trajectories, points;
    int size[2]; /* width, height */
    double caption_dropout;
    const char *factors, *residual, *lora, *init;
    int rank;
    double mixed;
    int steps; /* 0: train nothing, measure */
    double minutes;
    int batch, accumulate;
    const char *optimizer, *decay;
    int warmup;
    double lr, patch_lr, weight_decay, clip, ema, loss_floor;
    int seed;
    const char *eval;
    int resume, save_every, sample_every; /* sample_every 0: never */
    const char *backend, *precision;
    int threads;
    int json, quiet, verbose;
} train_options;

extern const option_table train_table;

train_options train_options_init(void);

/* Checks options against each other, and that the output can be made. Says what is wrong; returns the exit status. */
int train_options_check(const train_options *options);

/* The library's parameters, without the callback. */
ddit_train_params train_options_params(const train_options *options);

#endif
