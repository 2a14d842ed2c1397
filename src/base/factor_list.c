#include "base/factor_list.h"

#include <string.h>

#include "base/scan.h"

static ddit_status unexpected(ddit_err *err, const char *text, const char *at, const char *expected) {
    char found[DD_FOUND_SIZE];
    return dd_fail(err, DDIT_ERR_ARGUMENT, "sigma_min \"%.100s\", character %td: found %s, expected %s", text, at - text + 1,
                   dd_found(found, at), expected);
}

static int index_of(int factor) { return factor == 2 ? 1 : factor == 4 ? 2 : -1; }

ddit_status dd_sigma_min_parse(double sigma_min[DD_FACTOR_LIST_SIZE], const char *text, ddit_err *err) {
    double values[DD_FACTOR_LIST_SIZE] = {0};
    bool seen[DD_FACTOR_LIST_SIZE] = {false};
    const char *at = dd_skip_blanks(text);
    if (strncmp(at, "none", 4) == 0) {
        at = dd_skip_blanks(at + 4);
        if (*at) return unexpected(err, text, at, "the end");
        memcpy(sigma_min, values, sizeof values);
        return DDIT_OK;
    }
    for (;; at++) { /* over the comma */
        at = dd_skip_blanks(at);
        const char *start = at;
        int factor, i = dd_scan_count(&at, 9, &factor) ? index_of(factor) : -1;
        if (i < 1) return unexpected(err, text, start, "a factor (2 or 4), as in 2:0.3,4:0.9, or none");
        if (seen[i]) return unexpected(err, text, start, "each factor once");
        seen[i] = true;
        at = dd_skip_blanks(at);
        if (*at != ':') return unexpected(err, text, at, "':' between the factor and its lowest sigma");
        at = dd_skip_blanks(at + 1);
        start = at;
        if (!dd_scan_decimal(&at, &values[i]) || values[i] > 1)
            return unexpected(err, text, start, "a sigma from 0 to 1, as in 0.3");
        at = dd_skip_blanks(at);
        if (*at == '\0') break;
        if (*at != ',') return unexpected(err, text, at, "',' or the end");
    }
    memcpy(sigma_min, values, sizeof values);
    return DDIT_OK;
}
