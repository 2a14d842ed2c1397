#include "schedule/patch_schedule.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/scan.h"

ddit_status dd_patch_schedule_init(dd_patch_schedule *schedule, const dd_allocator *a, int count, ddit_err *err) {
    *schedule = (dd_patch_schedule){.allocator = a};
    ddit_status status;
    if (count < 1 || count > DD_MAX_STEPS) {
        status = dd_fail(err, DDIT_ERR_ARGUMENT, "a schedule of %d steps was given; 1 to %d are possible", count, DD_MAX_STEPS);
        goto done;
    }
    DD_GO(dd_alloc(a, &schedule->factor, (size_t)count, sizeof *schedule->factor, "a schedule", err));
    DD_GO(dd_alloc(a, &schedule->layout, (size_t)count, sizeof *schedule->layout, "a schedule", err));
    schedule->count = count;
    memset(schedule->factor, 1, (size_t)count);
    return DDIT_OK;
done:
    dd_patch_schedule_deinit(schedule);
    return status;
}

void dd_patch_schedule_deinit(dd_patch_schedule *schedule) {
    if (!schedule->allocator) return;
    for (int i = 0; i < schedule->count; i++) dd_free(schedule->allocator, schedule->layout[i]);
    dd_free(schedule->allocator, schedule->layout);
    dd_free(schedule->allocator, schedule->factor);
    *schedule = (dd_patch_schedule){0};
}

static ddit_status unexpected(ddit_err *err, const char *text, const char *at, const char *expected) {
    char found[DD_FOUND_SIZE];
    return dd_fail(err, DDIT_ERR_ARGUMENT, "schedule \"%.100s\", character %td: found %s, expected %s", text, at - text + 1,
                   dd_found(found, at), expected);
}

/* Reads `factor [p] x steps` at *at. *total is the number of steps before it. */
static ddit_status parse_run(const char *text, const char **at, int total, int *factor, int *steps, ddit_err *err) {
    const char *p = dd_skip_blanks(*at), *start = p;
    if (*p == 'm')
        return unexpected(err, text, p,
                          "a factor (1, 2 or 4); mixed layouts cannot be written, replay them from a trace with @FILE");
    if (!dd_scan_count(&p, DD_MAX_STEPS, factor)) return unexpected(err, text, p, "a factor (1, 2 or 4), as in 1x3,2x20");
    if (dd_factor_index(*factor) < 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "schedule \"%.100s\", character %td: found factor %.*s, expected 1, 2 or 4",
                       text, start - text + 1, (int)(p - start < 20 ? p - start : 20), start);
    p = dd_skip_blanks(p);
    if (*p == 'p') p = dd_skip_blanks(p + 1);
    if (*p != 'x' && *p != '*') return unexpected(err, text, p, "'x' between the factor and its number of steps, as in 2x20");
    p = dd_skip_blanks(p + 1);
    start = p;
    if (!dd_scan_count(&p, DD_MAX_STEPS, steps)) return unexpected(err, text, p, "a number of steps");
    if (*steps == 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "schedule \"%.100s\", character %td: found 0 steps, expected at least 1; leave the run "
                       "out", text, start - text + 1);
    if (*steps > DD_MAX_STEPS - total)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "schedule \"%.100s\", character %td: found more than %d steps in all, expected at most "
                       "that many", text, start - text + 1, DD_MAX_STEPS);
    *at = dd_skip_blanks(p);
    return DDIT_OK;
}

ddit_status dd_patch_schedule_parse(dd_patch_schedule *schedule, const dd_allocator *a, const char *text, ddit_err *err) {
    *schedule = (dd_patch_schedule){0};
    uint8_t factors[DD_MAX_STEPS];
    int total = 0;
    for (const char *at = text;; at++) { /* over the comma */
        int factor, steps;
        DD_TRY(parse_run(text, &at, total, &factor, &steps, err));
        memset(factors + total, factor, (size_t)steps);
        total += steps;
        if (*at == '\0') break;
        if (*at != ',') return unexpected(err, text, at, "',' or the end");
    }
    DD_TRY(dd_patch_schedule_init(schedule, a, total, err));
    memcpy(schedule->factor, factors, (size_t)total);
    return DDIT_OK;
}

