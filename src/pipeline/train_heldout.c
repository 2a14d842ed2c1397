/* A held-out set: latents that no training sees, on which adapters are compared (tools/make_heldout.py). What is to be learnt
 * there is the frozen model's velocity at the latent as it is stored, computed at the start. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/train.h"
#include "tokenizer/utf8.h"

struct dd_heldout {
    dd_train_source source; /* first: the source is the object */
    const dd_allocator *a;
    dd_safetensors *file;   /* owned */
    const dd_tensor_entry *latent;
    float scale;
    float *sigma;           /* owned [levels] */
    float guidance;
    int prompts, levels, stride;
    size_t values;          /* of a latent */
    uint16_t *targets;      /* owned [prompts * levels, C, h, w] F16; NULL until made */
    const dd_train_texts *texts;
};

int dd_heldout_count(const dd_heldout *h) { return h->prompts * h->levels; }

uint64_t dd_heldout_bytes(const dd_heldout *h) { return (uint64_t)dd_heldout_count(h) * h->values * sizeof(uint16_t); }

/* ---------------------------------------------------------------------------------------------- reading */

static ddit_status misfit(const dd_heldout *h, const char *what, ddit_err *err) {
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: %s; expected a held-out set (latent [prompts, levels, C, h, w] in I8 with scale "
                   "[1], F16 or F32; sigma [levels] F32; metadata prompts and guidance)", dd_safetensors_path(h->file), what);
}

static ddit_status read_latent(dd_heldout *h, const ddit_model *model, const dd_train_settings *s, ddit_err *err) {
    dd_latent_shape shape = dd_train_shape(s, model);
    int64_t want[3] = {shape.channels, shape.height, shape.width};
    const dd_tensor_entry *e = h->latent = dd_safetensors_find(h->file, "latent");
    if (!e || e->rank != 5) return misfit(h, "found no tensor \"latent\" of 5 axes", err);
    if (e->dtype != DD_DTYPE_I8 && e->dtype != DD_DTYPE_F16 && e->dtype != DD_DTYPE_F32)
        return misfit(h, "the dtype of \"latent\" is another", err);
    if (e->shape[0] < 1 || e->shape[1] < 1 || e->count / dd_latent_values(shape) > INT32_MAX)
        return misfit(h, "\"latent\" is empty or too large", err);
    if (memcmp(e->shape + 2, want, sizeof want) != 0)
        return dd_fail(err, DDIT_ERR_MISMATCH, "%s: latents are [%d, %d, %d], expected [%d, %d, %d] for pictures of %d x %d: "
                       "give the width and height that the set was made for", dd_safetensors_path(h->file), (int)e->shape[2],
                       (int)e->shape[3], (int)e->shape[4], shape.channels, shape.height, shape.width, s->run.width,
                       s->run.height);
    h->prompts = (int)e->shape[0];
    h->levels = (int)e->shape[1];
    h->values = dd_latent_values(shape);
    return DDIT_OK;
}

static ddit_status read_numbers(dd_heldout *h, ddit_err *err) {
    const dd_tensor_entry *sigma = dd_safetensors_find(h->file, "sigma"), *scale = dd_safetensors_find(h->file, "scale");
    const char *guidance = dd_safetensors_metadata(h->file, "guidance");
    if (!sigma || sigma->dtype != DD_DTYPE_F32 || sigma->count != (uint64_t)h->levels)
        return misfit(h, "found no \"sigma\" with a value for each level", err);
    if (h->latent->dtype == DD_DTYPE_I8 && (!scale || scale->dtype != DD_DTYPE_F32 || scale->count != 1))
        return misfit(h, "found no \"scale\"", err);
    if (!guidance) return misfit(h, "found no metadata \"guidance\"", err);
    DD_TRY(dd_alloc(h->a, &h->sigma, (size_t)h->levels, sizeof(float), "noise levels", err));
    memcpy(h->sigma, sigma->data, (size_t)h->levels * sizeof(float));
    for (int i = 0; i < h->levels; i++)
        if (!(h->sigma[i] > 0 && h->sigma[i] <= 1.001f)) return misfit(h, "a value of \"sigma\" is not between 0 and 1", err);
    h->scale = 1;
    if (h->latent->dtype == DD_DTYPE_I8) memcpy(&h->scale, scale->data, sizeof(float));
    h->guidance = strtof(guidance, NULL);
    return isfinite(h->guidance) && isfinite(h->scale) ? DDIT_OK : misfit(h, "scale or guidance is no finite number", err);
}

