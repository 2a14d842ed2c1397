#include "train/loss_log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mapped_file.h"
#include "base/number_text.h"

enum { LINE_SIZE = 256, COLUMNS = 5, MAX_BYTES = 1 << 30 };

static const char header[] = "step,seconds,loss_x2,loss_x4,lr\n";

/* ---------------------------------------------------------------------------------------------- one line */

/* NaN as an empty field. Returns the end. */
static char *print_number(char *at, double x) { return isnan(x) ? at : at + dd_number_text(at, x); }

static size_t print_row(char line[LINE_SIZE], const dd_loss_row *row) {
    const double numbers[COLUMNS - 1] = {row->seconds, row->loss_x2, row->loss_x4, row->lr};
    char *at = line + snprintf(line, LINE_SIZE, "%lld", (long long)row->step);
    for (int i = 0; i < COLUMNS - 1; i++) {
        *at++ = ',';
        at = print_number(at, numbers[i]);
    }
    *at++ = '\n';
    return (size_t)(at - line);
}

/* Reads digits, point, exponent as print_number writes them; an empty field is NaN. The values serve the loss picture: the file
 * itself keeps its text, so rounding in the last digit is harmless. */
static bool scan_number(const char **at, const char *end, double *value) {
    double mantissa = 0, sign = 1;
    int exponent = 0, digits = 0;
    const char *c = *at;
    *value = NAN; /* of an empty field */
    if (c == end || *c == ',') return true;
    if (*c == '-') sign = -1, c++;
    if (end - c >= 3 && strncmp(c, "inf", 3) == 0) {
        *value = sign * INFINITY;
        *at = c + 3;
        return true;
    }
    for (; c < end && *c >= '0' && *c <= '9'; c++, digits++) mantissa = mantissa * 10 + (*c - '0');
    if (c < end && *c == '.')
        for (c++; c < end && *c >= '0' && *c <= '9'; c++, digits++, exponent--) mantissa = mantissa * 10 + (*c - '0');
    if (digits == 0) return false;
    if (c < end && *c == 'e') {
        int power = 0, minus = ++c < end && *c == '-';
        if (c < end && (*c == '-' || *c == '+')) c++;
        if (c == end || *c < '0' || *c > '9') return false;
        for (; c < end && *c >= '0' && *c <= '9'; c++) power = power < 1000 ? power * 10 + (*c - '0') : power;
        exponent += minus ? -power : power;
    }
    *value = sign * mantissa * pow(10, exponent);
    *at = c;
    return true;
}

/* line..end without the line feed. */
static bool scan_row(const char *line, const char *end, dd_loss_row *row) {
    double numbers[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) {
        if (i > 0 && (line == end || *line++ != ',')) return false;
        if (!scan_number(&line, end, &numbers[i])) return false;
    }
    *row = (dd_loss_row){0, numbers[1], numbers[2], numbers[3], numbers[4]};
    if (line != end || !(numbers[0] >= 1 && numbers[0] < 0x1p53) || numbers[0] != floor(numbers[0])) return false;
    row->step = (int64_t)numbers[0];
    return true;
}

/* ---------------------------------------------------------------------------------------------- the rows */

static ddit_status keep_row(dd_loss_log *log, const dd_loss_row *row, ddit_err *err) {
    if (log->count == log->room) {
        dd_loss_row *more;
        size_t room = log->room ? 2 * log->room : 256;
        DD_TRY(dd_alloc_raw(log->allocator, &more, room, sizeof *more, "the losses", err));
        if (log->count) memcpy(more, log->rows, log->count * sizeof *more);
        dd_free(log->allocator, log->rows);
        log->rows = more;
        log->room = room;
    }
    log->rows[log->count++] = *row;
    return DDIT_OK;
}

/* Reads the rows up to last_step. *kept: bytes of the file that stay: the header and these rows. A last line without its end,
 * or with a wrong one, was not finished; a wrong line elsewhere is somebody else's. */
