/* From the flat vector of trained values to the adapter file (docs/adapter_file.md). */
#ifndef DD_TRAIN_ADAPTER_WRITE_H
#define DD_TRAIN_ADAPTER_WRITE_H

#include "dit/flux_train.h"

/* What the file says about itself beside its tensors. */
typedef struct dd_adapter_about {
    const dd_flux_config *config;
    const dd_train_options *options;
    const char *base;              /* name of the base model */
    const char *init;              /* "pinv-bilinear", or the name of the adapter it began as */
    const char *guidance;          /* guidance input it was trained with, e.g. "1" or "1,4" */
    int64_t steps_trained;
    const dd_safetensors *policy;  /* an adapter file whose sched_order, tau, tau_steps, tau_region, rho, sigma_min and anchor
                                    * are taken over; NULL: left out, so that the format's defaults hold */
} dd_adapter_about;

/* Writes values[list->total] as BF16; whole or not at all. Errors: those of dd_safetensors_write. */
ddit_status dd_adapter_write(const char *path, const dd_param_list *list, const float *values, const dd_adapter_about *about,
                             ddit_err *err);

#endif
