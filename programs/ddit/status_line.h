/* One line on standard error that is written over in place, and what is put into it. */
#ifndef DDIT_PROGRAM_STATUS_LINE_H
#define DDIT_PROGRAM_STATUS_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct status_line {
    bool in_place; /* standard error is a terminal, and neither -q nor -v was given */
    bool open;     /* there is something on the line */
} status_line;

void status_line_init(status_line *line, bool quiet, bool verbose);

/* Shows text in place of what was there, cut to one less than the terminal's width: a wrapped line could not be overwritten. */
void status_line_draw(status_line *line, const char *text);

/* Empties the line, so that something else can be printed. */
void status_line_clear(status_line *line);

/* "====>    ", `width` characters and a NUL into out; returns out. */
const char *status_line_bar(int64_t done, int64_t all, int width, char *out);

/* "12.3 MB", decimal units; returns out. */
const char *bytes_text(uint64_t bytes, char *out, size_t size);

/* "0.42", "16.3", "1260": about three digits, never an exponent; returns out. */
const char *rate_text(double rate, char *out, size_t size);

#endif
