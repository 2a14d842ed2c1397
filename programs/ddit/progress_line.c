#include "progress_line.h"

#include <stdio.h>

#include "interrupt.h"

enum { LINE_SIZE = 160, BAR = 20 };

void progress_line_init(progress_line *line, bool quiet, bool verbose, int pictures) {
    *line = (progress_line){.per_step = verbose && !quiet, .pictures = pictures};
    status_line_init(&line->shown, quiet, verbose);
}

void progress_line_clear(progress_line *line) { status_line_clear(&line->shown); }

/* "factor 2", or "mixed 128+20+4 cells" for factors 1, 2, 4. */
static void describe_layout(const ddit_progress *p, char *out, size_t size) {
    static const int factors[] = {1, 2, 4};
    for (int f = 0; f < 3; f++)
        if (p->cells[f] > 0 && p->cells[(f + 1) % 3] == 0 && p->cells[(f + 2) % 3] == 0) {
            snprintf(out, size, "factor %d", factors[f]);
            return;
        }
    snprintf(out, size, "mixed %d+%d+%d cells", p->cells[0], p->cells[1], p->cells[2]);
}

static void describe_picture(const progress_line *line, char *out, size_t size) {
    if (line->pictures > 1) snprintf(out, size, "picture %d/%d  ", line->picture + 1, line->pictures);
    else out[0] = '\0';
}

static void draw_step(progress_line *line, const ddit_progress *p) {
    char text[LINE_SIZE], layout[48], picture[48], bar[BAR + 1];
    describe_layout(p, layout, sizeof layout);
    describe_picture(line, picture, sizeof picture);
    snprintf(text, sizeof text, "%sdenoise [%s] step %d/%d  %s  %d+%d tokens  %.1f s left", picture,
             status_line_bar(p->step, p->steps, BAR, bar), p->step, p->steps, layout, p->text_tokens, p->image_tokens,
             p->seconds_left);
    status_line_draw(&line->shown, text);
}

static void print_step(const progress_line *line, const ddit_progress *p) {
    char layout[48], picture[48];
    describe_layout(p, layout, sizeof layout);
    describe_picture(line, picture, sizeof picture);
    fprintf(stderr, "%sstep %*d/%d  sigma %.4f  %s  %d text + %d image tokens  %.3f s\n", picture, p->steps > 99 ? 4 : 2,
            p->step, p->steps, (double)p->sigma, layout, p->text_tokens, p->image_tokens, p->seconds);
}

void progress_line_phase(progress_line *line, const char *phase) {
    char text[LINE_SIZE], picture[48];
    if (!line->shown.in_place) return;
    describe_picture(line, picture, sizeof picture);
    snprintf(text, sizeof text, "%s%s ...", picture, phase);
    status_line_draw(&line->shown, text);
}

int progress_line_update(void *user, const ddit_progress *p) {
    progress_line *line = user;
    if (p->steps == 0) progress_line_phase(line, p->phase);
    else if (line->shown.in_place) draw_step(line, p);
    else if (line->per_step) print_step(line, p);
    return interrupt_asked();
}
