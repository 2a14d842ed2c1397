#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ddit_status dd_fail(ddit_err *err, ddit_status code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

ddit_status dd_fail_prefix(ddit_err *err, ddit_status code, const char *prefix) {
    if (err) {
        char old[DDIT_ERR_TEXT_SIZE];
        memcpy(old, err->text, sizeof old);
        int used = snprintf(err->text, sizeof err->text, "%s: ", prefix);
        if (used < 0) used = 0;
        if ((size_t)used < sizeof err->text - 1) snprintf(err->text + used, sizeof err->text - (size_t)used, "%s", old);
    }
    return code;
}
