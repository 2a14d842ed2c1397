/* Every decision of auto (orders 1-3) and region, made again from the kept latents by a plain computation that shares
 * nothing with ddit's: float32 differences, two-pass deviations in float64, a sorted quantile, the rule and the region tree as
 * the design says. */
#include "unit/sample/sampler_test.h"

/* Deviation over channels of the n x n block of D at (row, col): D is the difference of `order` of the latents at step k. */
static double block_std(const dd_sampler *s, int k, int order, int n, int row, int col) {
    static const float coefficients[4][4] = {{1}, {1, -1}, {1, -2, 1}, {1, -3, 3, -1}};
    double sum = 0, squares = 0, count = 16.0 * n * n;
    for (int pass = 0; pass < 2; pass++)
        for (int c = 0; c < 16; c++)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++) {
                    size_t at = ((size_t)c * TINY_H + (size_t)(row * n + i)) * TINY_W + (size_t)(col * n + j);
                    float d = 0;
                    for (int o = 0; o <= order; o++) d += coefficients[order][o] * dd_sampler_kept_latent(s, k - o)[at];
                    if (pass == 0) sum += (double)d;
                    else squares += ((double)d - sum / count) * ((double)d - sum / count);
                }
    return (double)(float)sqrt(squares / (count - 1));
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double statistic(const dd_sampler *s, int k, int order, int factor, double rho) {
    enum { MOST = (TINY_H / 4) * (TINY_W / 4) };
    double stds[MOST];
    int n = 2 * factor, count = 0;
    for (int row = 0; row < TINY_H / n; row++)
        for (int col = 0; col < TINY_W / n; col++) stds[count++] = block_std(s, k, order, n, row, col);
    qsort(stds, (size_t)count, sizeof *stds, ascending);
    double rank = rho * (count - 1);
    int below = (int)rank;
    return below + 1 < count ? stds[below] + (rank - below) * (stds[below + 1] - stds[below]) : stds[below];
}

static bool near_tau(double s, double tau) { return fabs(s / tau - 1) <= 1e-4; }

typedef struct tally {
    int factor[3]; /* steps (auto) or cells (region) of each factor */
} tally;

static void check_auto(dd_test *t, const dd_sampler *s, const dd_sampler_params *p, tally *seen) {
    int count;
    const dd_step_record *r = dd_sampler_records(s, &count);
    double tau = p->policy.tau;
    for (int k = 0; k < count; k++) {
        int want = 0;
        bool sure = true;
        for (int f = 2; f > 0 && k >= p->policy.order; f--) {
            double stat = statistic(s, k, p->policy.order, dd_factor_at(f), p->policy.rho);
            if (fabs(stat / (double)r[k].stat[f] - 1) > 1e-5)
                dd_test_fail(t, __FILE__, __LINE__, "step %d factor %d: statistic %.9g, recorded %.9g", k, dd_factor_at(f),
                             stat, (double)r[k].stat[f]);
            if (want || (double)r[k].sigma < p->policy.sigma_min[f]) continue;
            if (near_tau(stat, tau)) sure = false;
            if (stat < tau) want = f;
        }
        if (sure) DD_CHECK(t, r[k].cells[want] == r[k].image_tokens);
        for (int f = 0; f < 3; f++) seen->factor[f] += r[k].cells[f] > 0;
    }
}

static char *write_block(const dd_sampler *s, int k, const dd_sampler_params *p, const bool open[3], int row, int col,
                         char *out, bool *sure) {
    double tau = p->policy.tau;
    double four = open[2] ? block_std(s, k, p->policy.order, 8, row, col) : INFINITY;
    if (near_tau(four, tau)) *sure = false;
    if (four < tau) {
        *out++ = '4';
        return out;
    }
    *out++ = '(';
    for (int q = 0; q < 4; q++) {
        double two = open[1] ? block_std(s, k, p->policy.order, 4, 2 * row + q / 2, 2 * col + q % 2) : INFINITY;
        if (near_tau(two, tau)) *sure = false;
        *out++ = two < tau ? '2' : '1';
    }
    *out++ = ')';
    return out;
}

