/* Reading the schedule back from what a run left behind. */
#include <jansson.h>
#include <string.h>

#include "base/mapped_file.h"
#include "media/png.h"
#include "pipeline/pipeline.h"

enum { MAX_TRACE_BYTES = 64 << 20 };

/* The trace's JSON text, from a PNG of ours or a plain file; the caller frees it. */
static ddit_status read_text(const dd_allocator *a, const char *path, char **text, ddit_err *err) {
    size_t size;
    if (!dd_png_probe(path)) return dd_read_file(a, path, MAX_TRACE_BYTES, text, &size, err);
    dd_png_info info;
    *text = NULL;
    DD_TRY(dd_png_read_info(&info, a, path, err));
    const char *found = dd_png_info_find(&info, "ddit");
    ddit_status status =
        found ? dd_strdup(a, text, found, err)
              : dd_fail(err, DDIT_ERR_FORMAT, "%s: this picture holds no \"ddit\" text to take a schedule from", path);
    dd_png_info_deinit(&info);
    return status;
}

static ddit_status read_step(dd_patch_schedule *schedule, const json_t *step, int index, const char *path, ddit_err *err) {
    static const char *const names[DD_FACTOR_COUNT] = {"1", "2", "4"};
    const json_t *cells = json_object_get(step, "cells");
    int64_t counts[DD_FACTOR_COUNT] = {0};
    if (!json_is_object(cells)) return dd_fail(err, DDIT_ERR_FORMAT, "%s: step %d has no object \"cells\"", path, index);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        const json_t *count = json_object_get(cells, names[f]);
        if (count && (!json_is_integer(count) || json_integer_value(count) < 0))
            return dd_fail(err, DDIT_ERR_FORMAT, "%s: step %d: cells \"%s\" is no count", path, index, names[f]);
        counts[f] = json_integer_value(count);
    }
    ddit_status status =
        dd_patch_schedule_set_step(schedule, index, json_string_value(json_object_get(step, "layout")), counts, err);
    return status == DDIT_OK ? DDIT_OK : dd_fail_prefix(err, status, path);
}

static ddit_status read_steps(dd_patch_schedule *schedule, const dd_allocator *a, const json_t *root, const char *path,
                              ddit_err *err) {
    const json_t *steps = json_object_get(root, "steps");
    size_t count = json_array_size(steps);
    if (!json_is_array(steps) || count == 0 || count > DD_MAX_STEPS)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: expected a trace with \"steps\" of 1 to %d entries, found %zu", path,
                       DD_MAX_STEPS, count);
    DD_TRY(dd_patch_schedule_init(schedule, a, (int)count, err));
    for (size_t k = 0; k < count; k++) {
        ddit_status status = read_step(schedule, json_array_get(steps, k), (int)k, path, err);
        if (status == DDIT_OK) continue;
        dd_patch_schedule_deinit(schedule);
        return status;
    }
    return DDIT_OK;
}

ddit_status dd_replay_read(dd_patch_schedule *schedule, int *anchor, const dd_allocator *a, const char *path, ddit_err *err) {
    char *text;
    json_error_t problem;
    DD_TRY(read_text(a, path, &text, err));
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &problem);
    ddit_status status;
    if (!root)
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: expected a trace or a picture of ddit; as JSON it fails at byte %d: %s",
                         path, problem.position, problem.text);
    else status = read_steps(schedule, a, root, path, err);
    const json_t *stored = json_object_get(root, "anchor");
    json_int_t steps = json_is_integer(stored) ? json_integer_value(stored) : -1;
    *anchor = steps >= 0 && steps <= DD_MAX_STEPS ? (int)steps : -1;
    json_decref(root);
    dd_free(a, text);
    return status;
}
