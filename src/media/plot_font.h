/* A small bitmap font. Internal to this room. */
#ifndef DD_MEDIA_PLOT_FONT_H
#define DD_MEDIA_PLOT_FONT_H

#include <stddef.h>
#include <stdint.h>

enum { DD_GLYPH_COLUMNS = 5, DD_GLYPH_ROWS = 9 };

typedef struct dd_glyph {
    char character;
    uint8_t rows[DD_GLYPH_ROWS]; /* bit 4 is the leftmost dot */
} dd_glyph;

/* Digits, letters and some signs; a box for any other character (a space is not drawn and has none). */
const dd_glyph *dd_glyph_of(char c);

/* Columns that the glyph takes: letters stand as close as their shapes allow. */
int dd_glyph_width(const dd_glyph *glyph);

#endif
