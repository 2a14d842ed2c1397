/* Normal numbers against torch 2.13: torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed)). */
#include "base/rng.h"
#include "harness.h"

static void equals_torch(dd_test *t) {
    static const struct {
        uint64_t seed;
        size_t count;
        float first[4], last[4];
        double sum_of_abs;
    } cases[] = {
        {42u, 16, {1.92691529f, 1.48728406f, 0.900717199f, -2.10552096f},
         {-0.727881312f, -0.559430182f, -0.768838882f, 0.76244539f}, 16.996675},
        {0u, 16, {-1.12583983f, -1.1523602f, -0.250578582f, -0.433878809f},
         {0.119841509f, 1.2376579f, 1.11677718f, -0.247278154f}, 11.899891},
        /* not a multiple of 16: the last 16 are drawn anew */
        {42u, 17, {1.92691529f, -0.159597471f, -0.497397542f, 0.439589262f},
         {0.041759491f, -0.251575291f, 0.859858513f, -0.309726775f}, 12.633401},
        {7u, 100, {-0.820134521f, 0.395631164f, 0.898908496f, -1.38840389f},
         {-0.68942523f, -0.0495132059f, -1.22392416f, 0.640272617f}, 76.166770},
        /* seeds over 32 bits: the low half counts */
        {4294967301u, 1000, {1.84232986f, 0.518887162f, -1.71192133f, -1.7013793f},
         {-0.257703394f, 0.279105097f, -0.119215056f, 0.108803563f}, 748.908323},
        {9223372036854775819u, 4096, {-0.51079756f, 1.02827179f, -0.35315159f, 0.122991316f},
         {-0.195019126f, -0.811304748f, -0.379379243f, -0.789793015f}, 3269.526213},
    };
    static float out[4096];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = cases[i].count;
        DD_NEED_OK(t, dd_randn_torch(cases[i].seed, n, out, &t->err));
        DD_CHECK(t, dd_test_max_abs(out, cases[i].first, 4) < 1e-6);
        DD_CHECK(t, dd_test_max_abs(out + n - 4, cases[i].last, 4) < 1e-6);
        double sum = 0;
        for (size_t k = 0; k < n; k++) sum += fabs((double)out[k]);
        DD_CHECK(t, fabs(sum - cases[i].sum_of_abs) < 1e-6 * (double)n);
    }
}

static void looks_normal(dd_test *t) {
    enum { COUNT = 1 << 16 };
    float *out = malloc(COUNT * sizeof *out);
    DD_NEED(t, out);
    DD_OK(t, dd_randn_torch(123, COUNT, out, &t->err));
    double sum = 0, squares = 0;
    for (int i = 0; i < COUNT; i++) {
        sum += out[i];
        squares += (double)out[i] * out[i];
        DD_CHECK(t, isfinite(out[i]));
    }
    DD_CHECK(t, fabs(sum / COUNT) < 0.02 && fabs(squares / COUNT - 1) < 0.03);
    free(out);
}

static void refuses_short(dd_test *t) {
    float out[16];
    DD_FAILS(t, dd_randn_torch(1, 15, out, &t->err), DDIT_ERR_ARGUMENT, "15");
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"equals_torch", equals_torch},
        {"looks_normal", looks_normal},
        {"refuses_short", refuses_short},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
