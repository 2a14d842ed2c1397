/* Runs with one rank, and in builds with MPI under mpirun with several: every case holds for any number. */
#include "comm/comm.h"

#include "comm/comm_transport.h"
#include "harness.h"

/* One comm for all cases: MPI starts once in a process. */
static dd_comm *comm;

static float value_of(int rank, size_t i) {
    return (float)((double)((i * 2654435761u + (size_t)rank * 97u) % 1000003) / 977 - 500);
}

static uint64_t hash(const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++) h = (h ^ bytes[i]) * 0x100000001b3;
    return h;
}

/* The hash on rank 0 must be that of every rank. */
static void check_same_bytes(dd_test *t, const void *data, size_t size) {
    uint64_t mine = hash(data, size), first = mine;
    DD_OK(t, dd_comm_broadcast(comm, &first, sizeof first, &t->err));
    DD_CHECK(t, first == mine);
}

/* Ranks first to first + ranks - 1 as a tree of pairs. */
static float sum_of(int first, int ranks, size_t i) {
    int half = 1;
    if (ranks == 1) return value_of(first, i);
    while (2 * half < ranks) half *= 2;
    return sum_of(first, half, i) + sum_of(first + half, ranks - half, i);
}

static void sums_f32(dd_test *t) {
    static const size_t counts[] = {0, 1, 3, 1000, 1048575, 1048576, 2500001};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        size_t count = counts[k];
        float *values = malloc((count + 1) * sizeof *values);
        DD_NEED(t, values);
        for (size_t i = 0; i <= count; i++) values[i] = value_of(dd_comm_rank(comm), i);
        DD_OK(t, dd_comm_sum_f32(comm, values, count, &t->err));
        size_t wrong = 0;
        for (size_t i = 0; i < count; i++) wrong += values[i] != sum_of(0, dd_comm_size(comm), i);
        DD_CHECK(t, wrong == 0);
        DD_CHECK(t, values[count] == value_of(dd_comm_rank(comm), count));
        check_same_bytes(t, values, count * sizeof *values);
        free(values);
    }
}

static void sums_f64(dd_test *t) {
    enum { COUNT = 700003 };
    double *values = malloc(COUNT * sizeof *values);
    DD_NEED(t, values);
    for (size_t i = 0; i < COUNT; i++) values[i] = value_of(dd_comm_rank(comm), i) / 3.0;
    DD_OK(t, dd_comm_sum_f64(comm, values, COUNT, &t->err));
    size_t wrong = 0;
    for (size_t i = 0; i < COUNT; i++) {
        double sum = 0;
        for (int r = 0; r < dd_comm_size(comm); r++) sum += value_of(r, i) / 3.0;
        wrong += values[i] != sum;
    }
    DD_CHECK(t, wrong == 0);
    check_same_bytes(t, values, COUNT * sizeof *values);
    free(values);
}

static void broadcasts(dd_test *t) {
    char text[64] = "others";
    if (dd_comm_rank(comm) == 0) strcpy(text, "from rank 0");
    DD_OK(t, dd_comm_broadcast(comm, text, sizeof text, &t->err));
    DD_CHECK(t, strcmp(text, "from rank 0") == 0);
    DD_OK(t, dd_comm_broadcast(comm, NULL, 0, &t->err));
}

static void agrees(dd_test *t) {
    int rank = dd_comm_rank(comm), last = dd_comm_size(comm) - 1;
    DD_OK(t, dd_comm_agree(comm, DDIT_OK, &t->err));
    /* the last rank fails */
    ddit_err err = {0};
    ddit_status status = dd_comm_agree(comm, rank == last ? DDIT_ERR_DIVERGED : DDIT_OK, &err);
    DD_CHECK(t, status == DDIT_ERR_DIVERGED);
    if (rank == last) DD_CHECK(t, err.text[0] == '\0');
    char name[32];
    snprintf(name, sizeof name, "rank %d", last);
    if (rank != last) DD_CHECK(t, strstr(err.text, name) && err.code == DDIT_ERR_DIVERGED);
    /* all fail, each in its own way: each keeps its own */
    ddit_status mine = rank % 2 ? DDIT_ERR_WRITE : DDIT_ERR_READ;
    DD_CHECK(t, dd_comm_agree(comm, mine, NULL) == mine);
    /* rank 0 and the last fail differently: the others get the lower code */
    if (last < 2) return;
    mine = rank == 0 ? DDIT_ERR_READ : rank == last ? DDIT_ERR_WRITE : DDIT_OK;
    DD_CHECK(t, dd_comm_agree(comm, mine, NULL) == (mine ? mine : DDIT_ERR_WRITE));
}

/* Put back what the launcher set. */
static void restore(const char *name, const char *value) {
    if (value) setenv(name, value, 1);
    else unsetenv(name);
}

static void refuses_ranks_without_mpi(dd_test *t) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE",
                                        "SLURM_STEP_NUM_TASKS"};
    enum { COUNT = sizeof names / sizeof *names };
    char *old[COUNT];
    for (int i = 0; i < COUNT; i++) {
        const char *value = getenv(names[i]);
        old[i] = value ? strdup(value) : NULL;
        unsetenv(names[i]);
    }
    DD_OK(t, dd_comm_check_alone(&t->err));
    for (int i = 0; i < COUNT; i++) {
        setenv(names[i], "3", 1);
        DD_FAILS(t, dd_comm_check_alone(&t->err), DDIT_ERR_UNSUPPORTED, "found 3 ranks");
        DD_CHECK(t, strstr(t->err.text, names[i]) && strstr(t->err.text, "-DDDIT_MPI=ON"));
        setenv(names[i], "1", 1);
        DD_OK(t, dd_comm_check_alone(&t->err));
        unsetenv(names[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        restore(names[i], old[i]);
        free(old[i]);
    }
}

static void closes_nothing(dd_test *t) {
    (void)t;
    dd_comm_close(NULL);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"sums f32", sums_f32},
        {"sums f64", sums_f64},
        {"broadcasts", broadcasts},
        {"agrees", agrees},
        {"refuses ranks without MPI", refuses_ranks_without_mpi},
        {"closes nothing", closes_nothing},
    };
    ddit_err err = {0};
    dd_test_allocator a;
    dd_test_allocator_init(&a);
    if (dd_comm_open(&comm, &a.allocator, &err) != DDIT_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int code = dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
    dd_comm_close(comm);
    if (a.live != 0) fprintf(stderr, "%zu blocks were not freed\n", a.live);
    return code ? code : a.live != 0;
}
