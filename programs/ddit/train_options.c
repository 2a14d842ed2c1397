#include "train_options.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "out_path.h"
#include "say.h"

#define AT(field) offsetof(train_options, field)
#define SIDE 64, 4096, 16
#define MANY 1000000000 /* steps and the like; fits an int */
#define MOST 2147483647 /* the largest int */

static const option_row rows[] = {
    OPTIONS_HEADING("What is made"),
    {'m', "model", "ckpt-dir model-path", "FOLDER", OPTION_TEXT, AT(model),
     .help = "diffusers folder of the base model ($DDIT_MODEL, else the\nembedded emoji model)"},
    {'o', "output", "save-file output-path", "FILE", OPTION_TEXT, AT(output),
     .help = "ADAPTER.safetensors (required); ADAPTER.run beside it is the run's\n"
             "folder: loss.csv, loss.png, samples, checkpoints"},
    {0, "train", "scope", "WHAT", OPTION_CHOICE, AT(scope), .choices = "adapter|all",
     .help = "adapter: larger patches for a frozen model; all: every weight of\n"
             "the model itself at the base patch, -o being a folder (adapter)"},
    {0, "init", NULL, "ADAPTER", OPTION_TEXT, AT(init), .help = "start from this adapter instead of the untrained start"},
    {0, "resume", NULL, NULL, OPTION_FLAG, AT(resume), .help = "go on from the newest checkpoint in ADAPTER.run"},
    {0, "preset", NULL, "NAME", OPTION_CHOICE, AT(preset), .choices = "paper",
     .help = "paper: rank 32, residual linear, Prodigy with rate 1, batch 32,\n"
             "no decay, no mixed layouts; single options still win"},

    OPTIONS_HEADING("What it learns from (prompts or pictures)"),
    {'p', "prompts", NULL, "FILE", OPTION_TEXT, AT(prompts),
     .help = "a prompt a line: the base draws its own training data"},
    {0, "data", NULL, "FOLDER", OPTION_TEXT, AT(data),
     .help = "pictures with captions: NAME.txt beside each, or captions.jsonl"},
    {0, "cache", NULL, "FOLDER", OPTION_TEXT, AT(cache),
     .help = "where trajectories or encoded pictures are kept for this and\nlater trainings (ADAPTER.run)"},
    {0, "trajectories", NULL, "N", OPTION_COUNT, AT(trajectories), 1, MANY, .help = "runs that the base draws (3250)"},
    {0, "points", NULL, "N", OPTION_COUNT, AT(points), 1, 1000, .help = "noise levels of each run (8)"},
    {'W', "width", NULL, "N", OPTION_COUNT, AT(size[0]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {'H', "height", NULL, "N", OPTION_COUNT, AT(size[1]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {0, "size", NULL, "WxH", OPTION_SIZE, AT(size), SIDE, .help = "both at once"},
    {0, "guidance", NULL, "LO,HI", OPTION_TEXT, AT(guidance),
     .help = "guidance input, drawn from this range, or one number (the\n"
             "model's default); with --train all: guidance distillation"},
    {0, "caption-dropout", NULL, "P", OPTION_NUMBER, AT(caption_dropout), 0, 1,
     .help = "--train all: share of samples without caption (0.1)"},
    {0, "levels", NULL, "KIND", OPTION_CHOICE, AT(levels), .choices = "uniform|logit-normal",
     .help = "--data: noise levels, before the model's shift: uniform or\nlogit-normal (uniform; --train all logit-normal)"},

    OPTIONS_HEADING("The adapter"),
    {0, "factors", NULL, "LIST", OPTION_CHOICE, AT(factors), .choices = "2,4|2|4",
     .help = "patch sizes to learn, as multiples of the base's (2,4)"},
    {0, "rank", NULL, "N", OPTION_COUNT, AT(rank), 0, 4096, .help = "of the LoRA layers; 0 = no LoRA (32)"},
    {0, "lora", NULL, "LIST", OPTION_TEXT, AT(lora),
     .help = "layers that get LoRA: any of image,text,mlp,out; all; none (all)"},
    {0, "residual", NULL, "KIND", OPTION_CHOICE, AT(residual), .choices = "none|linear|hf|linear+hf",
     .help = "what is added behind the de-embedding: none, linear, hf or\nlinear+hf (hf)"},
    {0, "mixed", NULL, "P", OPTION_NUMBER, AT(mixed), 0, 1,
     .help = "share of samples whose layout mixes patch sizes, as `--patch\nregion` does (0.1)"},

    OPTIONS_HEADING("How long"),
    {0, "steps", NULL, "N", OPTION_COUNT, AT(steps), 0, MANY,
     .help = "optimizer steps (as many as give 26,000 samples); 0 = train nothing,\n"
             "measure --init or the untrained start on --eval; no -o is needed"},
    {0, "minutes", NULL, "N", OPTION_NUMBER, AT(minutes), 1e-3, 1e7,
     .help = "instead: as many steps as fit into this time"},
    {0, "batch", "batch-size", "N", OPTION_COUNT, AT(batch), 1, 65536,
     .help = "samples held at once, over all ranks (4; --train all 16)"},
    {0, "accumulate", "gradient-accumulation-steps", "N", OPTION_COUNT, AT(accumulate), 1, 65536,
     .help = "batches of a step (1)"},

    OPTIONS_HEADING("The optimizer"),
    {0, "optimizer", NULL, "NAME", OPTION_CHOICE, AT(optimizer), .choices = "adamw|prodigy",
     .help = "adamw, or prodigy, which finds its own rate (adamw)"},
    {0, "lr", "learning-rate", "R", OPTION_NUMBER, AT(lr), 1e-12, 1e3,
     .help = "learning rate (2e-3 at width 256, smaller in wider models;\n--train all 3e-4; prodigy 1)"},
    {0, "patch-lr", NULL, "F", OPTION_NUMBER, AT(patch_lr), 0, 1e3,
     .help = "factor of --lr for embedding, de-embedding, id vector and\n"
             "residual; LoRA has 1 (0.4; prodigy and --train all 1)"},
    {0, "weight-decay", NULL, "X", OPTION_NUMBER, AT(weight_decay), 0, 100, .help = "decoupled (0.01; prodigy 0)"},
    {0, "warmup", NULL, "N", OPTION_COUNT, AT(warmup), 0, MANY, .help = "steps in which the rate rises (5 % of all)"},
    {0, "decay", NULL, "HOW", OPTION_CHOICE, AT(decay), .choices = "none|linear|cosine",
     .help = "how the rate falls after that: none, linear or cosine (cosine)"},
    {0, "clip", NULL, "X", OPTION_NUMBER, AT(clip), 0, 1e9, .help = "largest norm of the gradient; 0 = any (1)"},
    {0, "ema", NULL, "D", OPTION_NUMBER, AT(ema), 0, 0.999999,
     .help = "decay of the moving average that is written; 0 = none (0.998)"},
    {0, "loss-floor", NULL, "W", OPTION_NUMBER, AT(loss_floor), 0, 1e6,
     .help = "W in the loss weight sigma^2 / (sigma^2 + W); 0 = no\nweight (0.4; --train all 0)"},
    {'s', "seed", NULL, "N", OPTION_COUNT, AT(seed), 0, MOST, .help = "of start values, order, noise and layouts (0)"},

    OPTIONS_HEADING("While it runs"),
    {0, "eval", NULL, "FILE", OPTION_TEXT, AT(eval),
     .help = "held-out set (.safetensors) or prompts: losses at every save,\n"
             "prompts of the samples (the first training prompts)"},
    {0, "save-every", NULL, "N", OPTION_COUNT, AT(save_every), 1, MANY, .help = "steps between checkpoints (1000)"},
    {0, "sample-every", NULL, "N", OPTION_COUNT, AT(sample_every), 0, MANY,
     .help = "steps between sample pictures; 0 = never (only at the end)"},
    {0, "json", NULL, NULL, OPTION_FLAG, AT(json), .help = "one JSON object about the training on standard output"},
    {'q', "quiet", NULL, NULL, OPTION_FLAG, AT(quiet), .help = "only errors"},
    {'v', "verbose", NULL, NULL, OPTION_FLAG, AT(verbose), .help = "a line per step"},

    OPTIONS_HEADING("The machine"),
    {'t', "threads", NULL, "N", OPTION_COUNT, AT(threads), 1, 1024,
     .help = "processor threads, of each rank under mpirun (all); the result\ndoes not depend on it"},
    {0, "precision", NULL, "KIND", OPTION_CHOICE, AT(precision), .choices = "auto|f32|bf16",
     .help = "auto, f32 or bf16 (auto: bf16 where the processor computes it)"},
    {0, "backend", NULL, "NAME", OPTION_CHOICE, AT(backend), .choices = "cpu|ref", .later = "cuda",
     .help = "cpu, or ref: plain C, slow, for checking (cpu)"},
    OPTIONS_HELP_ROW,
};

const option_table train_table = {
    .command = "train",
    .usage = "ddit train -o ADAPTER.safetensors [--prompts FILE | --data FOLDER] [options]\n"
             "       ddit train -o ADAPTER.safetensors --resume [the same options]\n\n"
             "Distils an adapter for larger patches from a frozen base model, or (--train all) trains the model itself.\n"
             "Ctrl-C saves and stops; --resume goes on.",
    .operand_hint = "prompts are given by --prompts, pictures by --data",
    .rows = rows,
    .count = sizeof rows / sizeof *rows,
};

train_options train_options_init(void) {
    return (train_options){.caption_dropout = NAN, .rank = -1, .mixed = NAN, .steps = -1, .minutes = NAN, .warmup = -1,
                           .lr = NAN, .patch_lr = NAN, .weight_decay = NAN, .clip = NAN, .ema = NAN, .loss_floor = NAN,
                           .sample_every = -1};
}

/* ---------------------------------------------------------------------------------------------- checks */

static bool trains_all(const train_options *o) { return o->scope && strcmp(o->scope, "all") == 0; }

/* Does `path` end in .safetensors, with a name before it? */
static bool is_weight_file(const char *path) {
    static const char extension[] = ".safetensors";
    size_t length = strlen(path), tail = sizeof extension - 1;
    return length > tail && strcmp(path + length - tail, extension) == 0 && path[length - tail - 1] != '/';
}

/* Measuring on a held-out set writes nothing, not even a cache. */
static bool writes_nothing(const train_options *o) { return o->steps == 0 && o->eval && is_weight_file(o->eval); }

static int check_output(const train_options *o) {
    if (!o->output && writes_nothing(o)) return EXIT_DONE;
    if (!o->output)
        return say("no output: name the adapter to write with -o ADAPTER.safetensors; `ddit train --help` lists all options");
    if (strcmp(o->output, "-") == 0) return say("-o -: adapters go to files; standard output is for --json");
    if (!trains_all(o)) {
        if (!is_weight_file(o->output)) return say("-o %s: an adapter is a safetensors file; name it .safetensors", o->output);
        return out_path_check("-o", o->output);
    }
    struct stat info;
    if (is_weight_file(o->output) || (stat(o->output, &info) == 0 && !S_ISDIR(info.st_mode)))
        return say("-o %s: --train all writes a model folder; name a folder", o->output);
    return EXIT_DONE; /* the library makes the folder and says if it cannot */
}

/* Options of one scope are not silently without effect in the other. */
static int check_scope(const train_options *o) {
    const char *name = !trains_all(o)       ? NULL
                       : o->factors         ? "factors"
                       : o->rank >= 0       ? "rank"
                       : o->lora            ? "lora"
                       : o->residual        ? "residual"
                       : !isnan(o->mixed)   ? "mixed"
                       : o->init            ? "init"
                       : o->preset          ? "preset"
                                            : NULL;
    if (name) return say("--%s belongs to adapters and has no meaning with --train all; leave one of them out", name);
    if (!trains_all(o) && !isnan(o->caption_dropout))
        return say("--caption-dropout belongs to --train all: an adapter learns from the base with the captions as they are");
    return EXIT_DONE;
}

int train_options_check(const train_options *o) {
    int status;
    if ((status = check_output(o))) return status;
    if ((status = check_scope(o))) return status;
    if (o->prompts && o->data) return say("--prompts and --data exclude each other: the training data is one of them");
    if (o->data && (o->trajectories > 0 || o->points > 0))
        return say("--%s belongs to --prompts: with --data nothing is drawn", o->trajectories > 0 ? "trajectories" : "points");
    if (o->prompts && o->levels)
        return say("--levels belongs to --data: trajectories have the noise levels of the model's own runs");
    if (o->steps >= 0 && !isnan(o->minutes))
        return say("--steps and --minutes exclude each other: one of them says when to stop");
    if (o->steps == 0 && !o->eval) return say("--steps 0 only measures: name a held-out set or a file of prompts with --eval");
    if (o->steps == 0 && o->resume) return say("--steps 0 trains nothing, so there is nothing to --resume");
    return EXIT_DONE;
}

/* ---------------------------------------------------------------------------------------------- for the library */

ddit_train_params train_options_params(const train_options *o) {
    ddit_train_params p = ddit_train_params_init();
    p.output = o->output ? o->output : "measured.safetensors"; /* the name of nothing: see writes_nothing */
    if (o->scope) p.scope = o->scope;
    p.prompts = o->prompts;
    p.data = o->data;
    p.cache = o->cache;
    p.trajectories = o->trajectories;
    p.points = o->points;
    p.width = o->size[0];
    p.height = o->size[1];
    p.factors = o->factors;
    p.rank = o->rank;
    p.residual = o->residual;
    p.lora = o->lora;
    p.mixed = o->mixed;
    p.init = o->init;
    p.steps = o->steps < 0 ? 0 : o->steps == 0 ? -1 : o->steps;
    p.minutes = o->minutes;
    p.batch = o->batch;
    p.accumulate = o->accumulate;
    p.optimizer = o->optimizer;
    p.lr = o->lr;
    p.patch_lr = o->patch_lr;
    p.weight_decay = o->weight_decay;
    p.warmup = o->warmup;
    p.decay = o->decay;
    p.clip = o->clip;
    p.ema = o->ema;
    p.loss_floor = o->loss_floor;
    p.guidance = o->guidance;
    p.levels = o->levels;
    p.caption_dropout = o->caption_dropout;
    p.seed = (uint64_t)o->seed;
    p.resume = o->resume;
    p.eval = o->eval;
    p.sample_every = o->sample_every < 0 ? 0 : o->sample_every == 0 ? -1 : o->sample_every;
    p.save_every = o->save_every;
    p.preset = o->preset;
    return p;
}
