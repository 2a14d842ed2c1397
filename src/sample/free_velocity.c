#include "sample/free_velocity.h"

#include "schedule/free_step.h"

ddit_status dd_free_velocity(const dd_free_velocity_args *args, dd_backend *b, ddit_err *err) {
    dd_free_step scalars = dd_free_step_at(args->sigma, args->factor, (double)args->detail);
    DD_TRY(dd_op_pool_mean(b, args->z_small, args->z, args->factor, 1.0f / scalars.scale, err));
    DD_TRY(dd_flux_run_velocity(args->run, args->branch, args->time_index, scalars.sigma, args->small, args->z_small,
                                args->v_small, err));
    return dd_op_coarse_lift(b,
                             &(dd_coarse_lift_args){.velocity = args->velocity,
                                                    .z = args->z,
                                                    .z_small = args->z_small,
                                                    .v_small = args->v_small,
                                                    .k = args->factor,
                                                    .a = scalars.scale,
                                                    .sigma = args->sigma,
                                                    .sigma_small = scalars.sigma,
                                                    .gain = scalars.gain},
                             err);
}
