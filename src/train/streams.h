/* Which stream of the counter-based generator (base/counter_rng.h) each use of chance takes, so that no two uses share
 * numbers. */
#ifndef DD_TRAIN_STREAMS_H
#define DD_TRAIN_STREAMS_H

#include <stdint.h>

enum {
    DD_STREAM_LAYOUT_KIND = 1, /* index: sample */
    DD_STREAM_MIXED_LAYOUT,    /* item: sample */
    DD_STREAM_SHUFFLE,         /* item: pass over the data */
    DD_STREAM_NOISE_SEED,      /* index: trajectory */
    DD_STREAM_GUIDANCE,        /* index: trajectory */
    DD_STREAM_NOISE_LEVEL,     /* item: trajectory */
    DD_STREAM_PICTURE_LEVEL,   /* index: sample */
    DD_STREAM_PICTURE_CAPTION, /* index: sample */
    DD_STREAM_PICTURE_GUIDANCE, /* index: sample */
    DD_STREAM_PICTURE_FLIP,    /* index: sample */
    DD_STREAM_PICTURE_NOISE,   /* item: sample */
    DD_STREAM_USES = 64        /* further rooms and files count from here */
};

/* The stream of one of many items of a use. */
static inline uint64_t dd_stream_of(int use, uint64_t item) { return item * DD_STREAM_USES * 4 + (uint64_t)use; }

#endif
