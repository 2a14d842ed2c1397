#include "schedule/patch_policy.h"

#include <math.h>
#include <string.h>

#include "base/scan.h"

dd_patch_policy dd_patch_policy_default(void) {
    return (dd_patch_policy){.kind = DD_PATCH_OFF, .tau = 0.001, .tau_steps = 50, .rho = 0.4, .order = 3, .allowed = {true}};
}

double dd_patch_policy_tau(const dd_patch_policy *policy, int steps) {
    return policy->tau_by_hand ? policy->tau : policy->tau * pow(policy->tau_steps / steps, policy->order);
}

static ddit_status check_numbers(const dd_patch_policy *p, int steps, ddit_err *err) {
    if (steps < 1 || steps > DD_MAX_STEPS)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%d steps were asked for; 1 to %d are possible", steps, DD_MAX_STEPS);
    if (p->order < 1 || p->order > DD_MAX_ORDER)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "order %d was given; expected 1 to %d", p->order, DD_MAX_ORDER);
    if (!(p->rho >= 0 && p->rho <= 1))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "rho %g was given; expected a quantile from 0 to 1", p->rho);
    if (!(p->tau > 0 && isfinite(p->tau)))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "tau %g was given; expected a threshold above 0", p->tau);
    if (!p->tau_by_hand && !(p->tau_steps > 0 && isfinite(p->tau_steps)))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "tau_steps %g was given; expected the number of steps that tau belongs to",
                       p->tau_steps);
    for (int i = 1; i < DD_FACTOR_COUNT; i++)
        if (!(p->sigma_min[i] >= 0 && isfinite(p->sigma_min[i])))
            return dd_fail(err, DDIT_ERR_ARGUMENT, "sigma_min %g was given for factor %d; expected 0 or more", p->sigma_min[i],
                           dd_factor_at(i));
    return DDIT_OK;
}

ddit_status dd_patch_decider_init(dd_patch_decider *decider, const dd_allocator *a, const dd_patch_policy *policy, int steps,
                                  dd_grid grid, ddit_err *err) {
    *decider = (dd_patch_decider){0};
    DD_TRY(check_numbers(policy, steps, err));
    dd_layout scratch;
    DD_TRY(dd_layout_init(&scratch, a, grid, err)); /* also refuses a grid that is no grid */
    *decider = (dd_patch_decider){.policy = *policy, .steps = steps, .grid = grid, .allocator = a};
    decider->policy.allowed[0] = true;
    decider->tau_effective = dd_patch_policy_tau(policy, steps);
    ddit_status status = DDIT_OK;
    size_t blocks = (size_t)((grid.rows + 3) / 4) * (size_t)((grid.cols + 3) / 4);
    DD_GO(dd_alloc(a, &decider->sorted, (size_t)(grid.rows / 2) * (size_t)(grid.cols / 2), sizeof(float), "the patch policy",
                   err));
    DD_GO(dd_alloc(a, &decider->choice, blocks, 1, "the patch policy", err));
    DD_GO(dd_alloc(a, &decider->quad, blocks, 4, "the patch policy", err));
    if (policy->kind == DD_PATCH_SCHEDULE)
        DD_GO(dd_patch_schedule_check(policy->schedule, steps, decider->policy.allowed, &scratch, err));
done:
    dd_layout_deinit(&scratch);
    if (status != DDIT_OK) dd_patch_decider_deinit(decider);
    return status;
}

void dd_patch_decider_deinit(dd_patch_decider *decider) {
    if (!decider->allocator) return;
    dd_free(decider->allocator, decider->sorted);
    dd_free(decider->allocator, decider->choice);
    dd_free(decider->allocator, decider->quad);
    *decider = (dd_patch_decider){0};
}

bool dd_patch_needs_stats(const dd_patch_decider *decider, int index, int factor, bool traced) {
    const dd_patch_policy *p = &decider->policy;
    int i = dd_factor_index(factor);
    if (i < 1 || !p->allowed[i] || index < p->order) return false;
    if (decider->grid.rows < factor || decider->grid.cols < factor) return false; /* no whole cell */
    return traced || p->kind == DD_PATCH_AUTO || p->kind == DD_PATCH_REGION;
}

