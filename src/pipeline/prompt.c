/* Prompts through tokenizers and text encoders. The encoders are opened for this and freed again: T5 is larger than FLUX's
 * blocks on small machines, and its memory is free for the run. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/folder.h"
#include "pipeline/pipeline.h"
#include "text/clip_encoder.h"
#include "text/t5_encoder.h"
#include "tokenizer/clip_bpe.h"
#include "tokenizer/unigram.h"

__attribute__((format(printf, 3, 4))) static void note(char *notes, size_t size, const char *format, ...) {
    size_t used = strlen(notes);
    va_list args;
    va_start(args, format);
    vsnprintf(notes + used, size - used, format, args);
    va_end(args);
}

static ddit_status open_clip_tokenizer(const ddit_model *model, dd_clip_bpe **tok, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    char *path;
    *tok = NULL;
    DD_TRY(dd_path_join(a, &path, model->folder, "tokenizer", err));
    ddit_status status = dd_clip_bpe_open(tok, a, path, err);
    dd_free(a, path);
    return status;
}

static ddit_status encode_clip(const ddit_model *model, const char *const *prompts, int count, dd_prompt_embedding *out,
                               char *notes, size_t notes_size, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    const dd_clip_config *config = &model->config.clip;
    size_t length = (size_t)config->max_position_embeddings;
    dd_clip_bpe *tok = NULL;
    dd_weight_files *files = NULL;
    dd_clip_encoder *encoder = NULL;
    int32_t *ids = NULL;
    ddit_status status;
    DD_GO(open_clip_tokenizer(model, &tok, err));
    DD_GO(dd_alloc(a, &ids, length, sizeof *ids, "the prompt's ids", err));
    DD_GO(dd_model_part_open(model, "text_encoder", &files, err));
    DD_GO(dd_clip_encoder_open(&encoder, model->context->backend, files, config, err));
    for (int i = 0; i < count; i++) {
        size_t total;
        DD_GO(dd_clip_bpe_encode(tok, prompts[i], strlen(prompts[i]), length, ids, &total, err));
        if (total > length)
            note(notes, notes_size, "CLIP reads the first %zu of %zu tokens of the %sprompt.\n", length, total,
                 i ? "negative " : "");
        DD_GO(dd_alloc(a, &out[i].pooled, (size_t)config->hidden_size, sizeof(float), "the pooled embedding", err));
        DD_GO(dd_clip_encoder_encode(encoder, ids, out[i].pooled, err));
    }
done:
    dd_clip_encoder_close(encoder);
    dd_weight_files_close(files);
    dd_clip_bpe_close(tok);
    dd_free(a, ids);
    return status;
}

static ddit_status open_t5_tokenizer(const ddit_model *model, dd_unigram **tok, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    char *path;
    *tok = NULL;
    DD_TRY(dd_path_join(a, &path, model->folder, "tokenizer_2/spiece.model", err));
    ddit_status status = dd_unigram_open(tok, a, path, err);
    dd_free(a, path);
    return status;
}

static ddit_status encode_t5(const ddit_model *model, const char *const *prompts, int count, int max_length,
                             dd_prompt_embedding *out, char *notes, size_t notes_size, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    const dd_t5_config *config = &model->config.t5;
    size_t length = (size_t)max_length;
    dd_unigram *tok = NULL;
    dd_weight_files *files = NULL;
    dd_t5_encoder *encoder = NULL;
    int32_t *ids = NULL;
    ddit_status status;
    DD_GO(open_t5_tokenizer(model, &tok, err));
    DD_GO(dd_alloc(a, &ids, length, sizeof *ids, "the prompt's ids", err));
    DD_GO(dd_model_part_open(model, "text_encoder_2", &files, err));
    DD_GO(dd_t5_encoder_open(&encoder, model->context->backend, files, config, max_length, err));
    for (int i = 0; i < count; i++) {
        size_t total;
        DD_GO(dd_unigram_encode(tok, prompts[i], strlen(prompts[i]), length, ids, &total, err));
        if (total > length)
            note(notes, notes_size, "T5 reads the first %zu of %zu tokens of the %sprompt (--max-sequence-length).\n", length,
                 total, i ? "negative " : "");
        DD_GO(dd_alloc(a, &out[i].text, length * (size_t)config->d_model, sizeof(float), "the text embedding", err));
        DD_GO(dd_t5_encoder_encode(encoder, ids, out[i].text, err));
    }
done:
    dd_t5_encoder_close(encoder);
    dd_weight_files_close(files);
    dd_unigram_close(tok);
    dd_free(a, ids);
    return status;
}

ddit_status dd_prompts_encode(const ddit_model *model, const char *const *prompts, int count, int max_sequence_length,
                              dd_prompt_embedding *out, char *notes, size_t notes_size, ddit_err *err) {
    DD_TRY(encode_clip(model, prompts, count, out, notes, notes_size, err));
    return encode_t5(model, prompts, count, max_sequence_length, out, notes, notes_size, err);
}

void dd_prompt_embedding_deinit(dd_prompt_embedding *e, const dd_allocator *a) {
    dd_free(a, e->text);
    dd_free(a, e->pooled);
    *e = (dd_prompt_embedding){0};
}