ddit_status dd_patch_schedule_set_step(dd_patch_schedule *schedule, int index, const char *layout,
                                       const int64_t cells[DD_FACTOR_COUNT], ddit_err *err) {
    if (index < 0 || index >= schedule->count)
        return dd_fail(err, DDIT_ERR_FORMAT, "step %d of a schedule of %d steps was given; expected 0 to %d", index,
                       schedule->count, schedule->count - 1);
    int factor = 0;
    char *copy = NULL;
    if (layout) {
        DD_TRY(dd_strdup(schedule->allocator, &copy, layout, err));
    } else {
        int kinds = 0;
        bool negative = false;
        for (int i = 0; i < DD_FACTOR_COUNT; i++) {
            negative = negative || cells[i] < 0;
            if (cells[i] == 0) continue;
            kinds++;
            factor = dd_factor_at(i);
        }
        if (kinds != 1 || negative)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "step %d has no layout string and %" PRId64 ", %" PRId64 ", %" PRId64 " cells of "
                           "factor 1, 2, 4; expected cells of exactly one factor", index, cells[0], cells[1], cells[2]);
    }
    dd_free(schedule->allocator, schedule->layout[index]);
    schedule->layout[index] = copy;
    schedule->factor[index] = (uint8_t)factor;
    return DDIT_OK;
}

ddit_status dd_patch_schedule_layout(const dd_patch_schedule *schedule, int index, dd_layout *layout, ddit_err *err) {
    if (schedule->layout[index]) return dd_layout_set_string(layout, schedule->layout[index], err);
    if (schedule->factor[index] == 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "step %d of the schedule is mixed but its layout was not kept", index);
    dd_layout_set_uniform(layout, schedule->factor[index]);
    return DDIT_OK;
}

ddit_status dd_patch_schedule_check(const dd_patch_schedule *schedule, int steps, const bool allowed[DD_FACTOR_COUNT],
                                    dd_layout *scratch, ddit_err *err) {
    if (schedule->count != steps)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "the schedule has %d steps and the run %d; they must agree (leave --steps out to take "
                       "the schedule's)", schedule->count, steps);
    for (int k = 0; k < steps; k++) {
        if (dd_patch_schedule_layout(schedule, k, scratch, err) != DDIT_OK) {
            char prefix[96];
            snprintf(prefix, sizeof prefix, "step %d of the schedule does not fit a latent of %d x %d base cells", k,
                     scratch->grid.rows, scratch->grid.cols);
            if (err) err->code = DDIT_ERR_MISMATCH;
            return dd_fail_prefix(err, DDIT_ERR_MISMATCH, prefix);
        }
        for (int i = 1; i < DD_FACTOR_COUNT; i++)
            if (scratch->cell_count[i] > 0 && !allowed[i])
                return dd_fail(err, DDIT_ERR_ARGUMENT,
                               "step %d of the schedule wants factor %d, which this run cannot use; load an "
                               "adapter that has it, or use --coarse free", k, dd_factor_at(i));
    }
    return DDIT_OK;
}

void dd_patch_schedule_record(dd_patch_schedule *schedule, int index, int factor) {
    dd_free(schedule->allocator, schedule->layout[index]);
    schedule->layout[index] = NULL;
    schedule->factor[index] = (uint8_t)factor;
}

ddit_status dd_patch_schedule_format(const dd_patch_schedule *schedule, const dd_allocator *a, char **text, ddit_err *err) {
    enum { RUN_SIZE = 8 }; /* "1x1000," and the end */
    size_t size = (size_t)schedule->count * RUN_SIZE + 1, used = 0;
    DD_TRY(dd_alloc(a, text, size, 1, "a schedule", err));
    for (int k = 0, end; k < schedule->count; k = end) {
        for (end = k + 1; end < schedule->count && schedule->factor[end] == schedule->factor[k];) end++;
        char name = schedule->factor[k] ? (char)('0' + schedule->factor[k]) : 'm';
        used += (size_t)snprintf(*text + used, size - used, "%s%cx%d", k ? "," : "", name, end - k);
    }
    return DDIT_OK;
}
