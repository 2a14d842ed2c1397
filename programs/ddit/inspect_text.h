/* The JSON of ddit_inspect as text for people. */
#ifndef DDIT_PROGRAM_INSPECT_TEXT_H
#define DDIT_PROGRAM_INSPECT_TEXT_H

#include <jansson.h>

/* Prints to standard output. all_tensors: list every tensor of a weight file instead of the first few. */
void inspect_print(const json_t *root, int all_tensors);

#endif
