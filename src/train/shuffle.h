/* A random order of 0..count-1 without a table: the place of an element is computed. */
#ifndef DD_TRAIN_SHUFFLE_H
#define DD_TRAIN_SHUFFLE_H

#include <stdint.h>

/* The element at `place` (0..count-1) of the order of pass `pass`; every element comes exactly once. count >= 1.
 * Source: a Feistel network over the next even power of two, walked until the result is in range (Black & Rogaway 2002). */
uint64_t dd_shuffle_at(uint64_t seed, uint64_t pass, uint64_t count, uint64_t place);

#endif
