#include "status_line.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { DEFAULT_COLUMNS = 80 };

void status_line_init(status_line *line, bool quiet, bool verbose) {
    *line = (status_line){.in_place = !quiet && !verbose && isatty(STDERR_FILENO)};
}

static int columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return DEFAULT_COLUMNS;
}

void status_line_draw(status_line *line, const char *text) {
    fprintf(stderr, "\r%.*s\033[K", columns() - 1, text);
    fflush(stderr);
    line->open = true;
}

void status_line_clear(status_line *line) {
    if (line->in_place && line->open) fputs("\r\033[K", stderr);
    fflush(stderr);
    line->open = false;
}

const char *status_line_bar(int64_t done, int64_t all, int width, char *out) {
    int filled = all > 0 ? (int)(done * width / all) : 0;
    for (int i = 0; i < width; i++) out[i] = i < filled ? '=' : i == filled ? '>' : ' ';
    out[width] = '\0';
    return out;
}

const char *bytes_text(uint64_t bytes, char *out, size_t size) {
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1000 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(out, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

const char *rate_text(double rate, char *out, size_t size) {
    snprintf(out, size, "%.*f", rate < 10 ? 2 : rate < 100 ? 1 : 0, rate);
    return out;
}
