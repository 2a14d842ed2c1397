/* Names of output files, and writing a text so that it appears whole or not at all. */
#ifndef DDIT_PROGRAM_OUT_PATH_H
#define DDIT_PROGRAM_OUT_PATH_H

#include <stdbool.h>

/* Can a file of this name be made? Says why not and returns the exit status: EXIT_COMMAND if its folder does not exist or the
 * path is a folder, EXIT_RESOURCE if the folder may not be written; else EXIT_DONE. `option` names the option in sentences. */
int out_path_check(const char *option, const char *path);

/* True if `path` has a place for the picture's number: %d or, for example, %03d. */
bool out_path_numbered(const char *path);

/* False if `path` has a % that is neither that place (once) nor %%. */
bool out_path_valid(const char *path);

/* The name of picture `index` out of `count`: the place is filled; with several pictures and no place, -INDEX goes before the
 * extension ("out.png" -> "out-1.png"). malloc'ed; NULL: no memory. */
char *out_path_number(const char *path, int index, int count);

/* Writes text and a line feed to `path` by a temporary name. Says what went wrong and returns the exit status. */
int out_path_write_text(const char *path, const char *text);

#endif
