#include "train_line.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "interrupt.h"

enum { LINE_SIZE = 200, BAR = 16, NAME_WIDTH = 44, PLAIN_STEPS = 50, AVERAGED_STEPS = 50 };

static const double PLAIN_SECONDS = 10;
static const char *const kinds[TRAIN_LINE_KINDS] = {"x1", "x2", "x4", "mixed"};

void train_line_init(train_line *line, const char *device, bool quiet, bool verbose) {
    *line = (train_line){.device = device, .quiet = quiet, .per_step = verbose && !quiet};
    status_line_init(&line->shown, quiet, verbose);
}

void train_line_clear(train_line *line) { status_line_clear(&line->shown); }

/* ---------------------------------------------------------------------------------------------- the line */

/* Is it time for another plain line? Always where a phase begins. */
static bool is_due(train_line *line, const ddit_train_progress *p) {
    double now = seconds_now();
    bool begins = strcmp(line->phase, p->phase) != 0;
    if (!begins && now - line->shown_at < PLAIN_SECONDS && p->step - line->shown_step < PLAIN_STEPS && p->step < p->steps)
        return false;
    snprintf(line->phase, sizeof line->phase, "%s", p->phase);
    line->shown_at = now;
    line->shown_step = p->step;
    return true;
}

/* ---------------------------------------------------------------------------------------------- parts of a line */

/* "  40 s left", "" if not known. */
static const char *left_text(double seconds, char *out, size_t size) {
    if (!(seconds >= 0)) out[0] = '\0';
    else if (seconds < 90) snprintf(out, size, "  %.0f s left", seconds);
    else if (seconds < 90 * 60) snprintf(out, size, "  %.0f min left", seconds / 60);
    else snprintf(out, size, "  %.1f h left", seconds / 3600);
    return out;
}

/* "x2 0.0123  x4 0.0456" for the losses that are there. */
static const char *loss_text(const double *loss, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int k = 0; k < TRAIN_LINE_KINDS; k++) {
        if (isnan(loss[k])) continue;
        int wrote = snprintf(out + used, size - used, "%s%s %.4g", used ? "  " : "", kinds[k], loss[k]);
        if (wrote < 0 || (size_t)wrote >= size - used) break;
        used += (size_t)wrote;
    }
    return out;
}

/* Losses of single steps jump: what is shown is their average, over all steps first and the last ones later. */
static void average(train_line *line, const ddit_train_progress *p, double *shown) {
    for (int k = 0; k < TRAIN_LINE_KINDS; k++) {
        if (!isnan(p->loss[k])) {
            if (line->seen[k] < AVERAGED_STEPS) line->seen[k]++;
            line->mean[k] += (p->loss[k] - line->mean[k]) / line->seen[k];
        }
        shown[k] = line->seen[k] > 0 ? line->mean[k] : NAN;
    }
}

/* ---------------------------------------------------------------------------------------------- the phases */

/* The plan's lines "what: bytes", and their sum. */
static void print_plan(const train_line *line, const ddit_train_progress *p) {
    char bytes[32];
    fprintf(stderr, "device    %s\n", line->device);
    fprintf(stderr, "memory    %s:\n", bytes_text(p->bytes, bytes, sizeof bytes));
    for (const char *at = p->text; at && *at;) {
        size_t length = strcspn(at, "\n"), name = length;
        while (name > 0 && at[name] != ':') name--;
        uint64_t value = 0;
        if (name > 0 && sscanf(at + name + 1, "%" SCNu64, &value) == 1)
            fprintf(stderr, "  %-*.*s%12s\n", NAME_WIDTH, (int)name, at, bytes_text(value, bytes, sizeof bytes));
        at += length + (at[length] == '\n');
    }
}

static void show_data(train_line *line, const ddit_train_progress *p) {
    char text[LINE_SIZE], left[32], bar[BAR + 1];
    left_text(p->seconds_left, left, sizeof left);
    if (line->shown.in_place) {
        snprintf(text, sizeof text, "data [%s] %" PRId64 "/%" PRId64 "%s", status_line_bar(p->step, p->steps, BAR, bar),
                 p->step, p->steps, left);
        status_line_draw(&line->shown, text);
    } else if (is_due(line, p)) fprintf(stderr, "data      %" PRId64 "/%" PRId64 "%s\n", p->step, p->steps, left);
}

static void show_train(train_line *line, const ddit_train_progress *p) {
    char text[LINE_SIZE], left[32], loss[120], rate[32];
    double shown[TRAIN_LINE_KINDS];
    average(line, p, shown);
    left_text(p->seconds_left, left, sizeof left);
    rate_text(p->samples_per_second, rate, sizeof rate);
    if (line->shown.in_place) {
        snprintf(text, sizeof text, "step %" PRId64 "/%" PRId64 "  loss %s  %s samples/s%s", p->step, p->steps,
                 loss_text(shown, loss, sizeof loss), rate, left);
        status_line_draw(&line->shown, text); /* no bar: these numbers fill 80 columns */
    } else if (line->per_step) {
        fprintf(stderr, "step %" PRId64 "/%" PRId64 "  loss %s  gradient %.3g  lr %.3g  %s samples/s  %.1f s\n", p->step,
                p->steps, loss_text(p->loss, loss, sizeof loss), p->gradient_norm, p->lr, rate, p->seconds);
    } else if (is_due(line, p))
        fprintf(stderr, "step %" PRId64 "/%" PRId64 "  loss %s  %s samples/s%s\n", p->step, p->steps,
                loss_text(shown, loss, sizeof loss), rate, left);
}

/* Phases without a count on the way: what was written, what was measured, or that something goes on. */
static void show_other(train_line *line, const ddit_train_progress *p) {
    char text[LINE_SIZE], loss[120];
    bool saves = strcmp(p->phase, "save") == 0, samples = strcmp(p->phase, "sample") == 0;
    loss_text(p->loss, loss, sizeof loss);
    if ((saves || samples) && p->text) {
        train_line_clear(line);
        fprintf(stderr, "%-10s%s\n", saves ? "saved" : "sample", p->text);
    } else if (strcmp(p->phase, "evaluate") == 0 && loss[0]) {
        train_line_clear(line);
        fprintf(stderr, "held-out  %s\n", loss);
    } else if (line->shown.in_place) {
        snprintf(text, sizeof text, "%s ...", p->phase);
        status_line_draw(&line->shown, text);
    }
}

static void show(train_line *line, const ddit_train_progress *p) {
    if (strcmp(p->phase, "plan") == 0) print_plan(line, p);
    else if (strcmp(p->phase, "data") == 0) show_data(line, p);
    else if (strcmp(p->phase, "train") == 0) show_train(line, p);
    else show_other(line, p);
}

/* Ctrl-C is answered at once: the step and the saving may take a while. */
static int answer_interrupt(train_line *line) {
    if (!interrupt_asked()) return 0;
    if (!line->stopping && !line->quiet) {
        train_line_clear(line);
        fputs("stopping: what was trained is saved; Ctrl-C once more ends at once, without saving\n", stderr);
    }
    line->stopping = true;
    return 1;
}

int train_line_update(void *user, const ddit_train_progress *p) {
    train_line *line = user;
    if (strcmp(p->phase, "train") == 0) line->step = p->step;
    if (strcmp(p->phase, "save") == 0 && p->text) snprintf(line->saved, sizeof line->saved, "%s", p->text);
    if (!line->quiet) show(line, p);
    return answer_interrupt(line);
}
