/* Training through the public interface on the tiny model: what is written, stopping and going on, threads, held-out losses,
 * sample pictures, pictures as data, the whole model. */
#include <signal.h>
#include <sys/resource.h>

#include "base/lock_file.h"
#include "harness.h"
#include "unit/pipeline/train_public.h"

/* Lines of a text file of the run; -1 if it is not there. */
static int lines_of(const char *output, const char *name) {
    char path[256], *text;
    size_t size;
    int lines = 0;
    snprintf(path, sizeof path, "%.*s.run/%s", (int)(strlen(output) - strlen(".safetensors")), output, name);
    if (dd_read_file(&dd_allocator_libc, path, 1 << 24, &text, &size, NULL) != DDIT_OK) return -1;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    dd_free(&dd_allocator_libc, text);
    return lines;
}

/* The adapter can be opened beside the model, and draws. */
static void check_draws(dd_test *t, opened *o, const char *model, const char *adapter) {
    ddit_params p = tiny_params();
    ddit_session *session;
    if (strcmp(adapter, "none") != 0) p.patch = "1x2,2x2,4x2";
    DD_NEED_OK(t, ddit_model_open(&o->model, o->context, model, adapter, &t->err));
    DD_NEED_OK(t, ddit_session_create(&session, o->model, &p, &t->err));
    DD_OK(t, ddit_session_run(session, &t->err));
    ddit_session_free(session);
    ddit_model_close(o->model);
    o->model = NULL;
}