static ddit_status read_prompts(dd_heldout *h, dd_train_texts *texts, ddit_err *err) {
    const char *text = dd_safetensors_metadata(h->file, "prompts");
    json_t *list = text ? json_loads(text, 0, NULL) : NULL, *item;
    ddit_status status = DDIT_OK;
    size_t index;
    if (!json_is_array(list) || json_array_size(list) != (size_t)h->prompts)
        status = misfit(h, "metadata \"prompts\" is no JSON list with a text for each prompt", err);
    json_array_foreach(list, index, item) {
        if (status != DDIT_OK) break;
        const char *line = json_string_value(item);
        if (!line || dd_prompt_check(line, strlen(line), NULL) != DDIT_OK)
            status = misfit(h, "a prompt is no text", err);
        else status = dd_train_texts_add(texts, h->a, line, strlen(line), err);
    }
    json_decref(list);
    return status;
}

/* ---------------------------------------------------------------------------------------------- as a source */

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

/* Samples in an order whose first ones already are of all prompts and levels. */
static int even_stride(int count) {
    int stride = (int)(0.6180339887 * count);
    while (stride > 1 && gcd(stride, count) != 1) stride--;
    return stride > 1 ? stride : 1;
}

static int element_of(const dd_heldout *h, int i) { return (int)((int64_t)i * h->stride % dd_heldout_count(h)); }

static ddit_status plan(const dd_train_source *source, uint64_t step, int i, dd_train_sample *out, ddit_err *err) {
    const dd_heldout *h = (const dd_heldout *)source;
    int element = element_of(h, i);
    const dd_train_prompt *prompt = &h->texts->prompts[element / h->levels];
    (void)step, (void)err;
    *out = (dd_train_sample){.text = prompt->text, .pooled = prompt->pooled, .sigma = h->sigma[element % h->levels],
                             .guidance = h->guidance, .has_target = true};
    return DDIT_OK;
}

static ddit_status read_values(const dd_heldout *h, int element, float *latent, ddit_err *err) {
    uint64_t value = 1;
    dd_dtype_bytes(h->latent->dtype, 1, &value);
    const uint8_t *data = h->latent->data + (size_t)element * h->values * value;
    if (h->latent->dtype != DD_DTYPE_I8) return dd_to_f32(latent, data, h->latent->dtype, h->values, err);
    for (size_t i = 0; i < h->values; i++) latent[i] = (float)(int8_t)data[i] * h->scale;
    return DDIT_OK;
}

static ddit_status fetch(const dd_train_source *source, uint64_t step, int i, float *latent, float *target, ddit_err *err) {
    const dd_heldout *h = (const dd_heldout *)source;
    int element = element_of(h, i);
    (void)step;
    DD_TRY(read_values(h, element, latent, err));
    return dd_to_f32(target, h->targets + (size_t)element * h->values, DD_DTYPE_F16, h->values, err);
}

const dd_train_source *dd_heldout_source(const dd_heldout *h) { return &h->source; }

ddit_status dd_heldout_open(dd_heldout **out, dd_train_texts *texts, const ddit_model *model, const dd_train_settings *s,
                            const char *path, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    dd_heldout *h;
    *out = NULL;
    DD_TRY(dd_alloc(a, &h, 1, sizeof *h, "the held-out set", err));
    h->a = a;
    h->texts = texts;
    h->source = (dd_train_source){.plan = plan, .fetch = fetch};
    ddit_status status;
    DD_GO(dd_safetensors_open(&h->file, a, path, err));
    DD_GO(read_latent(h, model, s, err));
    DD_GO(read_numbers(h, err));
    DD_GO(read_prompts(h, texts, err));
    h->stride = even_stride(dd_heldout_count(h));
done:
    if (status != DDIT_OK) dd_heldout_close(h);
    else *out = h;
    return status;
}

