/* Which model is meant. */
#ifndef DDIT_PROGRAM_MODEL_PATH_H
#define DDIT_PROGRAM_MODEL_PATH_H

/* `asked` if not NULL, else $DDIT_MODEL, else the installed emoji model, else ./models/emoji. NULL if there is none: what was
 * looked for has then been said (exit status 3). */
const char *model_path_find(const char *asked);

#endif
