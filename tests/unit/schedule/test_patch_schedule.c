/* Written schedules: reading, writing, refusing; schedules from traces. */
#include "harness.h"
#include "schedule/patch_schedule.h"

static void reads_and_writes(dd_test *t) {
    static const struct {
        const char *text, *written;
        int count;
    } cases[] = {
        {"1x3,2x20,4x7,1x20", "1x3,2x20,4x7,1x20", 50},
        {"1x1", "1x1", 1},
        {"4p*8,2p*26,1p*16", "4x8,2x26,1x16", 50},
        {" 2 p x 3 , 1 * 2 ", "2x3,1x2", 5},
        {"2x1,2x2,1x1", "2x3,1x1", 4},
        {"1x1000", "1x1000", 1000},
        {"01x007", "1x7", 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dd_patch_schedule s;
        DD_NEED_OK(t, dd_patch_schedule_parse(&s, &dd_allocator_libc, cases[i].text, &t->err));
        DD_CHECK(t, s.count == cases[i].count);
        char *text = NULL;
        DD_NEED_OK(t, dd_patch_schedule_format(&s, &dd_allocator_libc, &text, &t->err));
        DD_CHECK(t, strcmp(text, cases[i].written) == 0);
        dd_free(&dd_allocator_libc, text);
        dd_patch_schedule_deinit(&s);
    }
}

static void expands(dd_test *t) {
    dd_patch_schedule s;
    DD_NEED_OK(t, dd_patch_schedule_parse(&s, &dd_allocator_libc, "1x2,4x1,2x2", &t->err));
    static const uint8_t expected[] = {1, 1, 4, 2, 2};
    DD_CHECK(t, s.count == 5 && memcmp(s.factor, expected, 5) == 0);
    dd_patch_schedule_deinit(&s);
}

static void random_round_trips(dd_test *t) {
    uint64_t state = 3;
    for (int round = 0; round < 100; round++) {
        int count = round == 0 ? DD_MAX_STEPS : 1 + (int)(dd_test_random_u32(&state) % 200);
        dd_patch_schedule a, b;
        DD_NEED_OK(t, dd_patch_schedule_init(&a, &dd_allocator_libc, count, &t->err));
        for (int k = 0; k < count; k++) dd_patch_schedule_record(&a, k, dd_factor_at((int)(dd_test_random_u32(&state) % 3)));
        char *text = NULL;
        DD_NEED_OK(t, dd_patch_schedule_format(&a, &dd_allocator_libc, &text, &t->err));
        DD_NEED_OK(t, dd_patch_schedule_parse(&b, &dd_allocator_libc, text, &t->err));
        DD_CHECK(t, a.count == b.count && memcmp(a.factor, b.factor, (size_t)count) == 0);
        dd_free(&dd_allocator_libc, text);
        dd_patch_schedule_deinit(&a);
        dd_patch_schedule_deinit(&b);
    }
}

static void refuses(dd_test *t) {
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"", "character 1: found the end, expected a factor"},
        {"   ", "character 4: found the end, expected a factor"},
        {"auto", "character 1: found 'a', expected a factor"},
        {"1x3,", "character 5: found the end, expected a factor"},
        {"1x3,,2x2", "character 5: found ',', expected a factor"},
        {"3x5", "character 1: found factor 3, expected 1, 2 or 4"},
        {"1x2,8x5", "character 5: found factor 8, expected 1, 2 or 4"},
        {"0x5", "found factor 0"},
        {"99999999999999999999x5", "found factor 99999999999999999999,"},
        {"1x0", "character 3: found 0 steps, expected at least 1"},
        {"1", "character 2: found the end, expected 'x'"},
        {"1-3", "character 2: found '-', expected 'x'"},
        {"1x", "character 3: found the end, expected a number of steps"},
        {"1x-3", "character 3: found '-', expected a number of steps"},
        {"1x3;2x4", "character 4: found ';', expected ',' or the end"},
        {"1x3 2x4", "character 5: found '2', expected ',' or the end"},
        {"1x1001", "character 3: found more than 1000 steps in all"},
        {"1x600,2x401", "character 9: found more than 1000 steps in all"},
        {"1x99999999999999999999", "more than 1000 steps"},
        {"1x4294967297", "more than 1000 steps"},
        {"1x3,mx4", "@FILE"},
        {"1xx3", "character 3: found 'x', expected a number"},
        {"1x3\xc2\xa0", "character 4: found byte 0xC2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dd_patch_schedule s;
        DD_FAILS(t, dd_patch_schedule_parse(&s, &dd_allocator_libc, cases[i].text, &t->err), DDIT_ERR_ARGUMENT,
                 cases[i].complaint);
        DD_CHECK(t, !s.allocator && !s.factor && s.count == 0);
        dd_patch_schedule_deinit(&s);
    }
}

