/* Ranks by MPI (MPI-3 and later). Only the thread that opened the comm may use it (MPI_THREAD_FUNNELED). */
#include <mpi.h>

#include "comm/comm_transport.h"

typedef struct mpi_state {
    MPI_Comm comm;   /* owned: a duplicate of the world, so that messages of an embedding program stay apart */
    bool initialised; /* by us, and so finalised by us */
} mpi_state;

static ddit_status check(int code, const char *what, ddit_err *err) {
    if (code == MPI_SUCCESS) return DDIT_OK;
    char reason[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, reason, &length);
    return dd_fail(err, DDIT_ERR_BACKEND, "MPI failed to %s: %.300s", what, reason);
}

/* Starts MPI, or finds it started by an embedding program. *level: the threads it allows. */
static ddit_status start(bool *initialised, int *level, ddit_err *err) {
    int done = 0, over = 0;
    DD_TRY(check(MPI_Finalized(&over), "answer", err));
    if (over) return dd_fail(err, DDIT_ERR_BACKEND, "MPI was already finalised in this process and cannot start again");
    DD_TRY(check(MPI_Initialized(&done), "answer", err));
    if (done) return check(MPI_Query_thread(level), "answer", err);
    DD_TRY(check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, level), "start", err));
    *initialised = true;
    return DDIT_OK;
}

static void close_mpi(void *opaque, const dd_allocator *a) {
    mpi_state *state = opaque;
    if (state->comm != MPI_COMM_NULL) MPI_Comm_free(&state->comm);
    if (state->initialised) MPI_Finalize();
    dd_free(a, state);
}

static ddit_status open_mpi(void **out, const dd_allocator *a, int *rank, int *size, ddit_err *err) {
    mpi_state *state;
    ddit_status status;
    int level = MPI_THREAD_SINGLE;
    *out = NULL;
    DD_TRY(dd_alloc(a, &state, 1, sizeof *state, "the ranks", err));
    *state = (mpi_state){.comm = MPI_COMM_NULL};
    DD_GO(start(&state->initialised, &level, err));
    if (level < MPI_THREAD_FUNNELED) {
        status = dd_fail(err, DDIT_ERR_UNSUPPORTED, "MPI runs without threads here: initialise it with MPI_THREAD_FUNNELED");
        goto done;
    }
    DD_GO(check(MPI_Comm_dup(MPI_COMM_WORLD, &state->comm), "join the ranks", err));
    DD_GO(check(MPI_Comm_set_errhandler(state->comm, MPI_ERRORS_RETURN), "join the ranks", err));
    DD_GO(check(MPI_Comm_rank(state->comm, rank), "number the ranks", err));
    DD_GO(check(MPI_Comm_size(state->comm, size), "count the ranks", err));
    *out = state;
    return DDIT_OK;
done:
    close_mpi(state, a);
    return status;
}

static ddit_status exchange(void *opaque, const void *send, void *receive, size_t part, ddit_err *err) {
    mpi_state *state = opaque;
    return check(MPI_Alltoall(send, (int)part, MPI_BYTE, receive, (int)part, MPI_BYTE, state->comm), "exchange values", err);
}

static ddit_status gather_all(void *opaque, const void *mine, void *all, size_t part, ddit_err *err) {
    mpi_state *state = opaque;
    return check(MPI_Allgather(mine, (int)part, MPI_BYTE, all, (int)part, MPI_BYTE, state->comm), "gather values", err);
}

static ddit_status broadcast(void *opaque, void *bytes, size_t count, ddit_err *err) {
    mpi_state *state = opaque;
    return check(MPI_Bcast(bytes, (int)count, MPI_BYTE, 0, state->comm), "send values", err);
}

const dd_comm_transport dd_comm_mpi = {open_mpi, close_mpi, exchange, gather_all, broadcast};