static ddit_status read_rows(dd_loss_log *log, const char *data, size_t size, int64_t last_step, size_t *kept, ddit_err *err) {
    size_t length = sizeof header - 1, at = length;
    *kept = 0;
    if (size < length && memcmp(data, header, size) == 0) return DDIT_OK;
    if (size < length || memcmp(data, header, length) != 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found another first line than \"%.*s\": it is no log of losses; move it away",
                       log->path, (int)length - 1, header);
    *kept = length;
    if (last_step <= 0) return DDIT_OK;
    for (int number = 2; at < size; number++) {
        const char *line = data + at, *end = memchr(line, '\n', size - at);
        dd_loss_row row;
        if (!end) return DDIT_OK;
        bool good = scan_row(line, end, &row) && (log->count == 0 || row.step > log->rows[log->count - 1].step);
        at = (size_t)(end - data) + 1;
        if (!good && at == size) return DDIT_OK;
        if (!good)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s, line %d: found no row of step,seconds,loss_x2,loss_x4,lr with a later step than before: repair "
                           "it or move it away",
                           log->path, number);
        if (row.step > last_step) return DDIT_OK;
        DD_TRY(keep_row(log, &row, err));
        *kept = at;
    }
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- the file */

static ddit_status cannot_write(const dd_loss_log *log, ddit_err *err) {
    return dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s", log->path, strerror(errno ? errno : EIO));
}

/* One write for a whole line; what arrived of a line that does not fit is taken back. */
static ddit_status write_line(dd_loss_log *log, const char *line, size_t length, ddit_err *err) {
    int fd = fileno(log->stream);
    struct stat before;
    errno = 0;
    if (fstat(fd, &before) != 0) return cannot_write(log, err);
    if (fwrite(line, 1, length, log->stream) == length) return DDIT_OK;
    ddit_status status = cannot_write(log, err);
    clearerr(log->stream);
    if (ftruncate(fd, before.st_size) != 0) return status; /* the next start drops the torn line */
    return status;
}

static ddit_status open_stream(dd_loss_log *log, ddit_err *err) {
    int fd = open(log->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: its folder does not exist; make it first", log->path);
    if (fd < 0) return cannot_write(log, err);
    log->stream = fdopen(fd, "ab");
    if (!log->stream) {
        close(fd);
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: cannot be opened: %s", log->path, strerror(errno));
    }
    setvbuf(log->stream, NULL, _IONBF, 0);
    return DDIT_OK;
}

ddit_status dd_loss_log_open(dd_loss_log *log, const dd_allocator *a, const char *folder, int64_t last_step, ddit_err *err) {
    ddit_status status;
    char *data = NULL;
    size_t size = 0, kept = 0, length = strlen(folder) + sizeof "/loss.csv";
    *log = (dd_loss_log){.allocator = a};
    DD_GO(dd_alloc_raw(a, &log->path, length, 1, "a file name", err));
    snprintf(log->path, length, "%s/loss.csv", folder);
    DD_GO(open_stream(log, err));
    DD_GO(dd_read_file(a, log->path, MAX_BYTES, &data, &size, err));
    DD_GO(read_rows(log, data, size, last_step, &kept, err));
    if (kept < size && ftruncate(fileno(log->stream), (off_t)kept) != 0) DD_GO(cannot_write(log, err));
    if (kept == 0) DD_GO(write_line(log, header, sizeof header - 1, err));
done:
    dd_free(a, data);
    if (status != DDIT_OK) dd_loss_log_close(log);
    return status;
}

ddit_status dd_loss_log_add(dd_loss_log *log, const dd_loss_row *row, ddit_err *err) {
    char line[LINE_SIZE];
    DD_TRY(write_line(log, line, print_row(line, row), err));
    return keep_row(log, row, err);
}

ddit_status dd_loss_log_flush(dd_loss_log *log, ddit_err *err) {
    errno = 0;
    return fsync(fileno(log->stream)) == 0 ? DDIT_OK : cannot_write(log, err);
}

void dd_loss_log_close(dd_loss_log *log) {
    if (log->stream) fclose(log->stream);
    if (log->allocator) {
        dd_free(log->allocator, log->path);
        dd_free(log->allocator, log->rows);
    }
    *log = (dd_loss_log){0};
}
