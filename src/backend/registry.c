#include "backend/registry.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "backend/ref/ref.h"

/* Cores this process may run on, at least 1. */
static int usable_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than the set has room for */
    return online > 0 ? (int)online : 1;
}

static ddit_status open_cpu(dd_backend **out, const char *name, dd_precision precision, int threads, const dd_allocator *a,
                            ddit_err *err) {
    bool bf16 = precision == DD_PRECISION_BF16 || (precision == DD_PRECISION_AUTO && dd_cpu_has_bf16());
    if (bf16 && !dd_cpu_has_bf16())
        return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                       "backend %s: precision bf16 was asked for, but this processor does not multiply bf16 (it needs "
                       "AVX512-BF16 or AMX-BF16); use f32 or auto", name);
    dd_cpu_options options = {.activation = bf16 ? DD_DTYPE_BF16 : DD_DTYPE_F32,
                              .threads = threads ? threads : usable_cores(),
                              .only_onednn = strcmp(name, "cpu-onednn") == 0};
    return dd_cpu_open(out, a, &options, err);
}

ddit_status dd_backend_open(dd_backend **out, const char *name, dd_precision precision, int threads, const dd_allocator *a,
                            ddit_err *err) {
    *out = NULL;
    if (!name) name = "cpu";
    if (threads < 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "backend %s: %d threads were asked for, expected 0 (one per core) or more",
                       name, threads);
    if (strcmp(name, "cpu") == 0 || strcmp(name, "cpu-onednn") == 0) return open_cpu(out, name, precision, threads, a, err);
    if (strcmp(name, "ref") != 0)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "backend \"%s\" is not known; there are cpu, cpu-onednn and ref", name);
    if (precision == DD_PRECISION_BF16)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "backend ref computes in float32 only; use precision f32 or auto");
    return dd_ref_open(out, a, err);
}

void dd_backend_close(dd_backend *b) {
    if (b) b->ops->close(b);
}
