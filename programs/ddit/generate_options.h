/* What `ddit generate` can be asked for. */
#ifndef DDIT_PROGRAM_GENERATE_OPTIONS_H
#define DDIT_PROGRAM_GENERATE_OPTIONS_H

#include <ddit/ddit.h>

#include "options.h"

/* Unset: NULL, 0, NaN, and seed -2. */
typedef struct generate_options {
    const char *model, *adapter, *prompt, *negative;
    int size[2];             /* width, height */
    int steps;
    int64_t seed;            /* -1: draw one */
    double guidance, cfg_scale;
    int max_sequence_length;
    const char *patch;
    double tau, rho;
    int anchor;
    int order;
    const char *sigma_min, *coarse, *cache;
    const char *output;
    int count;
    const char *noise, *save_latent, *trace;
    int save_steps, json, no_metadata;
    const char *backend, *precision;
    int threads;
    int quiet, verbose;
} generate_options;

extern const option_table generate_table;

generate_options generate_options_init(void);

/* Checks options against each other, and that output files can be made. Says what is wrong; returns the exit status. */
int generate_options_check(const generate_options *options);

/* The library's parameters of the first picture, without callbacks. `seed` is the one in use. */
ddit_params generate_options_params(const generate_options *options, uint64_t seed);

#endif
