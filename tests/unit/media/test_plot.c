#include "media/plot.h"

#include "harness.h"
#include "media/plot_font.h"

enum { WIDTH = 480, HEIGHT = 300, COUNT = 400, BYTES = WIDTH * HEIGHT * 3 };

/* Two falling curves with noise; the second has holes. */
typedef struct sample {
    double x[COUNT], y[2][COUNT];
    dd_plot_series series[2];
    dd_plot plot;
} sample;

static void sample_init(sample *s) {
    uint64_t seed = 8;
    for (int i = 0; i < COUNT; i++) {
        s->x[i] = i + 1;
        s->y[0][i] = exp(-i / 100.0) + 0.1 + 0.05 * (double)dd_test_random(&seed);
        s->y[1][i] = i % 3 ? 2 * s->y[0][i] : (double)NAN;
    }
    for (int k = 0; k < 2; k++) s->series[k] = (dd_plot_series){k ? "factor 4" : "factor 2", s->x, s->y[k], COUNT};
    s->plot = (dd_plot){"Losses of a run", "step", "loss", s->series, 2, true, WIDTH, HEIGHT};
}

static const uint8_t colors[2][3] = {{31, 98, 200}, {226, 112, 20}};

/* Nearly the colour of the mean line; points are much paler. */
static bool is_color(const uint8_t *pixel, int series) {
    int difference = 0;
    for (int i = 0; i < 3; i++) difference += abs(pixel[i] - colors[series][i]);
    return difference < 150;
}

static int pixels_of(const uint8_t *rgb, int series) {
    int count = 0;
    for (int i = 0; i < WIDTH * HEIGHT; i++) count += is_color(rgb + (ptrdiff_t)i * 3, series);
    return count;
}

static void draws_both_series(dd_test *t) {
    static uint8_t rgb[BYTES + 3], again[BYTES];
    sample s;
    sample_init(&s);
    memset(rgb, 0x77, sizeof rgb);
    DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
    DD_CHECK(t, rgb[BYTES] == 0x77); /* nothing behind the picture */
    for (int corner = 0; corner < 4; corner++) {
        const uint8_t *pixel = rgb + ((corner / 2) * (HEIGHT - 1) * WIDTH + (corner % 2) * (WIDTH - 1)) * 3;
        DD_CHECK(t, pixel[0] == 255 && pixel[1] == 255 && pixel[2] == 255);
    }
    DD_CHECK(t, pixels_of(rgb, 0) > 300 && pixels_of(rgb, 1) > 300);
    /* the mean lines fall: higher on the left than on the right, the second above the first */
    for (int series = 0; series < 2; series++) {
        int rows[2] = {-1, -1};
        for (int side = 0; side < 2; side++)
            for (int y = HEIGHT - 1; y > HEIGHT / 8; y--)
                if (is_color(rgb + (y * WIDTH + (side ? WIDTH - 30 : 100)) * 3, series)) rows[side] = y;
        DD_CHECK(t, rows[0] > 0 && rows[1] > rows[0] + 30);
    }
    DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, again, &t->err));
    DD_CHECK(t, memcmp(rgb, again, BYTES) == 0);
}

/* A constant: the line lies in one row, in the middle. */
static void constant(dd_test *t) {
    static uint8_t rgb[BYTES];
    sample s;
    sample_init(&s);
    for (int log_y = 0; log_y < 2; log_y++) {
        for (int i = 0; i < COUNT; i++) s.y[0][i] = 0.25;
        s.plot.series_count = 1;
        s.plot.log_y = log_y;
        DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
        int first = -1, last = -1;
        for (int y = HEIGHT / 8; y < HEIGHT; y++)
            if (is_color(rgb + (y * WIDTH + WIDTH / 2) * 3, 0)) {
                if (first < 0) first = y;
                last = y;
            }
        DD_CHECK(t, first > HEIGHT / 3 && last < 2 * HEIGHT / 3 && last - first < 5);
    }
}