void dd_heldout_close(dd_heldout *h) {
    if (!h) return;
    dd_safetensors_close(h->file);
    dd_free(h->a, h->sigma);
    dd_free(h->a, h->targets);
    dd_free(h->a, h);
}

/* ---------------------------------------------------------------------------------------------- targets */

/* What the lanes share while targets are made. */
typedef struct making {
    dd_heldout *h;
    dd_train_run *run;
    dd_layout fine;                /* uniform 1 */
    dd_flux_condition *conditions; /* owned [local] */
    int *samples;                  /* owned [local] */
    float *buffers;                /* owned [lanes][2][values] */
    ddit_status *status;           /* owned [local] */
    ddit_err *errs;                /* owned [local] */
    int count;
} making;

static void target_task(void *user, int64_t task, int worker) {
    making *m = user;
    dd_heldout *h = m->h;
    int i = m->samples[task], element = element_of(h, i);
    float *latent = m->buffers + 2 * (size_t)worker * h->values, *velocity = latent + h->values;
    uint16_t *target = h->targets + (size_t)element * h->values;
    m->status[task] = read_values(h, element, latent, &m->errs[task]);
    if (m->status[task] == DDIT_OK)
        m->status[task] = dd_flux_lane_velocity(m->run->student.lanes[worker], m->run->student.batch, (int)task,
                                                h->sigma[element % h->levels], &m->fine, latent, velocity, &m->errs[task]);
    for (size_t v = 0; v < h->values; v++) target[v] = dd_f16_from_f32(velocity[v]);
}

static ddit_status make_batch(making *m, int first, ddit_err *err) {
    dd_train_run *run = m->run;
    int count = dd_heldout_count(m->h);
    for (m->count = 0; m->count < run->local && first < count; first += run->ranks) {
        dd_train_sample s;
        DD_TRY(plan(&m->h->source, 0, first, &s, err));
        m->samples[m->count] = first;
        m->conditions[m->count++] = (dd_flux_condition){.text = s.text, .pooled = s.pooled, .time = 1000.0f * s.sigma,
                                                        .guidance = s.guidance};
    }
    DD_TRY(dd_flux_batch_condition(run->student.batch, m->conditions, m->count, err));
    dd_pool_run(run->pool, m->count, target_task, m);
    for (int i = 0; i < m->count; i++)
        if (m->status[i] != DDIT_OK) return dd_fail(err, m->status[i], "%s", m->errs[i].text);
    ddit_train_progress p = dd_train_progress("evaluate");
    p.step = first < count ? first : count;
    p.steps = count;
    dd_train_tell(run, &p);
    return run->stop ? dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before the first step") : DDIT_OK;
}

ddit_status dd_heldout_make_targets(dd_heldout *h, dd_train_run *run, ddit_err *err) {
    making m = {.h = h, .run = run};
    size_t local = (size_t)run->local;
    ddit_status status;
    DD_GO(dd_alloc_raw(h->a, &h->targets, (size_t)dd_heldout_count(h) * h->values, sizeof(uint16_t), "held-out velocities",
                       err));
    DD_GO(dd_layout_init(&m.fine, h->a, dd_train_grid(&run->s, run->model), err));
    DD_GO(dd_alloc(h->a, &m.conditions, local, sizeof *m.conditions, "conditions", err));
    DD_GO(dd_alloc(h->a, &m.samples, local, sizeof *m.samples, "samples", err));
    DD_GO(dd_alloc(h->a, &m.status, local, sizeof *m.status, "samples", err));
    DD_GO(dd_alloc(h->a, &m.errs, local, sizeof *m.errs, "samples", err));
    DD_GO(dd_alloc(h->a, &m.buffers, 2 * (size_t)run->lane_count * h->values, sizeof(float), "latents", err));
    for (int first = run->rank; first < dd_heldout_count(h); first += run->ranks * run->local)
        DD_GO(make_batch(&m, first, err));
done:
    dd_layout_deinit(&m.fine);
    dd_free(h->a, m.conditions);
    dd_free(h->a, m.samples);
    dd_free(h->a, m.status);
    dd_free(h->a, m.errs);
    dd_free(h->a, m.buffers);
    return status;
}
