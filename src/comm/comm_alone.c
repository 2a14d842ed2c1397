/* One rank without MPI. */
#include "comm/comm_transport.h"

#include <stdlib.h>

ddit_status dd_comm_check_alone(ddit_err *err) {
    /* how launchers tell a process the number of ranks: Open MPI; MPICH and its relatives; Hydra; MVAPICH; srun */
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE",
                                        "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        long ranks = value ? strtol(value, NULL, 10) : 1;
        if (ranks > 1)
            return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                           "found %ld ranks (%s), but this build has no MPI and trains with one: build with -DDDIT_MPI=ON, or "
                           "start it without mpirun",
                           ranks, names[i]);
    }
    return DDIT_OK;
}