static void writes_an_adapter(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    char *json = NULL;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.sample_every = 3;
    r.p.points = 1;
    scratch_write(&s, "one.txt", "red apple\n"); /* few pictures to draw */
    snprintf(r.prompts, sizeof r.prompts, "%s/one.txt", s.folder);
    r.p.eval = r.prompts;
    DD_NEED_OK(t, tiny_train(&o, &r, &json, &t->err));
    json_t *root = json_loads(json, 0, NULL);
    DD_CHECK(t, root && json_integer_value(json_object_get(root, "steps")) == 6);
    DD_CHECK(t, json_number_value(json_object_get(root, "samples")) == 24);
    DD_CHECK(t, json_array_size(json_object_get(root, "files")) == 3); /* adapter, samples in the middle and at the end */
    DD_CHECK(t, json_number_value(json_object_get(json_object_get(root, "heldout_last"), "x4")) > 0);
    json_decref(root);
    ddit_text_free(o.context, json);
    DD_CHECK(t, r.seen.bytes > 0 && r.seen.steps_seen == 6 && r.seen.saves == 3 && r.seen.samples == 2);
    DD_CHECK(t, r.seen.evaluations == 4); /* at the start, at two saves, at the end */
    DD_CHECK(t, lines_of(r.output, "loss.csv") == 7 && lines_of(r.output, "eval.csv") == 5);
    DD_CHECK(t, lines_of(r.output, "loss.png") > 0 && lines_of(r.output, "samples-00000006.png") > 0);
    check_draws(t, &o, TINY_MODEL, r.output);
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

/* Whether a tensor is the same in two adapters; -1: it is not in both. */
static int same_tensor(const char *one, const char *two, const char *name) {
    dd_safetensors *a = NULL, *b = NULL;
    int same = -1;
    if (dd_safetensors_open(&a, &dd_allocator_libc, one, NULL) == DDIT_OK &&
        dd_safetensors_open(&b, &dd_allocator_libc, two, NULL) == DDIT_OK) {
        const dd_tensor_entry *x = dd_safetensors_find(a, name), *y = dd_safetensors_find(b, name);
        if (x && y) same = x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0;
    }
    dd_safetensors_close(a);
    dd_safetensors_close(b);
    return same;
}

/* With a rate of 0 for them embedding and de-embedding stay as they were, and LoRA learns. */
static void patch_weights_have_their_rate(dd_test *t) {
    static const char *const still[] = {"ddit.x2.embed.weight", "ddit.x4.deembed.weight", "ddit.x4.id"};
    static const char *const lora = "ddit.x2.lora.single_transformer_blocks.0.proj_mlp.B";
    const double rates[] = {0, 0, 0.5};
    char outputs[3][128];
    scratch s = train_scratch();
    opened o;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    for (int i = 0; i < 3; i++) {
        tiny_run r;
        tiny_run_init(&r, &s, i == 0 ? "start.safetensors" : i == 1 ? "still.safetensors" : "moved.safetensors");
        r.p.patch_lr = rates[i];
        r.p.ema = 0;
        if (i == 0) r.p.lr = 1e-12;
        DD_NEED_OK(t, tiny_train(&o, &r, NULL, &t->err));
        memcpy(outputs[i], r.output, sizeof outputs[i]);
    }
    for (int i = 0; i < 3; i++) {
        DD_CHECK(t, same_tensor(outputs[0], outputs[1], still[i]) == 1);
        DD_CHECK(t, same_tensor(outputs[0], outputs[2], still[i]) == 0);
    }
    DD_CHECK(t, same_tensor(outputs[0], outputs[1], lora) == 0);
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

/* Stopped after every step and gone on with, on another number of threads, it ends with the same bytes. */
static void goes_on(dd_test *t) {
    scratch s = train_scratch();
    opened one, two;
    tiny_run whole, parts;
    DD_NEED_OK(t, open_context(&one, "cpu", "f32", 1, &t->err));
    DD_NEED_OK(t, open_context(&two, "cpu", "f32", 2, &t->err));
    tiny_run_init(&whole, &s, "whole.safetensors");
    DD_NEED_OK(t, tiny_train(&two, &whole, NULL, &t->err));
    tiny_run_init(&parts, &s, "parts.safetensors");
    parts.p.resume = 1;
    for (int64_t at = 1; at <= 5; at += 2) {
        parts.seen.stop_at = at;
        DD_FAILS(t, tiny_train(at == 3 ? &two : &one, &parts, NULL, &t->err), DDIT_ERR_CANCELLED, "resume goes on");
        DD_CHECK(t, parts.seen.steps_seen == (at == 1 ? 1 : 2));
    }
    parts.seen.stop_at = 0;
    DD_OK(t, tiny_train(&one, &parts, NULL, &t->err));
    DD_CHECK(t, same_file(whole.output, parts.output));
    DD_CHECK(t, lines_of(parts.output, "loss.csv") == 7);
    DD_OK(t, tiny_train(&one, &parts, NULL, &t->err)); /* finished: nothing is left to do */
    DD_CHECK(t, parts.seen.steps_seen == 0 && same_file(whole.output, parts.output));
    parts.p.resume = 0;
    DD_FAILS(t, tiny_train(&one, &parts, NULL, &t->err), DDIT_ERR_ARGUMENT, "holds checkpoints of an earlier training");
    parts.p.resume = 1;
    parts.p.lr = 0.01;
    DD_FAILS(t, tiny_train(&one, &parts, NULL, &t->err), DDIT_ERR_MISMATCH, "lr=");
    DD_CHECK(t, close_all(&one) && close_all(&two));
    scratch_remove_all(&s);
}

/* Another training at work in the same folder, here played by the lock alone. */
static void one_at_a_time(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    char path[128];
    dd_lock_file other;
    bool taken;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 1, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.seen.stop_at = 1;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_CANCELLED, NULL);
    r.seen.stop_at = 0;
    r.p.resume = 1;
    snprintf(path, sizeof path, "%s/a.run/lock", s.folder);
    DD_NEED_OK(t, dd_lock_file_take(&other, path, &taken, &t->err)); /* the first let go of it */
    DD_CHECK(t, !taken);
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_OUTPUT_PATH, "another training is at work in this folder");
    DD_CHECK(t, r.seen.steps_seen == 0 && lines_of(r.output, "loss.csv") == 2);
    dd_lock_file_drop(&other);
    DD_OK(t, tiny_train(&o, &r, NULL, &t->err));
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void stops_in_any_phase(dd_test *t) {
    static const char *const phases[] = {"plan", "encode", "data", "evaluate", "train", "save"};
    scratch s = train_scratch();
    opened o;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 1, &t->err));
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        tiny_run r;
        char name[32];
        snprintf(name, sizeof name, "%zu.safetensors", i);
        tiny_run_init(&r, &s, name);
        r.p.points = 1;
        r.p.eval = r.prompts;
        r.seen.stop_in = phases[i];
        DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_CANCELLED, NULL);
        DD_CHECK(t, access(r.output, F_OK) != 0);
    }
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void starts_from_an_adapter(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run first, second;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&first, &s, "first.safetensors");
    DD_NEED_OK(t, tiny_train(&o, &first, NULL, &t->err));
    tiny_run_init(&second, &s, "second.safetensors");
    second.p.init = first.output;
    DD_OK(t, tiny_train(&o, &second, NULL, &t->err));
    tiny_run_init(&second, &s, "third.safetensors");
    second.p.init = first.output;
    second.p.rank = 3;
    DD_FAILS(t, tiny_train(&o, &second, NULL, &t->err), DDIT_ERR_MISMATCH, "has rank 2");
    second.p.rank = 2;
    second.p.lora = "image,mlp";
    DD_FAILS(t, tiny_train(&o, &second, NULL, &t->err), DDIT_ERR_MISMATCH, "is not trained here");
    second.p.lora = NULL;
    second.p.init = "models/emoji/ddit-adapter.safetensors";
    DD_FAILS(t, tiny_train(&o, &second, NULL, &t->err), DDIT_ERR_MISMATCH, NULL);
    second.p.init = second.prompts;
    DD_FAILS(t, tiny_train(&o, &second, NULL, &t->err), DDIT_ERR_FORMAT, "prompts.txt");
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void measures_only(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    char *json = NULL;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.prompts = NULL;
    r.p.steps = -1;
    r.p.points = 1;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_ARGUMENT, "eval is not given");
    r.p.eval = r.prompts;
    DD_OK(t, tiny_train(&o, &r, &json, &t->err));
    DD_CHECK(t, json && strstr(json, "\"mixed\"") && access(r.output, F_OK) != 0 && lines_of(r.output, "loss.csv") < 0);
    ddit_text_free(o.context, json);
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void finds_steps_for_minutes(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.minutes = 0.02;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_ARGUMENT, "both steps and minutes");
    r.p.steps = 0;
    r.p.resume = 1;
    r.seen.stop_at = 1;
    ddit_status status = tiny_train(&o, &r, NULL, &t->err);
    DD_CHECK(t, status == DDIT_ERR_CANCELLED || status == DDIT_OK);
    r.seen.stop_at = 0;
    DD_OK(t, tiny_train(&o, &r, NULL, &t->err)); /* the number found before is used again, or the checkpoint would not fit */
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void says_that_it_diverged(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.lr = 1000;
    r.p.clip = 0;
    r.p.warmup = 0;
    r.p.decay = "none";
    r.p.steps = 400;
    r.p.save_every = 1;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_DIVERGED, "the last good checkpoint is");
    DD_CHECK(t, access(r.output, F_OK) != 0);
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

