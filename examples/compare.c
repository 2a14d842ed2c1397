/* Draws one prompt twice, base and DDiT, and puts the pictures side by side: compare MODEL-FOLDER PROMPT OUT.png */
#include <ddit/ddit.h>
#include <stdio.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs one session and says how long the denoising took. */
static int draw(ddit_image **image, ddit_model *model, const char *prompt, const char *patch, double *seconds, ddit_err *err) {
    ddit_session *session;
    ddit_params params = ddit_params_init();
    params.prompt = prompt;
    params.patch = patch;
    params.steps = 50;
    params.seed = 42;
    if (ddit_session_create(&session, model, &params, err)) return 1;
    double begin = now();
    int failed = ddit_session_run(session, err);
    *seconds = now() - begin;
    failed = failed || ddit_session_decode(session, image, err);
    ddit_session_free(session);
    return failed;
}

int main(int argc, char **argv) {
    ddit_context *context = NULL;
    ddit_model *model = NULL;
    ddit_image *base = NULL, *fast = NULL, *both = NULL;
    ddit_err err;
    double base_seconds, fast_seconds;
    if (argc != 4) return fprintf(stderr, "usage: compare MODEL-FOLDER PROMPT OUT.png\n"), 2;
    int failed = ddit_context_create(&context, NULL, &err) || ddit_model_open(&model, context, argv[1], NULL, &err) ||
                 draw(&base, model, argv[2], "off", &base_seconds, &err) ||
                 draw(&fast, model, argv[2], "auto", &fast_seconds, &err) || ddit_image_join(&both, base, fast, &err) ||
                 ddit_image_save_png(both, argv[3], &err);
    if (failed) fprintf(stderr, "compare: %s\n", err.text);
    else
        printf("%s: \"%s\", 50 steps on %s\nleft:  base  %6.2f s\nright: DDiT  %6.2f s  %.2f times faster, %.1f dB from the "
               "base picture\n",
               argv[3], argv[2], ddit_context_device(context), base_seconds, fast_seconds, base_seconds / fast_seconds,
               ddit_image_psnr(base, fast));
    ddit_image_free(both);
    ddit_image_free(fast);
    ddit_image_free(base);
    ddit_model_close(model);
    ddit_context_free(context);
    return failed;
}
