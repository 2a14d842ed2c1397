/* Numbers on the command line: the whole text must be one, nothing else is accepted. */
#ifndef DDIT_PROGRAM_NUMBERS_H
#define DDIT_PROGRAM_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal digits with an optional sign. False if the text is anything else or does not fit. */
bool number_integer(const char *text, int64_t *value);

/* A finite decimal number (sign, point and exponent allowed; no "nan", "inf" or hexadecimal). */
bool number_real(const char *text, double *value);

/* "256x128" or "256*128". */
bool number_size(const char *text, int *width, int *height);

#endif