/* A file that cannot grow stands for a full disk. */
static void full_disk(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r, whole;
    struct rlimit old, small;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    tiny_run_init(&whole, &s, "whole.safetensors");
    DD_NEED_OK(t, tiny_train(&o, &whole, NULL, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.seen.stop_at = 3;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_CANCELLED, NULL);
    r.seen.stop_at = 0;
    r.p.resume = 1;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 200000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_WRITE, "checkpoint");
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    DD_OK(t, tiny_train(&o, &r, NULL, &t->err));
    DD_CHECK(t, r.seen.steps_seen == 3 && same_file(r.output, whole.output));
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

/* ---------------------------------------------------------------------------------------------- pictures, whole models */

static void draw_pictures(dd_test *t, opened *o, scratch *s, const char *folder) {
    static const char *const names[] = {"red apple", "panda", "rocket"};
    char path[256];
    mkdir(folder, 0777);
    DD_NEED_OK(t, ddit_model_open(&o->model, o->context, TINY_MODEL, "none", &t->err));
    for (int i = 0; i < 3; i++) {
        ddit_params p = tiny_params();
        ddit_image *image;
        p.prompt = names[i];
        DD_NEED_OK(t, ddit_generate(&image, o->model, &p, &t->err));
        snprintf(path, sizeof path, "%s/%d.png", folder, i);
        DD_OK(t, ddit_image_save_png(image, path, &t->err));
        ddit_image_free(image);
        char name[32];
        snprintf(name, sizeof name, "pictures/%d.txt", i);
        scratch_write(s, name, names[i]);
    }
    ddit_model_close(o->model);
    o->model = NULL;
}

static void learns_from_pictures(dd_test *t) {
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    char folder[128];
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 2, &t->err));
    snprintf(folder, sizeof folder, "%s/pictures", s.folder);
    draw_pictures(t, &o, &s, folder);
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.prompts = NULL;
    r.p.data = folder;
    DD_OK(t, tiny_train(&o, &r, NULL, &t->err));
    check_draws(t, &o, TINY_MODEL, r.output);
    tiny_run_init(&r, &s, "model");
    r.p.prompts = NULL;
    r.p.data = folder;
    r.p.scope = "all";
    r.p.rank = -1;
    DD_OK(t, tiny_train(&o, &r, NULL, &t->err));
    check_draws(t, &o, r.output, "none");
    r.p.resume = 1;
    DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), DDIT_ERR_OUTPUT_PATH, "exists already");
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

