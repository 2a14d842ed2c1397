#include "pipeline/picture_encode.h"

#include <string.h>

#include "media/picture.h"

static void mirror(dd_picture *p) {
    for (int y = 0; y < p->height; y++) {
        uint8_t *row = p->rgb + (size_t)y * (size_t)p->width * 3;
        for (int x = 0; x < p->width / 2; x++) {
            uint8_t *left = row + 3 * x, *right = row + 3 * (p->width - 1 - x), pixel[3];
            memcpy(pixel, left, 3);
            memcpy(left, right, 3);
            memcpy(right, pixel, 3);
        }
    }
}

ddit_status dd_picture_encode(dd_flux_vae_encoder *encoder, const dd_allocator *a, const char *path, int width, int height,
                              bool mirrored, float *latent, ddit_err *err) {
    dd_picture read, sized;
    DD_TRY(dd_picture_read(&read, a, path, err));
    ddit_status status = dd_picture_resize(&sized, a, &read, width, height, err);
    dd_picture_deinit(&read);
    if (status == DDIT_OK && mirrored) mirror(&sized);
    if (status == DDIT_OK) status = dd_flux_vae_encode(encoder, sized.rgb, height, width, latent, err);
    dd_picture_deinit(&sized);
    return status;
}
