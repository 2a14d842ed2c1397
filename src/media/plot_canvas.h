/* Drawing into an RGB picture with smooth edges: lines, discs, rectangles and text. Internal to this room; positions are in
 * pixels from the upper left corner, pixel centres at .5; what lies outside is cut off.
 */
#ifndef DD_MEDIA_PLOT_CANVAS_H
#define DD_MEDIA_PLOT_CANVAS_H

#include <stddef.h>
#include <stdint.h>

typedef struct dd_canvas {
    uint8_t *rgb; /* borrowed [height, width, 3] */
    int width, height;
    int clip[4];  /* left, top, right, bottom: nothing is drawn outside */
    uint8_t *mask; /* borrowed [height, width]; zeros between calls: where a polyline covers a pixel */
} dd_canvas;

typedef struct dd_color {
    uint8_t red, green, blue;
} dd_color;

/* opacity 0 ... 1 everywhere. */
void dd_canvas_fill(dd_canvas *c, double left, double top, double right, double bottom, dd_color color, double opacity);
void dd_canvas_disc(dd_canvas *c, double x, double y, double radius, dd_color color, double opacity);

/* A polyline with round corners and ends, everywhere of the same opacity. */
typedef struct dd_point {
    double x, y;
} dd_point;
void dd_canvas_polyline(dd_canvas *c, const dd_point *points, size_t count, double width, dd_color color, double opacity);

/* Heights of the font in units of `size` (pixels per dot of its 5 x 7 letters). */
enum { DD_FONT_CAP = 7, DD_FONT_DESCENT = 2 };

/* Width in pixels. Characters without a glyph are drawn as a small box. */
double dd_text_width(const char *text, double size);

/* x is the left end; baseline is the y of the letters' feet. Strong text is a little bolder. */
typedef struct dd_text_style {
    double size;
    dd_color color;
    int strong, vertical; /* vertical: turned left; x and baseline are then of the turned text's start (its lower end) */
} dd_text_style;
void dd_canvas_text(dd_canvas *c, double x, double baseline, const char *text, const dd_text_style *style);

#endif
