/* Training samples without any data set: the base model's own trajectories from noise to picture, kept in a folder.
 *
 * Trajectory j belongs to prompt j % prompt_count, noise seed and guidance of its own. It is an Euler run of the base at factor 1
 * over `points` noise levels: sigma(u_k) of the model's schedule at u_0 = 1 and, for k > 0, u_k drawn uniformly from the k-th of
 * points equal parts of 1 > u > 0 (so that all levels are met in the long run), then 0. Each point gives one sample: the latent
 * handed to the model, its sigma, and the velocity the base answered.
 *
 * A file FOLDER/trajectory-J.safetensors per trajectory: `latent` and `velocity` [points, C, h, w] F16, `sigma` [points] F32, metadata
 * with the `key` that made it. Files appear whole or not at all; those that are there with the right key are kept, so that making them
 * may stop at any moment and go on later.
 */
#ifndef DD_TRAIN_TRAJECTORIES_H
#define DD_TRAIN_TRAJECTORIES_H

#include "base/pool.h"
#include "train/source.h"

typedef struct dd_trajectories dd_trajectories;

typedef struct dd_trajectories_params {
    const char *folder;              /* made if it is not there (its parent must be) */
    const char *key;                 /* says model, size, guidance … : files with another key are made again */
    dd_latent_shape shape;
    int count;                       /* trajectories */
    int points;                      /* noise levels of each */
    uint64_t seed;
    const dd_train_prompt *prompts;  /* borrowed */
    int prompt_count;
    float guidance_low, guidance_high; /* uniform in between */
    /* Noise level of u in (0, 1]: the model's schedule, shift included. */
    float (*sigma_of)(const void *user, double u);
    const void *sigma_user;
} dd_trajectories_params;

/* Looks at what is there. *missing = trajectories still to be made. Files are mapped when they are first read. */
ddit_status dd_trajectories_open(dd_trajectories **out, const dd_allocator *a, const dd_trajectories_params *params, int *missing,
                                 ddit_err *err);

/* Makes the missing ones, one per lane at a time. batch: a batch of at least lane_count conditions. done(user, made, missing) is called from
 * the calling thread after each group; non-zero cancels (DDIT_ERR_CANCELLED; what was made stays). */
ddit_status dd_trajectories_make(dd_trajectories *t, dd_flux_lane *const *lanes, int lane_count, dd_pool *pool,
                                 dd_flux_batch *batch, int (*done)(void *user, int made, int missing), void *user,
                                 ddit_err *err);

/* Samples: all points of all trajectories in an order shuffled anew for every pass over them. Owned by t. */
const dd_train_source *dd_trajectories_source(dd_trajectories *t);

/* Bytes on disk of all trajectories. */
uint64_t dd_trajectories_bytes(const dd_trajectories_params *params);

void dd_trajectories_close(dd_trajectories *t); /* NULL accepted */

#endif
