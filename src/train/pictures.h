/* Training samples of pictures with captions: flow matching on the autoencoder's latents, which are made once and kept in a
 * folder.
 *
 * Sample number n = step * samples_per_step + i takes the next picture of an order that is shuffled anew for every pass over
 * the pictures, a noise level sigma and noise e: latent z = (1 - sigma) x + sigma e, velocity to learn e - x. All chance is a
 * function of the seed and n.
 *
 * A file FOLDER/picture-HASH.safetensors per picture: `latent` [1, C, h, w] F16, with flip [2, C, h, w] (as it is, mirrored),
 * metadata `key`: params.key and the picture's stamp, of which HASH is made. Files appear whole or not at all; those that are
 * there are kept, also when pictures were added or removed, so that making them may stop at any moment and go on later.
 *
 *     dd_pictures_open(&p, a, &params, &missing, err);
 *     if (missing) dd_pictures_make(p, encode, user, done, user, err);
 *     dd_pictures_source(p, &source, err);
 *
 * Sources: flow matching (Lipman et al. 2023), logit-normal noise levels (Esser et al. 2024, section 3.1).
 */
#ifndef DD_TRAIN_PICTURES_H
#define DD_TRAIN_PICTURES_H

#include "train/source.h"

enum { DD_PICTURES_MAX = 50000 }; /* each file is one of the system's memory maps */

/* Everything is borrowed from the caller, and lives as long as the pictures. */
typedef struct dd_pictures_item {
    const char *stamp; /* tells this picture, as it is now, from all others: name, size and time of its file */
    dd_train_prompt caption;
} dd_pictures_item;

/* How u in (0, 1] is drawn; the noise level is sigma_of(u). */
typedef enum dd_noise_levels { DD_NOISE_UNIFORM, DD_NOISE_LOGIT_NORMAL } dd_noise_levels;

typedef struct dd_pictures_params {
    const char *folder;            /* made if it is not there (its parent must be) */
    const char *key;               /* says autoencoder and size: files with another key are made again */
    dd_latent_shape shape;
    const dd_pictures_item *items; /* borrowed [count] */
    int count;                     /* 1..DD_PICTURES_MAX */
    int samples_per_step;          /* sample i of step s is number s * samples_per_step + i */
    uint64_t seed;
    bool flip;                     /* half of the samples are mirrored */
    bool has_target;               /* false: samples leave the velocity to a teacher */
    const dd_train_prompt *empty;  /* borrowed; needed with caption_dropout > 0 */
    double caption_dropout;        /* share of samples with `empty` in place of the caption */
    float guidance_low, guidance_high; /* uniform in between */
    dd_noise_levels levels;
    double logit_mean, logit_std;  /* LOGIT_NORMAL: u = 1 / (1 + exp(-(mean + std n))) */
    int rank, ranks;               /* rank r of n makes the pictures whose number leaves r when divided by n; 0, 0: all */
    float (*sigma_of)(const void *user, double u); /* the model's schedule, shift included; NULL: u itself */
    const void *sigma_user;
} dd_pictures_params;

typedef struct dd_pictures dd_pictures;

/* Looks at what is there. *missing = pictures still to be encoded, by all ranks. Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE
 * (the folder cannot be made), DDIT_ERR_ARGUMENT, DDIT_ERR_NO_MEMORY. *out is NULL on failure. */
ddit_status dd_pictures_open(dd_pictures **out, const dd_allocator *a, const dd_pictures_params *params, int *missing,
                             ddit_err *err);

/* Looks again, after other ranks have made theirs: pictures still missing. */
int dd_pictures_missing(dd_pictures *p);

/* The autoencoder's mean of picture `index`, mirrored or not, in model units: latent [C, h, w], host memory. */
typedef ddit_status (*dd_pictures_encode)(void *user, int index, bool mirrored, float *latent, ddit_err *err);

/* Makes this rank's share of the missing ones. done(done_user, made, missing) after each; non-zero cancels; NULL: none.
 * Errors: those of encode; DDIT_ERR_BACKEND (a latent that is not finite or beyond F16), DDIT_ERR_CANCELLED (what was made
 * stays), DDIT_ERR_WRITE. */
ddit_status dd_pictures_make(dd_pictures *p, dd_pictures_encode encode, void *user,
                             int (*done)(void *user, int made, int missing), void *done_user, ddit_err *err);

/* Samples, owned by p. plan and fetch allocate nothing and may run on several threads. fetch ignores a target of NULL.
 * Errors: DDIT_ERR_NOT_FOUND if a picture is still missing. */
ddit_status dd_pictures_source(dd_pictures *p, const dd_train_source **source, ddit_err *err);

/* Bytes on disk of all latents. */
uint64_t dd_pictures_bytes(const dd_pictures_params *params);

void dd_pictures_close(dd_pictures *p); /* NULL accepted */

#endif
