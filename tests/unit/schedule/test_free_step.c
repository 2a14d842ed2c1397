/* The free step's scalars against their definition, and against what pooling does to noise. */
#include "harness.h"
#include "schedule/free_step.h"

static void identity_at_factor_one(dd_test *t) {
    for (int i = 1; i <= 10; i++) {
        float s = (float)i / 10;
        dd_free_step f = dd_free_step_at(s, 1, 0);
        DD_CHECK(t, f.scale == 1 && fabsf(f.sigma - s) < 1e-7f && f.gain == 0);
    }
}

static void known_values(dd_test *t) {
    dd_free_step f = dd_free_step_at(0.5f, 2, 0.36); /* a = 0.5 + 0.25; s' = 0.25 / 0.75 */
    DD_CHECK(t, fabs(f.scale - 0.75) < 1e-7 && fabs(f.sigma - 1.0 / 3) < 1e-7 && fabs(f.time - 1000.0 / 3) < 1e-4);
    DD_CHECK(t, fabs(f.gain - 0.5 * 0.1296 / (0.25 * 0.1296 + 0.25)) < 1e-7);
    f = dd_free_step_at(0.8f, 4, 0.51); /* a = 0.2 + 0.2; s' = 0.5 */
    DD_CHECK(t, fabs(f.scale - 0.4) < 1e-6 && fabs(f.sigma - 0.5) < 1e-6);
    f = dd_free_step_at(1.0f, 2, 0.36); /* pure noise stays pure noise, and tells nothing of detail */
    DD_CHECK(t, f.scale == 0.5f && f.sigma == 1 && f.time == 1000 && f.gain == 0);
    DD_CHECK(t, dd_free_step_at(0.3f, 2, 0).gain == 0);
}

/* z'/a must again be (1 - s') data + s' noise with unit noise: 1 - s' = (1 - s) / a. */
static void is_a_noise_level(dd_test *t) {
    for (int i = 1; i <= 100; i++) {
        for (int k = 2; k <= 4; k *= 2) {
            float s = (float)i / 100;
            dd_free_step f = dd_free_step_at(s, k, 0.4);
            DD_CHECK(t, fabs((1 - (double)f.sigma) - (1 - (double)s) / f.scale) < 1e-6);
            DD_CHECK(t, f.sigma <= s && f.gain >= 0);
        }
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"identity_at_factor_one", identity_at_factor_one},
        {"known_values", known_values},
        {"is_a_noise_level", is_a_noise_level},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
