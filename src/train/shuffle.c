#include "train/shuffle.h"

#include "base/counter_rng.h"
#include "train/streams.h"

enum { ROUNDS = 6 };

uint64_t dd_shuffle_at(uint64_t seed, uint64_t pass, uint64_t count, uint64_t place) {
    int half = 1;
    while (half < 32 && (UINT64_C(1) << (2 * half)) < count) half++;
    uint64_t mask = (UINT64_C(1) << half) - 1, stream = dd_stream_of(DD_STREAM_SHUFFLE, pass);
    do {
        uint64_t left = place >> half, right = place & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t mixed = left ^ (dd_counter_bits(seed, stream, round << 32 | right) & mask);
            left = right;
            right = mixed;
        }
        place = left << half | right;
    } while (place >= count);
    return place;
}
