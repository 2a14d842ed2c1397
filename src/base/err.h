/* Failing with a sentence, and passing a failure on. */
#ifndef DD_BASE_ERR_H
#define DD_BASE_ERR_H

#include "ddit/status.h"

/* Fills *err (if not NULL) with code and the formatted sentence. Returns code, so that `return dd_fail(...)` reads well. */
__attribute__((format(printf, 3, 4))) ddit_status dd_fail(ddit_err *err, ddit_status code, const char *format, ...);

/* Puts "prefix: " in front of the sentence already in *err, e.g. the name of the file being read. Returns err->code (or code
 * of the last failure when err is NULL, which the caller passes). */
ddit_status dd_fail_prefix(ddit_err *err, ddit_status code, const char *prefix);

/* Leaves the calling function with the status of expr unless that is DDIT_OK. For functions that own nothing yet; others
 * write `status = expr; if (status) goto done;`. */
#define DD_TRY(expr)                          \
    do {                                      \
        ddit_status dd_try_status_ = (expr);  \
        if (dd_try_status_ != DDIT_OK) return dd_try_status_; \
    } while (0)

/* The same for functions with a `done:` label and a variable `status`. */
#define DD_GO(expr)                           \
    do {                                      \
        status = (expr);                      \
        if (status != DDIT_OK) goto done;     \
    } while (0)

#endif
