#include <stdatomic.h>
#include <time.h>

#include "base/pool.h"
#include "harness.h"

enum { TASKS = 1000 };

typedef struct job {
    _Atomic int done[TASKS];
    _Atomic int workers_seen;
} job;

static void mark(void *user, int64_t task, int worker) {
    job *j = user;
    atomic_fetch_add(&j->done[task], 1);
    atomic_fetch_or(&j->workers_seen, 1 << worker);
}

/* Every task exactly once, over many short jobs: lost or doubled tasks are what a wrong hand-over would show. */
static void each_task_once(dd_test *t) {
    static const int threads[] = {1, 2, 3, 8};
    for (int i = 0; i < 4; i++) {
        dd_pool *pool;
        DD_NEED_OK(t, dd_pool_create(&pool, &dd_allocator_libc, threads[i], NULL, &t->err));
        for (int round = 0; round < 2000; round++) {
            static job empty;
            job j = empty;
            int count = round % 7 == 0 ? TASKS : round % 5;
            dd_pool_run(pool, count, mark, &j);
            for (int k = 0; k < TASKS; k++)
                if (j.done[k] != (k < count)) {
                    dd_test_fail(t, __FILE__, __LINE__, "%d threads, round %d: task %d ran %d times", threads[i], round, k,
                                 j.done[k]);
                    break;
                }
            DD_CHECK(t, j.workers_seen >> threads[i] == 0);
        }
        dd_pool_free(pool);
    }
}

static _Atomic int started;
static void count_start(void) { atomic_fetch_add(&started, 1); }

static void start_hook_and_idle(dd_test *t) {
    dd_pool *pool;
    started = 0;
    DD_NEED_OK(t, dd_pool_create(&pool, &dd_allocator_libc, 4, count_start, &t->err));
    struct timespec pause = {0, 20000000}; /* long enough for the threads to fall asleep */
    nanosleep(&pause, NULL);
    static job j;
    dd_pool_run(pool, TASKS, mark, &j);
    for (int k = 0; k < TASKS; k++) DD_CHECK(t, j.done[k] == 1);
    dd_pool_free(pool);
    DD_CHECK(t, started == 3);
    dd_pool_free(NULL);
}

static void memory_failures(dd_test *t) {
    for (size_t n = 1; n < 10; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        dd_pool *pool;
        ddit_status status = dd_pool_create(&pool, &a.allocator, 2, NULL, &t->err);
        if (status == DDIT_OK) {
            dd_pool_free(pool);
            DD_CHECK(t, a.live == 0);
            return;
        }
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY && pool == NULL && a.live == 0);
    }
    DD_CHECK(t, !"never succeeds");
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"each_task_once", each_task_once}, {"start_hook_and_idle", start_hook_and_idle}, {"memory_failures", memory_failures}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
