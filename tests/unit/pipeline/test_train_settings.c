/* What training refuses, and that nothing is written then; texts; lack of memory. */
#include "harness.h"
#include "pipeline/train.h"
#include "unit/pipeline/train_public.h"

static void mixed(ddit_train_params *p) { p->mixed = 1.5; }
static void rank(ddit_train_params *p) { p->rank = 5000; }
static void scope(ddit_train_params *p) { p->scope = "some"; }
static void preset(ddit_train_params *p) { p->preset = "best"; }
static void factors(ddit_train_params *p) { p->factors = "3"; }
static void residual(ddit_train_params *p) { p->residual = "cubic"; }
static void lora(ddit_train_params *p) { p->lora = "image,tail"; }
static void lora_half(ddit_train_params *p) { p->lora = "image,text"; }
static void optimizer(ddit_train_params *p) { p->optimizer = "sgd"; }
static void decay(ddit_train_params *p) { p->decay = "slow"; }
static void levels(ddit_train_params *p) { p->levels = "even"; }
static void lr(ddit_train_params *p) { p->lr = -1; }
static void patch_lr(ddit_train_params *p) { p->patch_lr = -1; }
static void patch_lr_prodigy(ddit_train_params *p) { p->patch_lr = 0.5, p->optimizer = "prodigy"; }
static void patch_lr_paper(ddit_train_params *p) { p->patch_lr = 0.5, p->preset = "paper"; }
static void weight_decay(ddit_train_params *p) { p->weight_decay = 101; }
static void clip(ddit_train_params *p) { p->clip = -1; }
static void ema(ddit_train_params *p) { p->ema = 1; }
static void loss_floor(ddit_train_params *p) { p->loss_floor = -1; }
static void warmup(ddit_train_params *p) { p->warmup = -2; }
static void steps(ddit_train_params *p) { p->steps = -2; }
static void minutes(ddit_train_params *p) { p->steps = 0, p->minutes = -3; }
static void minutes_of_measuring(ddit_train_params *p) { p->steps = -1, p->minutes = 3; }
static void batch(ddit_train_params *p) { p->batch = -4; }
static void accumulate(ddit_train_params *p) { p->accumulate = -1; }
static void save_every(ddit_train_params *p) { p->save_every = -1; }
static void sample_every(ddit_train_params *p) { p->sample_every = -2; }
static void trajectories(ddit_train_params *p) { p->trajectories = 1 << 30; }
static void points(ddit_train_params *p) { p->points = -1; }
static void guidance(ddit_train_params *p) { p->guidance = "4,1"; }
static void guidance_text(ddit_train_params *p) { p->guidance = "strong"; }
static void width(ddit_train_params *p) { p->width = 97; }
static void no_data(ddit_train_params *p) { p->prompts = NULL; }
static void two_data(ddit_train_params *p) { p->data = "/tmp"; }
static void no_output(ddit_train_params *p) { p->output = NULL; }
static void output_name(ddit_train_params *p) { p->output = "/tmp/adapter.bin"; }
static void all_output(ddit_train_params *p) { p->scope = "all", p->guidance = "1,2", p->rank = -1; }
static void all_rank(ddit_train_params *p) { p->scope = "all", p->guidance = "1,2", p->rank = 4; }
static void all_init(ddit_train_params *p) { p->scope = "all", p->guidance = "1,2", p->rank = -1, p->init = "x"; }
static void dropout(ddit_train_params *p) {
    p->scope = "all", p->rank = -1, p->prompts = NULL, p->data = "/tmp", p->caption_dropout = 2;
}
static void size(ddit_train_params *p) { p->struct_size = 8; }

