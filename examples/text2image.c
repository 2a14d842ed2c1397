/* The five lines of ddit/ddit.h as a program: draws a red apple with the embedded model.
 *
 *     cc text2image.c -lddit -o text2image && ./text2image
 *
 * Run it in the project's folder (it opens models/emoji); it writes apple.png. */
#include <ddit/ddit.h>
#include <stdio.h>

static int draw(ddit_err *err) {
    ddit_context *context; ddit_model *model; ddit_image *image;
    if (ddit_context_create(&context, NULL, err) || ddit_model_open(&model, context, "models/emoji", NULL, err)) return 1;
    ddit_params params = ddit_params_init(); params.prompt = "red apple";
    if (ddit_generate(&image, model, &params, err) || ddit_image_save_png(image, "apple.png", err)) return 1;
    ddit_image_free(image); ddit_model_close(model); ddit_context_free(context);
    return 0;
}

int main(void) {
    ddit_err err;
    if (draw(&err) == 0) return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}
