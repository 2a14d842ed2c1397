#include "backend/cpu/rows.h"

#include "backend/cpu/onednn.h"

/* Handing a part over costs one to two microseconds; a row kernel touches about 10 values per nanosecond in cache. */
enum { WORK_PER_PART = 16 * 1024, PARTS_PER_THREAD = 4 };

void dd_cpu_run(dd_cpu *cpu, int64_t count, dd_pool_task run, void *user) {
    int old = dd_onednn_one_thread_begin();
    dd_pool_run(cpu->pool, count, run, user);
    dd_onednn_one_thread_end(old);
}

typedef struct parts_job {
    dd_cpu_rows_fn fn;
    const void *job;
    int64_t rows, parts;
} parts_job;

static void run_part(void *user, int64_t i, int thread) {
    const parts_job *p = user;
    (void)thread;
    p->fn(p->job, p->rows * i / p->parts, p->rows * (i + 1) / p->parts);
}

void dd_cpu_for_rows(dd_backend *b, int64_t rows, int64_t work, dd_cpu_rows_fn fn, const void *job) {
    int64_t parts = work / WORK_PER_PART, most = (int64_t)b->threads * PARTS_PER_THREAD;
    if (parts > most) parts = most;
    if (parts > rows) parts = rows;
    if (parts <= 1 || b->threads == 1) {
        fn(job, 0, rows);
        return;
    }
    parts_job p = {fn, job, rows, parts};
    dd_pool_run(dd_cpu_of(b)->pool, parts, run_part, &p);
}
