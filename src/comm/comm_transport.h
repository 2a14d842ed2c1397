/* What moves bytes between ranks: the table behind comm.h. Internal to this room. */
#ifndef DD_COMM_TRANSPORT_H
#define DD_COMM_TRANSPORT_H

#include "base/alloc.h"

/* Sizes are bytes. All ranks call the same function with the same sizes. Errors: DDIT_ERR_BACKEND with the reason. */
typedef struct dd_comm_transport {
    /* Joins the ranks; *state is the transport's own, NULL on failure. */
    ddit_status (*open)(void **state, const dd_allocator *a, int *rank, int *size, ddit_err *err);
    void (*close)(void *state, const dd_allocator *a);
    /* Part r of `send` goes to rank r, which keeps it as part `sender` of `receive`; part: bytes of one part, fits an int. */
    ddit_status (*exchange)(void *state, const void *send, void *receive, size_t part, ddit_err *err);
    /* all [size parts] = `mine` [part] of every rank, by rank. */
    ddit_status (*gather_all)(void *state, const void *mine, void *all, size_t part, ddit_err *err);
    /* bytes[count] of rank 0, on all; count fits an int. */
    ddit_status (*broadcast)(void *state, void *bytes, size_t count, ddit_err *err);
} dd_comm_transport;

/* Refuses, with a sentence, when the environment shows that a launcher (mpirun, srun) started more than one rank: without MPI
 * each of them would train alone and overwrite the others' files. DDIT_ERR_UNSUPPORTED. */
ddit_status dd_comm_check_alone(ddit_err *err);

/* MPI; defined only in builds with DDIT_MPI. */
extern const dd_comm_transport dd_comm_mpi;

#endif
