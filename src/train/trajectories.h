/* Training samples without any data set: the base model's own trajectories from noise to picture, kept in a folder.
 *
 * Trajectory j belongs to prompt j % prompt_count, with a noise seed and guidance of its own. It is an Euler run of the base
 * at factor 1 over `points` noise levels: sigma(u_k) of the model's schedule at u_0 = 1 and, for k > 0, u_k drawn uniformly
 * from the k-th of points equal parts of 1 > u > 0 (so that all levels are met in the long run), then 0. Each point gives one
 * sample: the latent handed to the model, its sigma, and the velocity the base answered.
 *
 * A file FOLDER/trajectory-J.safetensors per trajectory (J of 6 digits): `latent` and `velocity` [points, C, h, w] F16, `sigma`
 * [points] F32, metadata with the `key` that made it. Files appear whole or not at all; those that are there with the right key
 * are kept, so that making them may stop at any moment and go on later.
 */
#ifndef DD_TRAIN_TRAJECTORIES_H
#define DD_TRAIN_TRAJECTORIES_H

#include "base/pool.h"
#include "train/source.h"

enum { DD_TRAJECTORIES_MAX = 50000 }; /* each file that is in use is one of the system's memory maps */

typedef struct dd_trajectories dd_trajectories;

typedef struct dd_trajectories_params {
    const char *folder;              /* made if it is not there (its parent must be) */
    const char *key;                 /* says model, size, prompts, guidance … : files with another key are made again */
    dd_latent_shape shape;
    int patch;                       /* latent pixels of a base cell */
    int count;                       /* trajectories, 1..DD_TRAJECTORIES_MAX */
    int points;                      /* noise levels of each */
    int samples_per_step;            /* how the source counts: sample i of step s is number s * samples_per_step + i */
    uint64_t seed;
    const dd_train_prompt *prompts;  /* borrowed */
    int prompt_count;
    float guidance_low, guidance_high; /* uniform in between */
    int rank, ranks;                 /* rank r of n makes those whose number leaves r when divided by n */
    /* Noise level of u in (0, 1]: the model's schedule, shift included. */
    float (*sigma_of)(const void *user, double u);
    const void *sigma_user;
} dd_trajectories_params;

/* Looks at what is there. *missing = trajectories still to be made, by all ranks. Files are mapped when they are first used.
 * Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE (the folder cannot be made), DDIT_ERR_ARGUMENT (a number out of its range),
 * DDIT_ERR_NO_MEMORY. *out is NULL on failure. */
ddit_status dd_trajectories_open(dd_trajectories **out, const dd_allocator *a, const dd_trajectories_params *params,
                                 int *missing, ddit_err *err);

/* Looks again, after other ranks have made theirs: trajectories still missing. */
int dd_trajectories_missing(dd_trajectories *t);

/* What makes them: lanes[i] is used on thread i of the pool; `batch` of at least `group` conditions, so many trajectories are
 * on their way at once. done(user, made, missing) is called from the calling thread after each group; non-zero cancels. */
typedef struct dd_trajectories_makers {
    dd_flux_lane *const *lanes;
    int lane_count;
    dd_pool *pool;
    dd_flux_batch *batch;
    int group;
    int (*done)(void *user, int made, int missing); /* NULL: none */
    void *user;
} dd_trajectories_makers;

/* Makes this rank's share of the missing ones. Errors: DDIT_ERR_CANCELLED (what was made stays), DDIT_ERR_BACKEND (a velocity
 * that is not finite), those of writing and of the model. */
ddit_status dd_trajectories_make(dd_trajectories *t, const dd_trajectories_makers *makers, ddit_err *err);

/* Samples: all points of all trajectories in an order shuffled anew for every pass over them. Owned by t. `plan` maps files and
 * is to be called by one thread at a time; `fetch` by any. Errors of plan: those of reading files that have changed. */
const dd_train_source *dd_trajectories_source(const dd_trajectories *t);

/* Bytes on disk of all trajectories, and bytes of memory while they are made. */
uint64_t dd_trajectories_bytes(const dd_trajectories_params *params);
uint64_t dd_trajectories_making_bytes(const dd_trajectories_params *params, int group);

void dd_trajectories_close(dd_trajectories *t); /* NULL accepted */

#endif
