#include "schedule/patch_policy.h"

#include <math.h>

static void swap(float *x, float *y) {
    float z = *x;
    *x = *y;
    *y = z;
}

/* Moves the value of rank k (0 = smallest) of v[0..n) to v[k], with nothing larger before it and nothing smaller behind it.
 * Hoare's FIND with the middle as pivot; no NaN. */
static void select_rank(float *v, ptrdiff_t n, ptrdiff_t k) {
    ptrdiff_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = v[low + (high - low) / 2];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot) i++;
            while (v[j] > pivot) j--;
            if (i <= j) swap(&v[i++], &v[j--]);
        }
        if (k <= j) high = j;
        else if (k >= i) low = i;
        else return; /* between them all are equal to the pivot */
    }
}

float dd_quantile(float *values, size_t count, float rho) {
    if (count == 0) return NAN;
    for (size_t i = 0; i < count; i++)
        if (isnan(values[i])) return NAN;
    float rank = rho * (float)(count - 1);
    size_t below = (size_t)rank;
    if (below > count - 1) below = count - 1;
    select_rank(values, (ptrdiff_t)count, (ptrdiff_t)below);
    float weight = rank - (float)below, lower = values[below];
    if (weight <= 0 || below + 1 >= count) return lower;
    float upper = values[below + 1];
    for (size_t i = below + 2; i < count; i++)
        if (values[i] < upper) upper = values[i];
    /* torch.lerp: from the nearer end, with one rounding for product and sum */
    return weight < 0.5f ? fmaf(weight, upper - lower, lower) : fmaf(weight - 1.0f, upper - lower, upper);
}
