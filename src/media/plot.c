#include "media/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "media/plot_canvas.h"
#include "media/plot_font.h"

enum { MAX_SERIES = 4, MIN_WIDTH = 160, MIN_HEIGHT = 120, MAX_SIDE = 8192, MAX_TICKS = 64, TICK_TEXT = 24, MEAN_SHARE = 50 };

static const dd_color white = {255, 255, 255}, ink = {34, 40, 52}, soft_ink = {96, 104, 118}, axis_color = {150, 157, 168},
                      grid_color = {229, 232, 237}, minor_color = {243, 245, 247};
static const dd_color series_colors[MAX_SERIES] = {{31, 98, 200}, {226, 112, 20}, {32, 146, 90}, {156, 62, 178}};

/* ---------------------------------------------------------------------------------------------- axes */

/* Values low ... high lie at pixels begin ... end. */
typedef struct axis {
    double low, high, begin, end;
    bool logarithmic;
} axis;

typedef struct tick {
    double value;
    bool labelled;
} tick;

typedef struct tick_list {
    tick ticks[MAX_TICKS];
    int count;
} tick_list;

static double position(const axis *a, double value) {
    double share = a->logarithmic ? log(value / a->low) / log(a->high / a->low) : (value - a->low) / (a->high - a->low);
    return a->begin + share * (a->end - a->begin);
}

static void add_tick(tick_list *list, const axis *a, double value, bool labelled) {
    double slack = 1e-9 * (a->high - a->low);
    if (list->count < MAX_TICKS && value >= a->low - slack && value <= a->high + slack)
        list->ticks[list->count++] = (tick){value, labelled};
}

/* Multiples of 1, 2 or 5 times a power of ten, about `wanted` of them. */
static void linear_ticks(tick_list *list, const axis *a, int wanted) {
    double raw = (a->high - a->low) / wanted, power = pow(10, floor(log10(raw))), share = raw / power;
    double step = power * (share <= 1.0001 ? 1 : share <= 2.0001 ? 2 : share <= 5.0001 ? 5 : 10);
    double first = ceil(a->low / step - 1e-9);
    for (int k = 0; k < MAX_TICKS; k++) add_tick(list, a, (first + k) * step, true);
}

/* 1, 2, 5 per decade with the others as thin lines; powers of ten alone over many decades; within one decade as on a linear
 * axis, since there would be too few. */
static void log_ticks(tick_list *list, const axis *a, int wanted) {
    double decades = log10(a->high / a->low);
    if (decades < 1) {
        linear_ticks(list, a, wanted);
        return;
    }
    int every = 1 + (int)(decades / 10);
    for (double e = floor(log10(a->low)); e <= ceil(log10(a->high)); e++)
        for (int digit = 1; digit < (decades > 6 ? 2 : 10); digit++) {
            bool labelled = digit == 1 || (decades <= 3 && (digit == 2 || digit == 5));
            if (fmod(fabs(e), every) == 0) add_tick(list, a, digit * pow(10, e), labelled);
        }
}

static tick_list ticks_of(const axis *a, int wanted) {
    tick_list list = {.count = 0};
    if (a->logarithmic) log_ticks(&list, a, wanted);
    else linear_ticks(&list, a, wanted);
    return list;
}

static void print_tick(char text[TICK_TEXT], const axis *a, double value) {
    if (fabs(value) < 1e-9 * (a->high - a->low)) value = 0;
    snprintf(text, TICK_TEXT, "%.6g", value);
    for (char *c = text; *c; c++)
        if (*c == ',') *c = '.'; /* in some locales */
}

/* ---------------------------------------------------------------------------------------------- ranges */

/* NaN fails every comparison. The limits keep the arithmetic of the axes finite. */
static bool is_drawn(const dd_plot *plot, const dd_plot_series *s, size_t i) {
    return fabs(s->x[i]) < 1e100 && fabs(s->y[i]) < 1e100 && (!plot->log_y || s->y[i] > 1e-100);
}

