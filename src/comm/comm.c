#include "comm/comm.h"

#include <string.h>

#include "comm/comm_transport.h"

/* Sums go through two buffers of this size, so that their memory does not grow with the vector. */
enum { STAGE_BYTES = 4 << 20, BROADCAST_BYTES = 1 << 30 };

struct dd_comm {
    const dd_allocator *allocator;
    const dd_comm_transport *transport; /* NULL: one rank without MPI */
    void *state;                        /* owned: the transport's */
    int rank, size;
    uint8_t *send, *receive; /* owned [STAGE_BYTES]; NULL for one rank */
};

static const dd_comm_transport *built_in(void) {
#ifdef DDIT_MPI
    return &dd_comm_mpi;
#else
    return NULL;
#endif
}

ddit_status dd_comm_open(dd_comm **out, const dd_allocator *a, ddit_err *err) {
    dd_comm *comm;
    ddit_status status;
    *out = NULL;
    DD_TRY(dd_alloc(a, &comm, 1, sizeof *comm, "the ranks", err));
    *comm = (dd_comm){.allocator = a, .transport = built_in(), .size = 1};
    DD_GO(comm->transport ? comm->transport->open(&comm->state, a, &comm->rank, &comm->size, err) : dd_comm_check_alone(err));
    if (comm->size > 1) {
        DD_GO(dd_alloc_raw(a, &comm->send, STAGE_BYTES, 1, "sums over ranks", err));
        DD_GO(dd_alloc_raw(a, &comm->receive, STAGE_BYTES, 1, "sums over ranks", err));
    }
    *out = comm;
    return DDIT_OK;
done:
    dd_comm_close(comm);
    return status;
}

void dd_comm_close(dd_comm *comm) {
    if (!comm) return;
    if (comm->state) comm->transport->close(comm->state, comm->allocator);
    dd_free(comm->allocator, comm->send);
    dd_free(comm->allocator, comm->receive);
    dd_free(comm->allocator, comm);
}

int dd_comm_rank(const dd_comm *comm) { return comm->rank; }
int dd_comm_size(const dd_comm *comm) { return comm->size; }

/* Adds up the parts of all ranks in a fixed order. */
typedef void (*add_parts)(void *sum, const void *parts, size_t count, int ranks);

/* Ranks first to first + ranks - 1 as a tree of pairs: (0 + 1) + (2 + 3). A rank that had summed the parts of two ranks as
 * such a pair gives the same sum, so that the number of ranks need not change what is computed. */
static float tree_f32(const float *in, size_t count, int ranks) {
    int half = 1;
    if (ranks == 1) return *in;
    while (2 * half < ranks) half *= 2;
    return tree_f32(in, count, half) + tree_f32(in + (size_t)half * count, count, ranks - half);
}

static void add_f32(void *sum, const void *parts, size_t count, int ranks) {
    float *out = sum;
    const float *in = parts;
    for (size_t i = 0; i < count; i++) out[i] = tree_f32(in + i, count, ranks);
}

static void add_f64(void *sum, const void *parts, size_t count, int ranks) {
    double *out = sum;
    const double *in = parts;
    for (size_t i = 0; i < count; i++) {
        double total = 0;
        for (int r = 0; r < ranks; r++) total += in[(size_t)r * count + i];
        out[i] = total;
    }
}

/* Every rank sums one slice of a chunk over all ranks and hands it to all: each value is computed once, in the order of the
 * ranks, so that all hold the same bytes; and no rank moves more than its share. MPI_Allreduce promises neither. */
static ddit_status sum(dd_comm *comm, void *values, size_t count, size_t width, add_parts add, ddit_err *err) {
    if (comm->size == 1) return DDIT_OK;
    size_t ranks = (size_t)comm->size, slice_max = STAGE_BYTES / width / ranks;
    if (slice_max == 0) return dd_fail(err, DDIT_ERR_UNSUPPORTED, "found %d ranks, expected fewer", comm->size);
    uint8_t *at = values;
    while (count > 0) {
        size_t slice = (count + ranks - 1) / ranks;
        if (slice > slice_max) slice = slice_max;
        size_t chunk = slice * ranks < count ? slice * ranks : count;
        memcpy(comm->send, at, chunk * width);
        memset(comm->send + chunk * width, 0, (slice * ranks - chunk) * width);
        DD_TRY(comm->transport->exchange(comm->state, comm->send, comm->receive, slice * width, err));
        add(comm->send, comm->receive, slice, comm->size);
        DD_TRY(comm->transport->gather_all(comm->state, comm->send, comm->receive, slice * width, err));
        memcpy(at, comm->receive, chunk * width);
        at += chunk * width;
        count -= chunk;
    }
    return DDIT_OK;
}

ddit_status dd_comm_sum_f32(dd_comm *comm, float *values, size_t count, ddit_err *err) {
    return sum(comm, values, count, sizeof *values, add_f32, err);
}

ddit_status dd_comm_sum_f64(dd_comm *comm, double *values, size_t count, ddit_err *err) {
    return sum(comm, values, count, sizeof *values, add_f64, err);
}

ddit_status dd_comm_broadcast(dd_comm *comm, void *bytes, size_t count, ddit_err *err) {
    if (comm->size == 1) return DDIT_OK;
    for (size_t at = 0; at < count; at += BROADCAST_BYTES) {
        size_t part = count - at < BROADCAST_BYTES ? count - at : BROADCAST_BYTES;
        DD_TRY(comm->transport->broadcast(comm->state, (uint8_t *)bytes + at, part, err));
    }
    return DDIT_OK;
}

ddit_status dd_comm_agree(dd_comm *comm, ddit_status mine, ddit_err *err) {
    if (comm->size == 1) return mine;
    if ((size_t)comm->size > STAGE_BYTES / sizeof(int32_t))
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "found %d ranks, expected fewer", comm->size);
    int32_t code = mine, *all = (int32_t *)(void *)comm->receive;
    ddit_err reason = {0};
    ddit_status status = comm->transport->gather_all(comm->state, &code, all, sizeof code, &reason);
    if (mine != DDIT_OK) return mine;
    if (status != DDIT_OK) return dd_fail(err, status, "%s", reason.text);
    int worst = 0;
    for (int r = 1; r < comm->size; r++)
        if (all[r] < all[worst]) worst = r;
    if (all[worst] == DDIT_OK) return DDIT_OK;
    return dd_fail(err, (ddit_status)all[worst], "rank %d of %d failed and this one stops with it: see what rank %d says",
                   worst, comm->size, worst);
}
