/* Dividing work among the backend's threads. Private to the room. */
#ifndef DD_BACKEND_CPU_ROWS_H
#define DD_BACKEND_CPU_ROWS_H

#include "backend/cpu/cpu_state.h"

/* Calls run(user, task, thread) for tasks 0..count-1 on the backend's threads (base/pool.h). oneDNN primitives executed inside
 * stay on the thread that executes them. */
void dd_cpu_run(dd_cpu *cpu, int64_t count, dd_pool_task run, void *user);

typedef void (*dd_cpu_rows_fn)(const void *job, int64_t begin, int64_t end);

/* Calls fn for ranges that cover rows [0, rows) once, on up to as many threads as the backend has. `work` is about the number
 * of values the whole job touches: small jobs stay on the calling thread, because handing them over costs more. fn must give
 * each row the same bytes whatever range it is called for. */
void dd_cpu_for_rows(dd_backend *b, int64_t rows, int64_t work, dd_cpu_rows_fn fn, const void *job);

#endif