static bool is_empty(const dd_plot *plot, const dd_plot_series *s) {
    for (size_t i = 0; i < s->count; i++)
        if (is_drawn(plot, s, i)) return false;
    return true;
}

static void widen(axis *a, double value) {
    if (value < a->low) a->low = value;
    if (value > a->high) a->high = value;
}

/* Room around the data, and some range where there is none. */
static void settle_x(axis *x) {
    if (x->low > x->high) *x = (axis){.low = 0, .high = 1};
    if (x->low > 0 && x->low < 0.1 * x->high) x->low = 0; /* steps begin at 1 */
    double margin = x->high > x->low ? 0 : 0.5 * fmax(1, fabs(x->high)); /* of a single place */
    x->low -= margin;
    x->high += margin;
}

static void settle_y(axis *y, bool logarithmic) {
    if (y->low > y->high) *y = (axis){.low = logarithmic ? 0.1 : 0, .high = 1};
    y->logarithmic = logarithmic;
    if (logarithmic) {
        double margin = pow(fmax(y->high / y->low, 1.1), 0.05);
        y->low /= margin;
        y->high *= margin;
    } else {
        double margin = fmax(0.05 * (y->high - y->low), 0.02 * fmax(fabs(y->high), 1e-6));
        y->low -= margin;
        y->high += margin;
    }
}

static void find_ranges(const dd_plot *plot, axis *x, axis *y) {
    *x = *y = (axis){.low = INFINITY, .high = -INFINITY};
    for (int k = 0; k < plot->series_count; k++)
        for (size_t i = 0; i < plot->series[k].count; i++)
            if (is_drawn(plot, &plot->series[k], i)) {
                widen(x, plot->series[k].x[i]);
                widen(y, plot->series[k].y[i]);
            }
    settle_x(x);
    settle_y(y, plot->log_y);
}

/* ---------------------------------------------------------------------------------------------- frame */

/* Sizes in pixels follow the picture's: dot is one dot of the small font. */
typedef struct drawing {
    const dd_plot *plot;
    dd_canvas canvas;
    double dot;
    axis x, y;
} drawing;

static dd_text_style style(const drawing *d, dd_color color) { return (dd_text_style){.size = d->dot, .color = color}; }

static void place_axes(drawing *d) {
    char text[TICK_TEXT];
    double widest = 0;
    d->y.begin = d->plot->height - 30 * d->dot;
    d->y.end = 27 * d->dot;
    tick_list ticks = ticks_of(&d->y, 6);
    for (int i = 0; i < ticks.count; i++) {
        if (!ticks.ticks[i].labelled) continue;
        print_tick(text, &d->y, ticks.ticks[i].value);
        widest = fmax(widest, dd_text_width(text, d->dot));
    }
    d->x.begin = floor(widest + (d->plot->y_label ? 25 : 13) * d->dot);
    d->x.end = d->plot->width - 12 * d->dot;
    d->y.begin = floor(d->y.begin);
    d->y.end = floor(d->y.end);
}

static void draw_y_ticks(drawing *d) {
    tick_list ticks = ticks_of(&d->y, 6);
    dd_text_style text_style = style(d, soft_ink);
    double last = INFINITY, thin = fmax(1, 0.6 * d->dot);
    for (int minor = 1; minor >= 0; minor--)
        for (int i = 0; i < ticks.count; i++) {
            double y = round(position(&d->y, ticks.ticks[i].value));
            char text[TICK_TEXT];
            if (ticks.ticks[i].labelled == (minor == 1)) continue;
            dd_canvas_fill(&d->canvas, d->x.begin, y, d->x.end, y + thin, minor ? minor_color : grid_color, 1);
            if (minor || last - y < 10 * d->dot) continue;
            print_tick(text, &d->y, ticks.ticks[i].value);
            double left = d->x.begin - 5 * d->dot - dd_text_width(text, d->dot);
            dd_canvas_text(&d->canvas, left, y + 3.5 * d->dot, text, &text_style);
            last = y;
        }
}

