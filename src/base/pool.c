#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* Idle threads look for work this often before they sleep: longer than the pause between two ops of a step, so that a step
 * never pays for a wake-up, and short enough not to burn a core between steps. */
enum { SPINS_BEFORE_SLEEP = 4000, SPINS_BEFORE_YIELD = 200 };

/* `state`: bits 0-15 threads inside the job, bit 16 the job is open, the rest counts jobs. */
#define ACTIVE_MASK UINT64_C(0xffff)
#define OPEN_BIT UINT64_C(0x10000)
#define JOB_UNIT UINT64_C(0x20000)

typedef struct helper_thread {
    pthread_t thread;
    struct dd_pool *pool;
    int worker;
} helper_thread;

struct dd_pool {
    const dd_allocator *allocator;
    int helper_count;
    helper_thread *helpers; /* owned */
    void (*on_start)(void);
    /* the job: written by the caller while no thread is inside, published by `state` */
    dd_pool_task run;
    void *user;
    int64_t count;
    _Alignas(64) _Atomic uint64_t state;
    _Alignas(64) _Atomic int64_t next;
    _Atomic int sleepers;
    _Atomic bool stopping;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(dd_pool *pool, int worker) {
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->count) return;
        pool->run(pool->user, task, worker);
    }
}

/* Enters the open job, if there is one. */
static bool enter(dd_pool *pool) {
    uint64_t state = atomic_load(&pool->state);
    while (state & OPEN_BIT)
        if (atomic_compare_exchange_weak(&pool->state, &state, state + 1)) return true;
    return false;
}

static bool has_news(dd_pool *pool) { return (atomic_load(&pool->state) & OPEN_BIT) || atomic_load(&pool->stopping); }

static void sleep_until_news(dd_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool)) pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *help(void *argument) {
    helper_thread *self = argument;
    dd_pool *pool = self->pool;
    if (pool->on_start) pool->on_start();
    while (!atomic_load(&pool->stopping)) {
        if (enter(pool)) {
            take_tasks(pool, self->worker);
            atomic_fetch_sub(&pool->state, 1);
            /* the job stays open until the caller has seen its end: do not enter it again */
            uint64_t job = atomic_load(&pool->state) / JOB_UNIT;
            while ((atomic_load(&pool->state) & OPEN_BIT) && atomic_load(&pool->state) / JOB_UNIT == job &&
                   !atomic_load(&pool->stopping))
                sched_yield();
            continue;
        }
        int spins = 0;
        while (!has_news(pool) && spins < SPINS_BEFORE_SLEEP) relax(), spins++;
        if (spins == SPINS_BEFORE_SLEEP) sleep_until_news(pool);
    }
    return NULL;
}

ddit_status dd_pool_create(dd_pool **out, const dd_allocator *a, int threads, void (*on_start)(void), ddit_err *err) {
    dd_pool *pool;
    *out = NULL;
    DD_TRY(dd_alloc(a, &pool, 1, sizeof *pool, "the threads", err));
    pool->allocator = a;
    pool->on_start = on_start;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    ddit_status status = dd_alloc(a, &pool->helpers, (size_t)threads, sizeof *pool->helpers, "the threads", err);
    for (int i = 0; i + 1 < threads && status == DDIT_OK; i++) {
        helper_thread *helper = &pool->helpers[i];
        *helper = (helper_thread){.pool = pool, .worker = i + 1};
        if (pthread_create(&helper->thread, NULL, help, helper) == 0) pool->helper_count++;
        else status = dd_fail(err, DDIT_ERR_BACKEND, "the system gave %d of %d threads: ask for fewer", i + 1, threads);
    }
    if (status != DDIT_OK) {
        dd_pool_free(pool);
        return status;
    }
    *out = pool;
    return DDIT_OK;
}

void dd_pool_free(dd_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stopping, true);
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->helper_count; i++) pthread_join(pool->helpers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    dd_free(pool->allocator, pool->helpers);
    dd_free(pool->allocator, pool);
}

static void open_job(dd_pool *pool) {
    uint64_t state = atomic_load(&pool->state);
    atomic_store(&pool->next, 0);
    atomic_store(&pool->state, ((state / JOB_UNIT + 1) * JOB_UNIT) | OPEN_BIT);
    if (atomic_load(&pool->sleepers) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* No thread may enter any more; waits for those inside, each of which holds its last task. */
static void close_job(dd_pool *pool) {
    atomic_fetch_and(&pool->state, ~OPEN_BIT);
    for (int spins = 0; atomic_load(&pool->state) & ACTIVE_MASK; spins++)
        if (spins < SPINS_BEFORE_YIELD) relax();
        else sched_yield();
}

void dd_pool_run(dd_pool *pool, int64_t count, dd_pool_task run, void *user) {
    if (pool->helper_count == 0 || count <= 1) {
        for (int64_t task = 0; task < count; task++) run(user, task, 0);
        return;
    }
    pool->run = run;
    pool->user = user;
    pool->count = count;
    open_job(pool);
    take_tasks(pool, 0);
    close_job(pool);
}
