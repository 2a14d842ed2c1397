/* What trajectories*.c share. Private to them. */
#ifndef DD_TRAIN_TRAJECTORIES_PRIVATE_H
#define DD_TRAIN_TRAJECTORIES_PRIVATE_H

#include "train/trajectories.h"

struct dd_trajectories {
    dd_train_source source; /* first: the source is the object */
    const dd_allocator *allocator;
    dd_trajectories_params params;
    char *folder, *key;     /* owned */
    bool *there;            /* owned [count] */
    dd_safetensors **files; /* owned [count], each owned or NULL: mapped when first used */
    size_t values;          /* of a latent */
};

/* FOLDER/trajectory-J.safetensors, owned by the caller. */
ddit_status dd_trajectories_path(const dd_trajectories *t, int j, char **path, ddit_err *err);

float dd_trajectories_guidance(const dd_trajectories *t, int j);

#endif
