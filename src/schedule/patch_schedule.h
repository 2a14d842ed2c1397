/* A schedule given beforehand: the layout of every step, as factors or as the strings of mixed layouts.
 *
 * Written form: `1x3,2x20,4x7,1x20` is runs of factor x steps. `*` for `x`, a `p` after the factor (`4p*8`) and blanks between
 * the parts are accepted. Mixed layouts have no written form; they come from a trace.
 */
#ifndef DD_SCHEDULE_PATCH_SCHEDULE_H
#define DD_SCHEDULE_PATCH_SCHEDULE_H

#include "layout/layout.h"
#include "schedule/noise_schedule.h"

typedef struct dd_patch_schedule {
    int count;       /* steps */
    uint8_t *factor; /* owned [count]: 1, 2, 4, or 0 where layout[k] says it */
    char **layout;   /* owned [count], each owned or NULL: string form of a mixed layout (layout/layout.h) */
    const dd_allocator *allocator;
} dd_patch_schedule;

/* Steps all of factor 1. Free with dd_patch_schedule_deinit (accepts a zeroed one).
 * Errors: DDIT_ERR_ARGUMENT unless 1 <= count <= DD_MAX_STEPS, DDIT_ERR_NO_MEMORY; the schedule is then zeroed. */
ddit_status dd_patch_schedule_init(dd_patch_schedule *schedule, const dd_allocator *a, int count, ddit_err *err);
void dd_patch_schedule_deinit(dd_patch_schedule *schedule);

/* From the written form. Errors: DDIT_ERR_ARGUMENT with the position (1 = first character), what was found and expected;
 * DDIT_ERR_NO_MEMORY. The schedule is then zeroed. */
ddit_status dd_patch_schedule_parse(dd_patch_schedule *schedule, const dd_allocator *a, const char *text, ddit_err *err);

/* Step `index` from an entry of a trace: its layout string (NULL for a uniform layout), else its numbers of cells of factor
 * 1, 2, 4, of which exactly one must not be 0. The string is copied; whether it fits the picture is checked by
 * dd_patch_schedule_check. Errors: DDIT_ERR_FORMAT naming the step, DDIT_ERR_NO_MEMORY; the step is then unchanged. */
ddit_status dd_patch_schedule_set_step(dd_patch_schedule *schedule, int index, const char *layout,
                                       const int64_t cells[DD_FACTOR_COUNT], ddit_err *err);

/* Whether the schedule can run: as many steps as the run, only factors with allowed[index], strings that fit the grid of
 * `scratch` (a layout made by dd_layout_init; overwritten). Errors: DDIT_ERR_ARGUMENT for what a written schedule can have
 * wrong, DDIT_ERR_MISMATCH for strings; both name the step (0 = first). */
ddit_status dd_patch_schedule_check(const dd_patch_schedule *schedule, int steps, const bool allowed[DD_FACTOR_COUNT],
                                    dd_layout *scratch, ddit_err *err);

/* Sets `layout` (made by dd_layout_init) to that of step `index`; allocates nothing. Errors: those of dd_layout_set_string. */
ddit_status dd_patch_schedule_layout(const dd_patch_schedule *schedule, int index, dd_layout *layout, ddit_err *err);

/* Records what a step ran with: factor 1, 2, 4, or 0 for a mixed layout of which only that is kept (for the written form). */
void dd_patch_schedule_record(dd_patch_schedule *schedule, int index, int factor);

/* The written form, run-length encoded, as a new string that the caller frees with dd_free. Runs of mixed layouts appear as
 * `mx3`; the parser refuses them with a hint at `@FILE`. Errors: DDIT_ERR_NO_MEMORY. */
ddit_status dd_patch_schedule_format(const dd_patch_schedule *schedule, const dd_allocator *a, char **text, ddit_err *err);

#endif
