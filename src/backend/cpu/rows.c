#include "backend/cpu/rows.h"

/* A parallel region costs 2 to 10 microseconds; a row kernel touches about 10 values per nanosecond in cache. */
enum { WORK_PER_THREAD = 64 * 1024 };

void dd_cpu_for_rows(int threads, int64_t rows, int64_t work, dd_cpu_rows_fn fn, const void *job) {
    int64_t parts = work / WORK_PER_THREAD;
    if (parts > threads) parts = threads;
    if (parts > rows) parts = rows;
    if (parts <= 1) {
        fn(job, 0, rows);
        return;
    }
#pragma omp parallel for num_threads((int)parts) schedule(static, 1)
    for (int64_t i = 0; i < parts; i++) fn(job, rows * i / parts, rows * (i + 1) / parts);
}