static void draw_x_ticks(drawing *d) {
    tick_list ticks = ticks_of(&d->x, (int)fmax(2, (d->x.end - d->x.begin) / (50 * d->dot)));
    dd_text_style text_style = style(d, soft_ink);
    double last = -INFINITY, thin = fmax(1, 0.6 * d->dot);
    for (int i = 0; i < ticks.count; i++) {
        char text[TICK_TEXT];
        double x = round(position(&d->x, ticks.ticks[i].value));
        print_tick(text, &d->x, ticks.ticks[i].value);
        double half = dd_text_width(text, d->dot) / 2, left = fmin(x - half, d->plot->width - 2 * half - 2 * d->dot);
        dd_canvas_fill(&d->canvas, x, d->y.begin, x + thin, d->y.begin + 3 * d->dot, axis_color, 1);
        if (left < last + 6 * d->dot) continue;
        dd_canvas_text(&d->canvas, left, d->y.begin + 14 * d->dot, text, &text_style);
        last = left + 2 * half;
    }
}

static void draw_labels(drawing *d) {
    dd_text_style title = {.size = 1.3 * d->dot, .color = ink, .strong = 1}, label = style(d, ink);
    const dd_plot *p = d->plot;
    if (p->title) dd_canvas_text(&d->canvas, d->x.begin, 16.5 * d->dot, p->title, &title);
    if (p->x_label) {
        double middle = (d->x.begin + d->x.end) / 2 - dd_text_width(p->x_label, d->dot) / 2;
        dd_canvas_text(&d->canvas, middle, p->height - 4.5 * d->dot, p->x_label, &label);
    }
    if (p->y_label) {
        double middle = (d->y.begin + d->y.end) / 2 + dd_text_width(p->y_label, d->dot) / 2;
        label.vertical = 1;
        dd_canvas_text(&d->canvas, 11.5 * d->dot, middle, p->y_label, &label);
    }
}

/* In the line of the title, from the right, so that it never lies on the data. */
static void draw_legend(drawing *d) {
    dd_text_style text_style = style(d, ink);
    double x = d->x.end;
    for (int k = d->plot->series_count - 1; k >= 0; k--) {
        const dd_plot_series *s = &d->plot->series[k];
        if (!s->label || is_empty(d->plot, s)) continue;
        double y = 16.5 * d->dot;
        x -= dd_text_width(s->label, d->dot);
        dd_canvas_text(&d->canvas, x, y, s->label, &text_style);
        x -= 18 * d->dot;
        const dd_point line[2] = {{x, y - 3.5 * d->dot}, {x + 13 * d->dot, y - 3.5 * d->dot}};
        dd_canvas_disc(&d->canvas, x + 6.5 * d->dot, y - 3.5 * d->dot, 3 * d->dot, series_colors[k], 0.22);
        dd_canvas_polyline(&d->canvas, line, 2, 1.4 * d->dot, series_colors[k], 1);
        x -= 14 * d->dot;
    }
}

static void draw_frame(drawing *d) {
    double thin = fmax(1, 0.6 * d->dot);
    dd_canvas_fill(&d->canvas, 0, 0, d->plot->width, d->plot->height, white, 1);
    draw_y_ticks(d);
    draw_x_ticks(d);
    dd_canvas_fill(&d->canvas, d->x.begin, d->y.begin, d->x.end, d->y.begin + thin, axis_color, 1);
    draw_labels(d);
    draw_legend(d);
}

/* ---------------------------------------------------------------------------------------------- data */

/* More points are drawn smaller and paler, so that a cloud keeps its shape. */
static void draw_points(drawing *d, const dd_plot_series *s, size_t count, dd_color color) {
    double crowd = (double)count / fmax(1, d->x.end - d->x.begin);
    double opacity = fmin(0.4, fmax(0.05, 0.3 / sqrt(crowd))), radius = d->dot * fmin(2.4, fmax(0.8, 1 / sqrt(crowd)));
    for (size_t i = 0; i < s->count; i++)
        if (is_drawn(d->plot, s, i))
            dd_canvas_disc(&d->canvas, position(&d->x, s->x[i]), position(&d->y, s->y[i]), radius, color, opacity);
}