static const struct {
    void (*change)(ddit_train_params *);
    const char *sentence;
} wrong[] = {
    {mixed, "mixed is 1.5"}, {rank, "rank is 5000"}, {scope, "scope is \"some\""}, {preset, "preset is \"best\""},
    {factors, "factors is \"3\""}, {residual, "residual is \"cubic\""}, {lora, "lora is \"image,tail\""},
    {lora_half, "LoRA in every block"}, {optimizer, "optimizer is \"sgd\""}, {decay, "decay is \"slow\""},
    {levels, "levels is \"even\""}, {lr, "lr is -1"}, {patch_lr, "patch_lr is -1"},
    {patch_lr_prodigy, "prodigy finds one rate"}, {patch_lr_paper, "prodigy finds one rate"},
    {weight_decay, "weight_decay is 101"}, {clip, "clip is -1"}, {ema, "ema is 1"},
    {loss_floor, "loss_floor is -1"}, {warmup, "warmup is -2"}, {steps, "steps is -2"},
    {minutes, "minutes is -3"}, {minutes_of_measuring, "both steps and minutes"},
    {batch, "batch is -4"}, {accumulate, "accumulate is -1"}, {save_every, "save_every is -1"},
    {sample_every, "sample_every is -2"}, {trajectories, "trajectories is"}, {points, "points is -1"},
    {guidance, "guidance is \"4,1\""}, {guidance_text, "guidance is \"strong\""}, {width, "width is 97"},
    {no_data, "neither prompts nor data"}, {two_data, "both prompts and data"}, {no_output, "output is not given"},
    {output_name, "ends in .safetensors"}, {all_output, "expected a folder"}, {all_rank, "belong to adapters"},
    {all_init, "init is an adapter"},
    {dropout, "caption_dropout is 2"}, {size, "call ddit_train_params_init"},
};

static void refused_parameters(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 1, &t->err));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tiny_run r;
        tiny_run_init(&r, &s, "a.safetensors");
        wrong[i].change(&r.p);
        DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_ARGUMENT, wrong[i].sentence);
        DD_CHECK(t, access(scratch_path(&s, "a.run"), F_OK) != 0);
    }
    tiny_run r;
    tiny_run_init(&r, &s, "no/a.safetensors");
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_OUTPUT_PATH, "does not exist");
    tiny_run_init(&r, &s, "a.safetensors");
    DD_FAILS(t, ddit_train(NULL, o.context, "/tmp/no-such-model", &r.p, &t->err), DDIT_ERR_NOT_FOUND, NULL);
    DD_FAILS(t, ddit_train(NULL, o.context, NULL, &r.p, &t->err), DDIT_ERR_ARGUMENT, "no model folder");
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void refused_texts(dd_test *t) {
    static const struct { const char *text; size_t size; ddit_status status; const char *sentence; } bad[] = {
        {"a\nb\0c\n", 6, DDIT_ERR_FORMAT, "line 2: found a NUL at byte 2"},
        {"a\n\xff\n", 4, DDIT_ERR_FORMAT, "line 2"},
        {"", 0, DDIT_ERR_FORMAT, "found no prompt"},
        {"# one\n \n", 8, DDIT_ERR_FORMAT, "found no prompt"},
    };
    scratch s = train_scratch();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dd_train_texts texts = {0};
        FILE *file = fopen(scratch_path(&s, "bad.txt"), "wb");
        fwrite(bad[i].text, 1, bad[i].size, file);
        fclose(file);
        DD_FAILS(t, dd_train_texts_read(&texts, &dd_allocator_libc, scratch_path(&s, "bad.txt"), &t->err), bad[i].status,
                 bad[i].sentence);
        dd_train_texts_deinit(&texts, &dd_allocator_libc);
    }
    dd_train_texts texts = {0};
    DD_FAILS(t, dd_train_texts_read(&texts, &dd_allocator_libc, scratch_path(&s, "none.txt"), &t->err), DDIT_ERR_NOT_FOUND,
             NULL);
    scratch_write(&s, "good.txt", "\xEF\xBB\xBF one \r\n#two\n\nthree");
    DD_OK(t, dd_train_texts_read(&texts, &dd_allocator_libc, scratch_path(&s, "good.txt"), &t->err));
    DD_CHECK(t, texts.count == 2 && strcmp(texts.lines[0], "one") == 0 && strcmp(texts.lines[1], "three") == 0);
    dd_train_texts_deinit(&texts, &dd_allocator_libc);
    scratch_remove_all(&s);
}

