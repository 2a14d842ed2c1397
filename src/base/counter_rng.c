#include "base/counter_rng.h"

#include <math.h>

enum { ROUNDS = 10 };

/* A 128-bit block as two halves of 64 bits. */
typedef struct block {
    uint64_t low, high;
} block;

/* Philox4x32-10: counter words (index, stream), key words (seed); low word of each 64-bit number first. */
static block philox(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t x = UINT64_C(0xD2511F53) * c0, y = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(y >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)y;
        c2 = (uint32_t)(x >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)x;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (block){(uint64_t)c1 << 32 | c0, (uint64_t)c3 << 32 | c2};
}

static double to_uniform(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

uint64_t dd_counter_bits(uint64_t seed, uint64_t stream, uint64_t index) { return philox(seed, stream, index).low; }

double dd_counter_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return to_uniform(philox(seed, stream, index).low);
}

/* The high word of bits * count: floor of a 64-bit uniform times count, unequal by at most count / 2^64. */
uint64_t dd_counter_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count) {
    uint64_t bits = philox(seed, stream, index).low;
    uint64_t a = bits >> 32, b = bits & 0xffffffffu, c = count >> 32, d = count & 0xffffffffu;
    uint64_t middle = (b * d >> 32) + (a * d & 0xffffffffu) + b * c;
    return a * c + (a * d >> 32) + (middle >> 32);
}

double dd_counter_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    block b = philox(seed, stream, index);
    double radius = sqrt(-2 * log1p(-to_uniform(b.low))); /* 1 - u is never 0 */
    return radius * cos(6.283185307179586 * to_uniform(b.high));
}