/* Whether factor dd_factor_at(i) may be chosen at this step by what is known without looking at a cell. */
static bool is_candidate(const dd_patch_policy *p, const dd_patch_step *step, int i) {
    return p->allowed[i] && step->stats[i].std && step->index >= p->order && (double)step->sigma >= p->sigma_min[i];
}

static void decide_auto(const dd_patch_decider *d, const dd_patch_step *step, const float *stat, dd_layout *layout) {
    int chosen = 0;
    for (int i = DD_FACTOR_COUNT - 1; i > 0 && !chosen; i--)
        if (is_candidate(&d->policy, step, i) && (double)stat[i] < d->tau_effective) chosen = i;
    dd_layout_set_uniform(layout, dd_factor_at(chosen));
}

/* Whether the cell (row, col) of a factor is whole and still below tau. */
static bool still(const dd_patch_decider *d, const dd_patch_stats *stats, int row, int col) {
    return row < stats->rows && col < stats->cols &&
        (double)stats->std[(size_t)row * (size_t)stats->cols + (size_t)col] < d->tau_effective;
}

/* Top down: a still 4p block is one cell; else each still quadrant is one cell of factor 2. */
static void decide_region(dd_patch_decider *d, const dd_patch_step *step, dd_layout *layout) {
    bool two = is_candidate(&d->policy, step, 1), four = is_candidate(&d->policy, step, 2);
    int block_rows = (d->grid.rows + 3) / 4, block_cols = (d->grid.cols + 3) / 4;
    for (int b = 0; b < block_rows * block_cols; b++) {
        int row = b / block_cols, col = b % block_cols;
        d->choice[b] = four && still(d, &step->stats[2], row, col) ? 4 : 0;
        for (int q = 0; q < 4; q++)
            d->quad[4 * b + q] = two && still(d, &step->stats[1], 2 * row + q / 2, 2 * col + q % 2) ? 2 : 1;
    }
    dd_layout_set_choices(layout, d->choice, d->quad);
}

/* Fills stat; the arrays must have the grid's whole cells. */
static ddit_status quantiles(dd_patch_decider *d, const dd_patch_step *step, float stat[DD_FACTOR_COUNT], ddit_err *err) {
    for (int i = 0; i < DD_FACTOR_COUNT; i++) {
        const dd_patch_stats *s = &step->stats[i];
        stat[i] = NAN;
        if (i == 0 || !s->std) continue;
        int factor = dd_factor_at(i), rows = d->grid.rows / factor, cols = d->grid.cols / factor;
        if (s->rows != rows || s->cols != cols)
            return dd_fail(err, DDIT_ERR_INTERNAL, "statistics of factor %d have %d x %d cells, expected %d x %d", factor,
                           s->rows, s->cols, rows, cols);
        size_t count = (size_t)rows * (size_t)cols;
        memcpy(d->sorted, s->std, count * sizeof *d->sorted);
        stat[i] = dd_quantile(d->sorted, count, (float)d->policy.rho);
    }
    return DDIT_OK;
}

ddit_status dd_patch_decide(dd_patch_decider *decider, const dd_patch_step *step, dd_layout *layout,
                            float stat[DD_FACTOR_COUNT], ddit_err *err) {
    DD_TRY(quantiles(decider, step, stat, err));
    switch (decider->policy.kind) {
    case DD_PATCH_OFF: dd_layout_set_uniform(layout, 1); break;
    case DD_PATCH_AUTO: decide_auto(decider, step, stat, layout); break;
    case DD_PATCH_REGION: decide_region(decider, step, layout); break;
    case DD_PATCH_SCHEDULE: return dd_patch_schedule_layout(decider->policy.schedule, step->index, layout, err);
    }
    return DDIT_OK;
}