static void steps_of_a_trace(dd_test *t) {
    dd_patch_schedule s;
    DD_NEED_OK(t, dd_patch_schedule_init(&s, &dd_allocator_libc, 4, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 0, NULL, (const int64_t[]){64, 0, 0}, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 1, "4(2211)44", (const int64_t[]){8, 2, 3}, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 2, "(2222)444", NULL, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 3, "4444", NULL, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 3, NULL, (const int64_t[]){0, 16, 0}, &t->err));
    DD_FAILS(t, dd_patch_schedule_set_step(&s, 3, NULL, (const int64_t[]){4, 16, 0}, &t->err), DDIT_ERR_FORMAT,
             "step 3 has no layout");
    DD_FAILS(t, dd_patch_schedule_set_step(&s, 3, NULL, (const int64_t[]){0, 0, 0}, &t->err), DDIT_ERR_FORMAT, "exactly one");
    DD_FAILS(t, dd_patch_schedule_set_step(&s, 3, NULL, (const int64_t[]){0, -1, 0}, &t->err), DDIT_ERR_FORMAT, "exactly one");
    DD_FAILS(t, dd_patch_schedule_set_step(&s, 4, "4444", NULL, &t->err), DDIT_ERR_FORMAT, "expected 0 to 3");
    DD_FAILS(t, dd_patch_schedule_set_step(&s, -1, "4444", NULL, &t->err), DDIT_ERR_FORMAT, "step -1");

    dd_layout layout;
    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){8, 8, 2}, &t->err));
    static const bool all[] = {true, true, true}, no_two[] = {true, false, true};
    DD_OK(t, dd_patch_schedule_check(&s, 4, all, &layout, &t->err));
    DD_FAILS(t, dd_patch_schedule_check(&s, 5, all, &layout, &t->err), DDIT_ERR_ARGUMENT, "has 4 steps and the run 5");
    DD_FAILS(t, dd_patch_schedule_check(&s, 4, no_two, &layout, &t->err), DDIT_ERR_ARGUMENT,
             "step 1 of the schedule wants factor 2");
    DD_OK(t, dd_patch_schedule_layout(&s, 1, &layout, &t->err));
    DD_CHECK(t, layout.cell_count[0] == 8 && layout.cell_count[1] == 2 && layout.cell_count[2] == 3);
    DD_OK(t, dd_patch_schedule_layout(&s, 3, &layout, &t->err));
    DD_CHECK(t, dd_layout_uniform_factor(&layout) == 2);
    char *text = NULL;
    DD_NEED_OK(t, dd_patch_schedule_format(&s, &dd_allocator_libc, &text, &t->err));
    DD_CHECK(t, strcmp(text, "1x1,mx2,2x1") == 0);
    dd_free(&dd_allocator_libc, text);
    dd_layout_deinit(&layout);

    DD_NEED_OK(t, dd_layout_init(&layout, &dd_allocator_libc, (dd_grid){8, 6, 2}, &t->err)); /* another picture */
    DD_FAILS(t, dd_patch_schedule_check(&s, 4, all, &layout, &t->err), DDIT_ERR_MISMATCH,
             "step 1 of the schedule does not fit");
    DD_CHECK(t, t->err.code == DDIT_ERR_MISMATCH && strstr(t->err.text, "character"));
    dd_patch_schedule_record(&s, 1, 0);
    DD_FAILS(t, dd_patch_schedule_check(&s, 4, all, &layout, &t->err), DDIT_ERR_MISMATCH, "not kept");
    DD_CHECK(t, dd_patch_schedule_check(&s, 4, all, &layout, NULL) == DDIT_ERR_MISMATCH);
    dd_layout_deinit(&layout);
    dd_patch_schedule_deinit(&s);
}

static void memory(dd_test *t) {
    dd_patch_schedule s;
    DD_FAILS(t, dd_patch_schedule_init(&s, &dd_allocator_libc, 0, &t->err), DDIT_ERR_ARGUMENT, "0 steps");
    DD_FAILS(t, dd_patch_schedule_init(&s, &dd_allocator_libc, 1001, &t->err), DDIT_ERR_ARGUMENT, "1001 steps");
    for (size_t n = 1; n <= 2; n++) {
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        counter.fail_at = n;
        DD_FAILS(t, dd_patch_schedule_parse(&s, &counter.allocator, "1x3", &t->err), DDIT_ERR_NO_MEMORY, NULL);
        DD_CHECK(t, counter.live == 0 && !s.allocator);
    }
    dd_test_allocator counter;
    dd_test_allocator_init(&counter);
    DD_NEED_OK(t, dd_patch_schedule_init(&s, &counter.allocator, 3, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 1, "4", NULL, &t->err));
    DD_OK(t, dd_patch_schedule_set_step(&s, 1, "(1111)", NULL, &t->err));
    counter.fail_at = counter.total + 1;
    DD_FAILS(t, dd_patch_schedule_set_step(&s, 1, "4", NULL, &t->err), DDIT_ERR_NO_MEMORY, NULL);
    DD_CHECK(t, strcmp(s.layout[1], "(1111)") == 0);
    counter.fail_at = counter.total + 1;
    char *text;
    DD_FAILS(t, dd_patch_schedule_format(&s, &counter.allocator, &text, &t->err), DDIT_ERR_NO_MEMORY, NULL);
    dd_patch_schedule_deinit(&s);
    DD_CHECK(t, counter.live == 0);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"reads_and_writes", reads_and_writes},
        {"expands", expands},
        {"random_round_trips", random_round_trips},
        {"refuses", refuses},
        {"steps_of_a_trace", steps_of_a_trace},
        {"memory", memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
