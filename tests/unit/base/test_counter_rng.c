#include "base/counter_rng.h"

#include "harness.h"

/* The known answers that come with Random123 (kat_vectors, philox4x32 with 10 rounds). The public functions show the first two
 * words of the four, the normal the others. */
static void equals_published(dd_test *t) {
    static const struct { uint64_t seed, stream, index, low, high; } cases[] = {
        {0, 0, 0, 0xe169c58d6627e8d5, 0x9b00dbd8bc57ac4c},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, 0x41c83b0e408f276d, 0x6d5451fda20bc7c6},
        {0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, 0x94fdccebd16cfe09, 0x24126ea15001e420},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t seed = cases[i].seed, stream = cases[i].stream, index = cases[i].index;
        double u = (double)(cases[i].low >> 11) * 0x1p-53, v = (double)(cases[i].high >> 11) * 0x1p-53;
        DD_CHECK(t, dd_counter_bits(seed, stream, index) == cases[i].low);
        DD_CHECK(t, dd_counter_uniform(seed, stream, index) == u);
        double normal = sqrt(-2 * log(1 - u)) * cos(2 * 3.14159265358979323846 * v);
        DD_CHECK(t, fabs(dd_counter_normal(seed, stream, index) - normal) < 1e-12);
    }
}

/* chi^2 of `counts` against equal shares; its mean is bins - 1, its variance twice that. */
static double chi_square(const int *counts, int bins, double expected) {
    double sum = 0;
    for (int i = 0; i < bins; i++) sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    return sum;
}

static void uniform_is_even(dd_test *t) {
    enum { COUNT = 1 << 18, BINS = 256 };
    int counts[BINS] = {0}, pairs[BINS] = {0};
    double last = 0.5, sum = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = dd_counter_uniform(7, 3, i);
        DD_CHECK(t, u >= 0 && u < 1);
        counts[(int)(u * BINS)]++;
        pairs[(int)(u * 16) * 16 + (int)(last * 16)]++;
        sum += u;
        last = u;
    }
    double spread = 5 * sqrt(2.0 * (BINS - 1)); /* 5 standard deviations */
    DD_CHECK(t, fabs(chi_square(counts, BINS, (double)COUNT / BINS) - (BINS - 1)) < spread);
    DD_CHECK(t, fabs(chi_square(pairs, BINS, (double)COUNT / BINS) - (BINS - 1)) < spread);
    DD_CHECK(t, fabs(sum / COUNT - 0.5) < 5 / sqrt(12.0 * COUNT));
}

static void below_is_even(dd_test *t) {
    enum { COUNT = 90000, BINS = 9 };
    int counts[BINS] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t x = dd_counter_below(11, 0, i, BINS);
        DD_NEED(t, x < BINS);
        counts[x]++;
        DD_CHECK(t, dd_counter_below(11, 0, i, 1) == 0);
        DD_CHECK(t, dd_counter_below(11, 0, i, UINT64_C(1) << 63) == dd_counter_bits(11, 0, i) >> 1);
    }
    DD_CHECK(t, chi_square(counts, BINS, (double)COUNT / BINS) < BINS - 1 + 5 * sqrt(2.0 * (BINS - 1)));
}

/* The high word of a 128-bit product, against the compiler's. */
static void below_is_exact(dd_test *t) {
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t count = dd_counter_bits(1, 1, i) >> (i % 64);
        if (count == 0) continue;
        uint64_t bits = dd_counter_bits(2, 5, i);
        __extension__ unsigned __int128 product = (unsigned __int128)bits * count;
        DD_CHECK(t, dd_counter_below(2, 5, i, count) == (uint64_t)(product >> 64));
    }
}

static void normal_is_normal(dd_test *t) {
    enum { COUNT = 1 << 18 };
    double moments[5] = {0};
    int within = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double x = dd_counter_normal(5, 9, i), power = 1;
        for (int k = 0; k < 5; k++, power *= x) moments[k] += power / COUNT;
        within += fabs(x) < 1;
    }
    double sd = 1 / sqrt((double)COUNT); /* of the mean; those of the powers: sqrt(2), sqrt(15), sqrt(96) times that */
    DD_CHECK(t, fabs(moments[1]) < 5 * sd);
    DD_CHECK(t, fabs(moments[2] - 1) < 5 * sqrt(2) * sd);
    DD_CHECK(t, fabs(moments[3]) < 5 * sqrt(15) * sd);
    DD_CHECK(t, fabs(moments[4] - 3) < 5 * sqrt(96) * sd);
    DD_CHECK(t, fabs((double)within / COUNT - 0.6826895) < 5 * 0.466 * sd);
}

/* Neighbouring seeds, streams and indices give unrelated numbers. */
static void neighbours_differ(dd_test *t) {
    enum { COUNT = 1 << 14 };
    int ones[3] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t here = dd_counter_bits(i, 2 * i, 3 * i);
        ones[0] += __builtin_popcountll(here ^ dd_counter_bits(i ^ 1, 2 * i, 3 * i));
        ones[1] += __builtin_popcountll(here ^ dd_counter_bits(i, 2 * i + 1, 3 * i));
        ones[2] += __builtin_popcountll(here ^ dd_counter_bits(i, 2 * i, 3 * i + 1));
    }
    for (int k = 0; k < 3; k++) DD_CHECK(t, fabs(ones[k] / (double)COUNT - 32) < 5 * 4 / sqrt((double)COUNT));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"equals published", equals_published},
        {"uniform is even", uniform_is_even},
        {"below is even", below_is_even},
        {"below is exact", below_is_exact},
        {"normal is normal", normal_is_normal},
        {"neighbours differ", neighbours_differ},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
