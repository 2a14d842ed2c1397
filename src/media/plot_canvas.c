#include "media/plot_canvas.h"

#include <math.h>

#include "media/plot_font.h"

enum { SPACE_COLUMNS = 3, GAP_COLUMNS = 1 };

static double clamp01(double x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

static void blend(dd_canvas *c, int x, int y, dd_color color, double opacity) {
    if (!(opacity > 0) || x < c->clip[0] || y < c->clip[1] || x >= c->clip[2] || y >= c->clip[3]) return;
    uint8_t *p = c->rgb + ((int64_t)y * c->width + x) * 3;
    const uint8_t to[3] = {color.red, color.green, color.blue};
    for (int i = 0; i < 3; i++) p[i] = (uint8_t)(p[i] + (to[i] - p[i]) * opacity + 0.5);
}

/* Pixels from floor(low) to ceil(high), cut to the clip, so that huge positions cost nothing and fit an int. */
typedef struct range {
    int begin, end;
} range;

static range pixels(const dd_canvas *c, int axis, double low, double high) {
    double begin = fmax(floor(low), c->clip[axis]), end = fmin(ceil(high), c->clip[axis + 2]);
    return begin < end ? (range){(int)begin, (int)end} : (range){0, 0};
}

void dd_canvas_fill(dd_canvas *c, double left, double top, double right, double bottom, dd_color color, double opacity) {
    range xs = pixels(c, 0, left, right), ys = pixels(c, 1, top, bottom);
    for (int y = ys.begin; y < ys.end; y++)
        for (int x = xs.begin; x < xs.end; x++) {
            double covered = (fmin(right, x + 1) - fmax(left, x)) * (fmin(bottom, y + 1) - fmax(top, y));
            blend(c, x, y, color, opacity * covered);
        }
}

void dd_canvas_disc(dd_canvas *c, double x, double y, double radius, dd_color color, double opacity) {
    range xs = pixels(c, 0, x - radius - 1, x + radius + 1), ys = pixels(c, 1, y - radius - 1, y + radius + 1);
    for (int j = ys.begin; j < ys.end; j++)
        for (int i = xs.begin; i < xs.end; i++)
            blend(c, i, j, color, opacity * clamp01(radius + 0.5 - hypot(i + 0.5 - x, j + 0.5 - y)));
}

/* Marks in the mask what a segment covers, unless another covers more. */
static void cover(dd_canvas *c, dd_point from, dd_point to, double width) {
    double dx = to.x - from.x, dy = to.y - from.y, square = dx * dx + dy * dy, reach = width / 2 + 1;
    range xs = pixels(c, 0, fmin(from.x, to.x) - reach, fmax(from.x, to.x) + reach);
    range ys = pixels(c, 1, fmin(from.y, to.y) - reach, fmax(from.y, to.y) + reach);
    for (int j = ys.begin; j < ys.end; j++)
        for (int i = xs.begin; i < xs.end; i++) {
            double px = i + 0.5 - from.x, py = j + 0.5 - from.y;
            double along = square > 0 ? clamp01((px * dx + py * dy) / square) : 0;
            double distance = hypot(px - along * dx, py - along * dy);
            uint8_t covered = (uint8_t)(255 * clamp01(width / 2 + 0.5 - distance) + 0.5);
            uint8_t *mask = c->mask + (int64_t)j * c->width + i;
            if (covered > *mask) *mask = covered;
        }
}

void dd_canvas_polyline(dd_canvas *c, const dd_point *points, size_t count, double width, dd_color color, double opacity) {
    for (size_t i = 0; i < count; i++) cover(c, points[i > 0 ? i - 1 : 0], points[i], width);
    for (int y = c->clip[1]; y < c->clip[3]; y++)
        for (int x = c->clip[0]; x < c->clip[2]; x++) {
            uint8_t *mask = c->mask + (int64_t)y * c->width + x;
            blend(c, x, y, color, opacity * *mask / 255);
            *mask = 0;
        }
}

static double dot(const dd_glyph *glyph, int column, int row) {
    if (column < 0 || row < 0 || column >= DD_GLYPH_COLUMNS || row >= DD_GLYPH_ROWS) return 0;
    return glyph->rows[row] >> (DD_GLYPH_COLUMNS - 1 - column) & 1;
}

/* How much of the pixel (x, y in dots) the glyph covers: the dots interpolated and cut at a half give round, even strokes. */
static double ink(const dd_glyph *glyph, double x, double y, double size, int strong) {
    double column = floor(x - 0.5), row = floor(y - 0.5), u = x - 0.5 - column, v = y - 0.5 - row;
    int i = (int)column, j = (int)row;
    double above = dot(glyph, i, j) * (1 - u) + dot(glyph, i + 1, j) * u;
    double below = dot(glyph, i, j + 1) * (1 - u) + dot(glyph, i + 1, j + 1) * u;
    double value = above * (1 - v) + below * v;
    return clamp01((value - (strong ? 0.34 : 0.46)) * size * 1.1 + 0.5);
}

static double advance(char c) { return (c == ' ' ? SPACE_COLUMNS : dd_glyph_width(dd_glyph_of(c)) + GAP_COLUMNS); }

double dd_text_width(const char *text, double size) {
    double columns = 0;
    for (; *text; text++) columns += advance(*text);
    return columns > 0 ? (columns - GAP_COLUMNS) * size : 0;
}

/* The rectangle in dots around the glyph, mapped to pixels; then each pixel back to dots. */
static void draw_glyph(dd_canvas *c, double x, double baseline, const dd_glyph *glyph, const dd_text_style *style) {
    double size = style->size, low_x = x - size, high_x = x + (DD_GLYPH_COLUMNS + 1) * size;
    double low_y = baseline - (DD_FONT_CAP + 1) * size, high_y = baseline + (DD_FONT_DESCENT + 1) * size;
    if (style->vertical) {
        low_x = x - (DD_FONT_CAP + 1) * size, high_x = x + (DD_FONT_DESCENT + 1) * size;
        low_y = baseline - (DD_GLYPH_COLUMNS + 1) * size, high_y = baseline + size;
    }
    range xs = pixels(c, 0, low_x, high_x), ys = pixels(c, 1, low_y, high_y);
    for (int j = ys.begin; j < ys.end; j++)
        for (int i = xs.begin; i < xs.end; i++) {
            double right = i + 0.5 - x, down = j + 0.5 - baseline;
            double along = style->vertical ? -down : right, over = style->vertical ? right : down;
            blend(c, i, j, style->color, ink(glyph, along / size, over / size + DD_FONT_CAP, size, style->strong));
        }
}

void dd_canvas_text(dd_canvas *c, double x, double baseline, const char *text, const dd_text_style *style) {
    for (; *text; text++) {
        if (*text != ' ') draw_glyph(c, x, baseline, dd_glyph_of(*text), style);
        if (style->vertical) baseline -= advance(*text) * style->size;
        else x += advance(*text) * style->size;
    }
}
