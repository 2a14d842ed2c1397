/* Several processes that train one model together: ranks. With MPI (built with -DDDIT_MPI=ON and started by mpirun), or one
 * rank alone. The only room that knows MPI. All ranks make the same calls in the same order, from the thread that opened the
 * comm. Errors of all: DDIT_ERR_BACKEND, with MPI's reason.
 */
#ifndef DD_COMM_COMM_H
#define DD_COMM_COMM_H

#include "base/alloc.h"

typedef struct dd_comm dd_comm;

/* Joins the ranks of this start (MPI_Init, unless the embedding program has done that), or makes a world of one. Under mpirun
 * with a build without MPI: DDIT_ERR_UNSUPPORTED, saying how to build. *out is NULL on failure. */
ddit_status dd_comm_open(dd_comm **out, const dd_allocator *a, ddit_err *err);
void dd_comm_close(dd_comm *comm); /* NULL accepted; all ranks must call it (MPI_Finalize if we did MPI_Init) */

int dd_comm_rank(const dd_comm *comm);  /* 0..size-1; rank 0 writes files and talks */
int dd_comm_size(const dd_comm *comm);

/* values[count] = the sum over all ranks, float32 as a tree of pairs ((0 + 1) + (2 + 3)), float64 in the order of the ranks;
 * the same bytes on every rank. Needs 8 MiB, not count. */
ddit_status dd_comm_sum_f32(dd_comm *comm, float *values, size_t count, ddit_err *err);
ddit_status dd_comm_sum_f64(dd_comm *comm, double *values, size_t count, ddit_err *err);

/* bytes[count] of rank 0, on every rank. */
ddit_status dd_comm_broadcast(dd_comm *comm, void *bytes, size_t count, ddit_err *err);

/* Every rank gives its status; all get the worst (the lowest code), so that one failing rank stops all. Returns `mine` if all
 * are well or `mine` is bad; on a good rank the sentence says which rank failed. */
ddit_status dd_comm_agree(dd_comm *comm, ddit_status mine, ddit_err *err);

#endif
