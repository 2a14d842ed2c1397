/* Lists of one number per patch factor, as in adapter files and on the command line. */
#ifndef DD_BASE_FACTOR_LIST_H
#define DD_BASE_FACTOR_LIST_H

#include "base/err.h"

enum { DD_FACTOR_LIST_SIZE = 3 }; /* factors 1, 2, 4 by index */

/* Reads `2:0.3,4:0.9` (blanks accepted; a factor left out gets 0) or `none` (all 0) into sigma_min, numbers from 0 to 1.
 * Errors: DDIT_ERR_ARGUMENT with the position, what was found and expected; sigma_min is then unchanged. */
ddit_status dd_sigma_min_parse(double sigma_min[DD_FACTOR_LIST_SIZE], const char *text, ddit_err *err);

#endif