/* points[count] are the drawn values; sums[count + 1] their running sum. The window is narrower at the beginning, where the
 * curve is steep, and cut at the end, where it is flat and noise would show. */
static void draw_mean(drawing *d, dd_point *points, const double *sums, size_t count, dd_color color) {
    size_t half = count / MEAN_SHARE;
    for (size_t i = 0; i < count; i++) {
        size_t begin = i > half ? i - half : 0, ahead = i - begin > half / 3 ? i - begin : half / 3;
        size_t end = i + ahead + 1 < count ? i + ahead + 1 : count;
        double mean = (sums[end] - sums[begin]) / (double)(end - begin);
        points[i].x = position(&d->x, points[i].x);
        points[i].y = position(&d->y, fmax(mean, d->y.logarithmic ? d->y.low : mean));
    }
    dd_canvas_polyline(&d->canvas, points, count, 1.4 * d->dot, color, 1);
}

static ddit_status draw_series(drawing *d, const dd_plot_series *s, dd_color color, const dd_allocator *a, ddit_err *err) {
    dd_point *points = NULL;
    double *sums = NULL;
    size_t count = 0;
    ddit_status status;
    DD_GO(dd_alloc_raw(a, &points, s->count + 1, sizeof *points, "a plot", err));
    DD_GO(dd_alloc_raw(a, &sums, s->count + 1, sizeof *sums, "a plot", err));
    sums[0] = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (!is_drawn(d->plot, s, i)) continue;
        points[count] = (dd_point){s->x[i], s->y[i]};
        sums[count + 1] = sums[count] + s->y[i];
        count++;
    }
    draw_points(d, s, count, color);
    draw_mean(d, points, sums, count, color);
done:
    dd_free(a, points);
    dd_free(a, sums);
    return status;
}

static ddit_status check(const dd_plot *plot, ddit_err *err) {
    if (plot->width < MIN_WIDTH || plot->height < MIN_HEIGHT || plot->width > MAX_SIDE || plot->height > MAX_SIDE)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "found a plot of %d x %d pixels, expected %d x %d to %d x %d", plot->width,
                       plot->height, (int)MIN_WIDTH, (int)MIN_HEIGHT, (int)MAX_SIDE, (int)MAX_SIDE);
    if (plot->series_count < 0 || plot->series_count > MAX_SERIES)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "found %d series to plot, expected 0 to %d", plot->series_count,
                       (int)MAX_SERIES);
    return DDIT_OK;
}

ddit_status dd_plot_draw(const dd_plot *plot, const dd_allocator *a, uint8_t *rgb, ddit_err *err) {
    ddit_status status = DDIT_OK;
    drawing d = {.plot = plot, .canvas = {rgb, plot->width, plot->height, {0, 0, plot->width, plot->height}, NULL}};
    DD_TRY(check(plot, err));
    DD_TRY(dd_alloc(a, &d.canvas.mask, (size_t)plot->width * (size_t)plot->height, 1, "a plot", err));
    d.dot = fmax(1, fmin(plot->width / 600.0, plot->height / 340.0));
    find_ranges(plot, &d.x, &d.y);
    place_axes(&d);
    draw_frame(&d);
    d.canvas.clip[0] = (int)d.x.begin;
    d.canvas.clip[1] = (int)(d.y.end - 2 * d.dot);
    d.canvas.clip[2] = (int)(d.x.end + 2 * d.dot);
    d.canvas.clip[3] = (int)d.y.begin;
    for (int k = 0; k < plot->series_count; k++)
        if (!is_empty(plot, &plot->series[k])) DD_GO(draw_series(&d, &plot->series[k], series_colors[k], a, err));
done:
    dd_free(a, d.canvas.mask);
    return status;
}