static void leaves_out_empty_series(dd_test *t) {
    static uint8_t rgb[BYTES];
    sample s;
    sample_init(&s);
    for (int i = 0; i < COUNT; i++) s.y[1][i] = i % 2 ? -1 : (double)NAN; /* none that a logarithmic axis has */
    DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
    DD_CHECK(t, pixels_of(rgb, 0) > 300 && pixels_of(rgb, 1) == 0);
    s.plot.log_y = false;
    DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
    DD_CHECK(t, pixels_of(rgb, 1) > 300);
    s.plot.series_count = 0;
    s.plot.title = s.plot.x_label = s.plot.y_label = NULL;
    DD_NEED_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
    DD_CHECK(t, pixels_of(rgb, 0) == 0);
}

/* Whatever the numbers: it ends, and the sanitizers find nothing. */
static void strange_numbers(dd_test *t) {
    static const double values[] = {0,     -1,     NAN,   INFINITY, -INFINITY, 1e308, -1e308, 5e-324, 1e-99, 1e99,
                                    1e15,  1e15 + 1, 1e20, 1.0000000000000002e20, 1, 1 + 1e-15, 0.1, 3};
    enum { VALUES = sizeof values / sizeof *values };
    static uint8_t rgb[160 * 120 * 3];
    for (int i = 0; i < VALUES; i++)
        for (int j = 0; j < VALUES; j++)
            for (int mode = 0; mode < 4; mode++) {
                const double pair[2] = {values[i], values[j]}, steps[2] = {1, 2};
                dd_plot_series s = {"a", mode & 1 ? pair : steps, mode & 1 ? steps : pair, 2};
                dd_plot plot = {"title", "x", "y", &s, 1, mode & 2, 160, 120};
                DD_OK(t, dd_plot_draw(&plot, &dd_allocator_libc, rgb, &t->err));
            }
}

static void all_characters(dd_test *t) {
    static uint8_t rgb[BYTES];
    char text[256];
    sample s;
    sample_init(&s);
    for (int i = 0; i < 255; i++) text[i] = (char)(i + 1);
    text[255] = '\0';
    s.plot.title = s.plot.x_label = s.plot.y_label = s.series[0].label = text;
    DD_OK(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err));
    /* every letter that labels need has a glyph of its own */
    static const char needed[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,-+_()/:=%";
    const dd_glyph *box = dd_glyph_of('\1');
    for (const char *c = needed; *c; c++) {
        DD_CHECK(t, dd_glyph_of(*c) != box && dd_glyph_width(dd_glyph_of(*c)) >= 1);
        for (const char *other = needed; other < c; other++)
            DD_CHECK(t, memcmp(dd_glyph_of(*c)->rows, dd_glyph_of(*other)->rows, DD_GLYPH_ROWS) != 0 ||
                            (*c == 'O' && *other == '0'));
    }
}

static void refuses(dd_test *t) {
    static uint8_t rgb[BYTES];
    sample s;
    sample_init(&s);
    s.plot.width = 100;
    DD_FAILS(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err), DDIT_ERR_ARGUMENT, "100 x 300");
    s.plot.width = 100000;
    DD_FAILS(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err), DDIT_ERR_ARGUMENT, "100000");
    s.plot.width = WIDTH;
    s.plot.series_count = 5;
    DD_FAILS(t, dd_plot_draw(&s.plot, &dd_allocator_libc, rgb, &t->err), DDIT_ERR_ARGUMENT, "5 series");
}

static void memory(dd_test *t) {
    static uint8_t rgb[BYTES];
    sample s;
    sample_init(&s);
    ddit_status status = DDIT_ERR_NO_MEMORY;
    for (size_t n = 1; status != DDIT_OK && n < 20; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        status = dd_plot_draw(&s.plot, &a.allocator, rgb, &t->err);
        DD_CHECK(t, (status == DDIT_OK || status == DDIT_ERR_NO_MEMORY) && a.live == 0);
    }
    DD_CHECK(t, status == DDIT_OK);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"draws both series", draws_both_series},
        {"constant", constant},
        {"leaves out empty series", leaves_out_empty_series},
        {"strange numbers", strange_numbers},
        {"all characters", all_characters},
        {"refuses", refuses},
        {"memory", memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
