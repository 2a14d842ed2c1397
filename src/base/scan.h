/* Reading short texts that people write (schedules, lists of numbers, layouts) and saying where one is wrong. */
#ifndef DD_BASE_SCAN_H
#define DD_BASE_SCAN_H

#include <stdbool.h>

enum { DD_FOUND_SIZE = 16 };

/* What stands at `at`, for "found %s": `the end`, `'x'` or `byte 0x1F`. Returns buffer. */
const char *dd_found(char buffer[DD_FOUND_SIZE], const char *at);

/* The first character from `at` on that is neither a blank nor a tab. */
const char *dd_skip_blanks(const char *at);

/* Reads decimal digits at *at (at least one) and moves *at behind them. Values over `limit` come out as limit + 1, so that
 * "too large" is the caller's one comparison. False if there is no digit; *at then stays. */
bool dd_scan_count(const char **at, int limit, int *value);

/* Reads a decimal number at *at (digits, optionally a point and digits; no sign, no exponent, at most 15 digits), whatever the
 * locale, rounded as a C literal would be. False if there is none or it is too long; *at then stays. */
bool dd_scan_decimal(const char **at, double *value);

#endif