/* The announced number of parameters is the trainee's. */
static void counts_parameters(dd_test *t) {
    opened o;
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    for (int i = 0; i < 4; i++) {
        dd_train_run run = {.context = o.context, .model = o.model};
        dd_flux_dit *dit;
        dd_flux_trainee *trainee;
        run.s.all = i == 3;
        run.s.options = (dd_train_options){.scope = i == 3 ? DD_TRAIN_ALL : DD_TRAIN_ADAPTER, .factor = {false, i < 2, i != 1},
                                           .rank = i == 2 ? 0 : 3, .alpha = 3,
                                           .lora_targets = i == 0 ? DD_LORA_ALL : DD_LORA_DOUBLE_TEXT | DD_LORA_SINGLE_OUT,
                                           .residual_linear = i == 1};
        if (i == 3) run.s.options.factor[2] = false;
        DD_NEED_OK(t, dd_flux_dit_open_trainable(&dit, o.context->backend, &o.model->config.transformer, o.model->files, i == 3,
                                                 &t->err));
        DD_NEED_OK(t, dd_flux_trainee_create(&trainee, dit, &run.s.options, &t->err));
        int64_t want = dd_flux_trainee_params(trainee)->total, got = dd_train_param_count(&run);
        if (want != got) dd_test_fail(t, __FILE__, __LINE__, "case %d: %lld, expected %lld", i, (long long)got,
                                       (long long)want);
        dd_flux_trainee_free(trainee);
        dd_flux_dit_close(dit);
    }
    DD_CHECK(t, close_all(&o));
}

/* One short training whose allocation number `fail_at` fails (0: none). Returns how many it made. */
static size_t train_failing(dd_test *t, opened *o, scratch *s, size_t fail_at, bool samples) {
    char name[32];
    tiny_run r;
    snprintf(name, sizeof name, "%zu%s.safetensors", fail_at, samples ? "s" : "");
    tiny_run_init(&r, s, name);
    r.p.steps = 1;
    r.p.width = 64;
    r.p.height = 64;
    r.p.points = 1;
    r.p.sample_every = samples ? 0 : -1;
    r.p.eval = r.prompts;
    o->memory.total = 0;
    o->memory.fail_at = fail_at;
    ddit_status status = tiny_train(o, &r, NULL, &t->err);
    if (status != DDIT_OK && (status != DDIT_ERR_NO_MEMORY || fail_at == 0))
        dd_test_fail(t, __FILE__, __LINE__, "allocation %zu: %d (%s)", fail_at, (int)status, t->err.text);
    return o->memory.total;
}

/* The n-th allocation fails: training says so and holds nothing afterwards. */
static void without_memory(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 1, &t->err));
    size_t total = train_failing(t, &o, &s, 0, false), with_samples = train_failing(t, &o, &s, 0, true);
    size_t held = o.memory.live; /* scratch that the context keeps for the next call */
    for (size_t n = 1; n <= total; n += 1 + total / 24) {
        train_failing(t, &o, &s, n, false);
        if (o.memory.live != held)
            dd_test_fail(t, __FILE__, __LINE__, "allocation %zu: %zu blocks are held, expected %zu", n, o.memory.live, held);
    }
    train_failing(t, &o, &s, with_samples - 10, true);
    DD_CHECK(t, o.memory.live == held);
    o.memory.fail_at = 0;
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"refused parameters", refused_parameters},
        {"refused files of prompts", refused_texts},
        {"counts the parameters beforehand", counts_parameters},
        {"without memory", without_memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