static void distils_guidance(dd_test *t) {
    scratch s = train_scratch();
    opened one, two;
    tiny_run r;
    char first[192], second[192];
    DD_NEED_OK(t, open_context(&one, "cpu", "f32", 1, &t->err));
    DD_NEED_OK(t, open_context(&two, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "model");
    r.p.scope = "all";
    r.p.rank = -1;
    DD_FAILS(t, tiny_train(&one, &r, NULL, &t->err), DDIT_ERR_ARGUMENT, "learns from pictures");
    r.p.guidance = "1,4";
    r.p.ema = 0;
    DD_OK(t, tiny_train(&one, &r, NULL, &t->err));
    snprintf(first, sizeof first, "%s/transformer/diffusion_pytorch_model.safetensors", r.output);
    tiny_run_init(&r, &s, "model2");
    r.p.scope = "all";
    r.p.rank = -1;
    r.p.guidance = "1,4";
    r.p.ema = 0;
    DD_OK(t, tiny_train(&two, &r, NULL, &t->err));
    snprintf(second, sizeof second, "%s/transformer/diffusion_pytorch_model.safetensors", r.output);
    DD_CHECK(t, same_file(first, second));
    DD_CHECK(t, close_all(&one) && close_all(&two));
    scratch_remove_all(&s);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"writes an adapter that draws", writes_an_adapter},
        {"stopped and gone on with: the same bytes", goes_on},
        {"one training at a time in a folder", one_at_a_time},
        {"stops in any phase", stops_in_any_phase},
        {"patch weights have their rate", patch_weights_have_their_rate},
        {"starts from an adapter", starts_from_an_adapter},
        {"measures only", measures_only},
        {"finds the steps for the minutes given", finds_steps_for_minutes},
        {"says that it diverged", says_that_it_diverged},
        {"a full disk loses nothing", full_disk},
        {"learns from pictures", learns_from_pictures},
        {"distils guidance", distils_guidance},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
