/* Everything a training run needs to go on, in one safetensors file that appears whole or not at all. */
#ifndef DD_TRAIN_CHECKPOINT_H
#define DD_TRAIN_CHECKPOINT_H

#include "train/optimizer.h"

/* Writes FOLDER/checkpoint-STEP.safetensors (STEP = o->step, 8 digits): the optimizer's vectors, its scalars (exactly: hex
 * floats), seconds trained so far, and `settings`, the run's settings as text (lines "key=value"), with which a resumed run
 * must agree. Then removes all but the newest `keep` >= 1 checkpoints, those of later steps (the run went back behind them),
 * and unfinished files of killed runs. Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE (disk full: older checkpoints stay). */
ddit_status dd_checkpoint_save(const dd_allocator *a, const char *folder, const dd_optimizer *o, double seconds,
                               const char *settings, int keep, ddit_err *err);

/* The newest checkpoint of the folder that can be read whole (a damaged one is passed over; a checksum tells): *path owned by
 * the caller, NULL if there is none or no folder. Errors: DDIT_ERR_READ, DDIT_ERR_NO_MEMORY. */
ddit_status dd_checkpoint_newest(const dd_allocator *a, const char *folder, char **path, ddit_err *err);

/* Reads it into an optimizer made with the same parameters and count, which is unchanged on failure. Errors: DDIT_ERR_MISMATCH
 * if `settings` differ, naming the first setting that does, or the sizes; DDIT_ERR_FORMAT for a damaged one; those of
 * reading. */
ddit_status dd_checkpoint_load(const dd_allocator *a, const char *path, dd_optimizer *o, double *seconds, const char *settings,
                               ddit_err *err);

#endif
