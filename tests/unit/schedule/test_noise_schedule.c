/* Noise levels bit for bit against diffusers (tests/golden/schedule/noise.json, made by tools/make_schedule_goldens.py). */
#include <jansson.h>

#include "harness.h"
#include "schedule/noise_schedule.h"

static dd_noise_schedule_params read_params(const json_t *o) {
    dd_noise_schedule_params p = dd_noise_schedule_default_params();
    const json_t *v;
    p.use_dynamic_shifting = json_is_true(json_object_get(o, "use_dynamic_shifting"));
    if ((v = json_object_get(o, "shift"))) p.shift = json_number_value(v);
    if ((v = json_object_get(o, "base_shift"))) p.base_shift = json_number_value(v);
    if ((v = json_object_get(o, "max_shift"))) p.max_shift = json_number_value(v);
    if ((v = json_object_get(o, "base_image_seq_len"))) p.base_image_seq_len = json_number_value(v);
    if ((v = json_object_get(o, "max_image_seq_len"))) p.max_image_seq_len = json_number_value(v);
    if (json_object_get(o, "time_shift_type")) p.time_shift_type = DD_TIME_SHIFT_LINEAR;
    return p;
}

/* n float32 from the hexadecimal of their bits, 8 digits each. */
static bool same_bits(const char *hex, const float *values, int n) {
    if (strlen(hex) != (size_t)n * 8) return false;
    for (int i = 0; i < n; i++) {
        char digits[9] = {0}, mine[9];
        memcpy(digits, hex + 8 * i, 8);
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        snprintf(mine, sizeof mine, "%08x", bits);
        if (strcmp(digits, mine) != 0) return false;
    }
    return true;
}

static uint64_t fnv(uint64_t h, const float *values, int n) {
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        for (int b = 0; b < 4; b++, bits >>= 8) h = (h ^ (bits & 255)) * 0x100000001B3u;
    }
    return h;
}

static void check_case(dd_test *t, const json_t *c) {
    dd_noise_schedule_params params = read_params(json_object_get(c, "params"));
    int tokens = (int)json_integer_value(json_object_get(c, "tokens"));
    dd_noise_schedule s;
    const char *steps;
    json_t *pair;
    json_object_foreach(json_object_get(c, "full"), steps, pair) {
        int n = atoi(steps);
        DD_NEED_OK(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &params, n, tokens, &t->err));
        DD_CHECK(t, s.steps == n && same_bits(json_string_value(json_array_get(pair, 0)), s.sigma, n + 1));
        DD_CHECK(t, same_bits(json_string_value(json_array_get(pair, 1)), s.time, n));
        dd_noise_schedule_deinit(&s);
    }
    for (size_t block = 0; block < 10; block++) {
        uint64_t h = 0xCBF29CE484222325u;
        for (int n = (int)block * 100 + 1; n <= (int)block * 100 + 100; n++) {
            DD_NEED_OK(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &params, n, tokens, &t->err));
            h = fnv(fnv(h, s.sigma, n + 1), s.time, n);
            dd_noise_schedule_deinit(&s);
        }
        char mine[17];
        snprintf(mine, sizeof mine, "%016llx", (unsigned long long)h);
        DD_CHECK(t, strcmp(mine, json_string_value(json_array_get(json_object_get(c, "hashes"), block))) == 0);
    }
}

static void equals_diffusers(dd_test *t) {
    json_t *root = json_load_file("tests/golden/schedule/noise.json", 0, NULL);
    DD_NEED(t, root && json_array_size(root) >= 10);
    size_t i;
    json_t *c;
    json_array_foreach(root, i, c) check_case(t, c);
    json_decref(root);
}

static void known_values(dd_test *t) {
    dd_noise_schedule_params p = dd_noise_schedule_default_params();
    p.use_dynamic_shifting = true;
    dd_noise_schedule s;
    DD_NEED_OK(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 28, 4096, &t->err));
    DD_CHECK(t, fabs(s.mu - 1.15) < 1e-12);
    DD_CHECK(t, s.sigma[0] == 1 && s.sigma[28] == 0 && s.time[0] == 1000);
    DD_CHECK(t, fabsf(s.sigma[1] - 0.98840863f) < 1e-7f && fabsf(s.sigma[27] - 0.10472090f) < 1e-7f);
    dd_noise_schedule_deinit(&s);
    p.use_dynamic_shifting = false;
    DD_NEED_OK(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 4, 4096, &t->err));
    DD_CHECK(t, s.mu == 0 && s.sigma[0] == 1 && s.sigma[1] == 0.75f && s.sigma[2] == 0.5f && s.sigma[3] == 0.25f &&
             s.sigma[4] == 0);
    dd_noise_schedule_deinit(&s);
}

static void refusals(dd_test *t) {
    dd_noise_schedule_params p = dd_noise_schedule_default_params();
    dd_noise_schedule s;
    DD_FAILS(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 0, 256, &t->err), DDIT_ERR_ARGUMENT, "0 steps");
    DD_CHECK(t, !s.allocator);
    DD_FAILS(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 1001, 256, &t->err), DDIT_ERR_ARGUMENT, "1 to 1000");
    DD_FAILS(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, -3, 256, &t->err), DDIT_ERR_ARGUMENT, NULL);
    const double shifts[] = {0, -1, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        p.shift = shifts[i];
        DD_FAILS(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 8, 256, &t->err), DDIT_ERR_FORMAT, "noise level");
        DD_CHECK(t, !s.allocator && !s.sigma);
    }
    p = dd_noise_schedule_default_params();
    p.use_dynamic_shifting = true;
    p.max_image_seq_len = p.base_image_seq_len;
    DD_FAILS(t, dd_noise_schedule_init(&s, &dd_allocator_libc, &p, 8, 256, &t->err), DDIT_ERR_FORMAT, "image_seq_len");
    p = dd_noise_schedule_default_params();
    for (size_t n = 1; n <= 2; n++) {
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        counter.fail_at = n;
        DD_FAILS(t, dd_noise_schedule_init(&s, &counter.allocator, &p, 8, 256, &t->err), DDIT_ERR_NO_MEMORY, NULL);
        DD_CHECK(t, counter.live == 0);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"equals_diffusers", equals_diffusers},
        {"known_values", known_values},
        {"refusals", refusals},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