static void check_region(dd_test *t, const dd_sampler *s, const dd_sampler_params *p, tally *seen) {
    int count;
    const dd_step_record *r = dd_sampler_records(s, &count);
    char want[256], got[256];
    dd_layout layout;
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){TINY_H / 2, TINY_W / 2, 2}, &t->err));
    for (int k = 0; k < count; k++) {
        bool sure = true, open[3] = {true};
        for (int f = 1; f < 3; f++)
            open[f] = k >= p->policy.order && (double)r[k].sigma >= p->policy.sigma_min[f] && p->policy.allowed[f];
        char *at = want;
        for (int row = 0; row < TINY_H / 8; row++)
            for (int col = 0; col < TINY_W / 8; col++) at = write_block(s, k, p, open, row, col, at, &sure);
        *at = '\0';
        if (r[k].layout) snprintf(got, sizeof got, "%s", r[k].layout);
        else {
            dd_layout_set_uniform(&layout, r[k].cells[0] ? 1 : r[k].cells[1] ? 2 : 4);
            dd_layout_to_string(&layout, got);
        }
        if (sure && strcmp(want, got) != 0)
            dd_test_fail(t, __FILE__, __LINE__, "step %d: layout %s, recorded %s", k, want, got);
        for (int f = 0; f < 3; f++) seen->factor[f] += r[k].cells[f];
    }
    dd_layout_deinit(&layout);
}

/* A threshold in the middle of what a run sees, so that decisions differ. */
static double middle_tau(const dd_sampler *s, int order) {
    double low = INFINITY, high = 0;
    for (int k = order; k < TINY_STEPS; k++) {
        double stat = statistic(s, k, order, 4, 0.4);
        low = fmin(low, stat);
        high = fmax(high, stat);
    }
    return 0.5 * (low + high);
}

static void check_runs(dd_test *t, tiny_model *m, const float *noise, int order, tally seen[2]) {
    dd_sampler_params p = tiny_params(m);
    dd_sampler *s;
    p.policy.order = order;
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 0, &t->err));
    DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
    double tau = middle_tau(s, order);
    dd_sampler_free(s);
    for (int i = 0; i < 4; i++) {
        tiny_policy(&p, i % 2 ? DD_PATCH_REGION : DD_PATCH_AUTO, tau * (i < 2 ? 1.0 : 1.05));
        p.policy.sigma_min[1] = i < 2 ? 0 : 0.45;
        p.policy.sigma_min[2] = i < 2 ? 0 : 0.75;
        DD_NEED_OK(t, tiny_sampler(&s, m, &p, 0, &t->err));
        DD_CHECK(t, dd_sampler_tau(s) == p.policy.tau);
        DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
        if (i % 2) check_region(t, s, &p, &seen[1]);
        else check_auto(t, s, &p, &seen[0]);
        dd_sampler_free(s);
    }
}

static void decisions_are_those_of_the_design(dd_test *t) {
    tiny_model m;
    tally seen[2] = {0};
    DD_NEED_OK(t, tiny_open(&m, tiny_kinds[1], "adapter", &t->err));
    for (int order = 1; order <= 3; order++) {
        float *noise = tiny_noise(TINY_H, TINY_W, (uint64_t)order);
        check_runs(t, &m, noise, order, seen);
        free(noise);
    }
    if (getenv("DD_SHOW"))
        for (int i = 0; i < 2; i++)
            printf("%s: %d %d %d\n", i ? "region" : "auto", seen[i].factor[0], seen[i].factor[1], seen[i].factor[2]);
    for (int i = 0; i < 2; i++) DD_CHECK(t, seen[i].factor[0] > 0 && seen[i].factor[1] > 0 && seen[i].factor[2] > 0);
    DD_CHECK(t, tiny_close(&m));
}

/* Metadata's tau scales with the steps of the run, a tau by hand does not. */
static void tau_scales_with_the_number_of_steps(dd_test *t) {
    tiny_model m;
    dd_sampler *s;
    DD_NEED_OK(t, tiny_open(&m, tiny_kinds[1], "adapter", &t->err));
    for (int order = 1; order <= 3; order++) {
        dd_sampler_params p = tiny_params(&m);
        p.policy.kind = DD_PATCH_AUTO;
        p.policy.tau = 0.02;
        p.policy.tau_steps = 50;
        p.policy.order = order;
        p.steps = 20;
        DD_NEED_OK(t, dd_sampler_create(&s, m.dit, &p, &t->err));
        DD_CHECK(t, fabs(dd_sampler_tau(s) / (0.02 * pow(2.5, order)) - 1) < 1e-12);
        dd_sampler_free(s);
    }
    DD_CHECK(t, tiny_close(&m));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"decisions_are_those_of_the_design", decisions_are_those_of_the_design},
        {"tau_scales_with_the_number_of_steps", tau_scales_with_the_number_of_steps},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
