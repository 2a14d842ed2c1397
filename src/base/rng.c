#include "base/rng.h"

#include <math.h>

enum { STATE_WORDS = 624, SHIFT_WORDS = 397, BLOCK = 16 };

typedef struct mt19937 {
    uint32_t state[STATE_WORDS];
    int next;
} mt19937;

static void mt_seed(mt19937 *g, uint32_t seed) {
    g->state[0] = seed;
    for (uint32_t i = 1; i < STATE_WORDS; i++) g->state[i] = 1812433253u * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + i;
    g->next = STATE_WORDS;
}

static void mt_refill(mt19937 *g) {
    for (int i = 0; i < STATE_WORDS; i++) {
        uint32_t y = (g->state[i] & 0x80000000u) | (g->state[(i + 1) % STATE_WORDS] & 0x7fffffffu);
        g->state[i] = g->state[(i + SHIFT_WORDS) % STATE_WORDS] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    g->next = 0;
}

static uint32_t mt_draw(mt19937 *g) {
    if (g->next == STATE_WORDS) mt_refill(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static float uniform(mt19937 *g) { return (float)(mt_draw(g) & 0xffffffu) * 0x1p-24f; }

/* Box-Muller on 16 uniforms: the first eight give radii, the last eight angles. */
static void normal_block(float *d) {
    for (int j = 0; j < BLOCK / 2; j++) {
        float radius = sqrtf(-2.0f * logf(1.0f - d[j]));
        float theta = 6.283185307179586f * d[j + BLOCK / 2];
        d[j] = radius * cosf(theta);
        d[j + BLOCK / 2] = radius * sinf(theta);
    }
}

ddit_status dd_randn_torch(uint64_t seed, size_t count, float *out, ddit_err *err) {
    if (count < BLOCK)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "noise of %zu values was asked for; at least %d are needed", count, BLOCK);
    mt19937 g;
    mt_seed(&g, (uint32_t)seed);
    for (size_t i = 0; i < count; i++) out[i] = uniform(&g);
    for (size_t i = 0; i + BLOCK <= count; i += BLOCK) normal_block(out + i);
    if (count % BLOCK) { /* torch draws the last 16 anew instead of leaving a short block */
        float *tail = out + count - BLOCK;
        for (int i = 0; i < BLOCK; i++) tail[i] = uniform(&g);
        normal_block(tail);
    }
    return DDIT_OK;
}
