/* A pool of threads that share numbered tasks.
 *
 * Why not OpenMP's loops: their barrier waits for every thread of the team, so that on a machine with other load one
 * descheduled thread stalls every op (SPEED.md). Here tasks are taken one by one, the caller works too, and it waits only for
 * threads that hold a task.
 */
#ifndef DD_BASE_POOL_H
#define DD_BASE_POOL_H

#include "base/alloc.h"

typedef struct dd_pool dd_pool;

/* One task: `task` in 0..count-1; `worker` in 0..threads-1 tells which thread runs it (0 = the caller), for scratch memory. */
typedef void (*dd_pool_task)(void *user, int64_t task, int worker);

/* threads >= 1, the caller included. on_start (may be NULL) is called once on every new thread.
 * Errors: DDIT_ERR_NO_MEMORY, DDIT_ERR_BACKEND (the system gives no thread). */
ddit_status dd_pool_create(dd_pool **out, const dd_allocator *a, int threads, void (*on_start)(void), ddit_err *err);

/* Ends the threads; NULL is accepted. Not during a run. */
void dd_pool_free(dd_pool *pool);

/* Calls run(user, t, worker) for every t in 0..count-1 exactly once, in any order and on any threads, and returns when all are
 * done. One call at a time. Allocates nothing. */
void dd_pool_run(dd_pool *pool, int64_t count, dd_pool_task run, void *user);

#endif
