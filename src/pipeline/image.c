#include <math.h>
#include <string.h>

#include "media/png.h"
#include "pipeline/pipeline.h"

int ddit_image_width(const ddit_image *image) { return image->width; }

int ddit_image_height(const ddit_image *image) { return image->height; }

const uint8_t *ddit_image_pixels(const ddit_image *image) { return image->rgb; }

void ddit_image_strip(ddit_image *image) {
    dd_free(&image->allocator, image->parameters);
    dd_free(&image->allocator, image->metadata);
    image->parameters = image->metadata = NULL;
}

void ddit_image_free(ddit_image *image) {
    if (!image) return;
    dd_allocator a = image->allocator;
    ddit_image_strip(image);
    dd_free(&a, image->rgb);
    dd_free(&a, image);
}

ddit_status ddit_image_save_png(const ddit_image *image, const char *path, ddit_err *err) {
    dd_png_text texts[2];
    int count = 0;
    if (image->parameters) texts[count++] = (dd_png_text){"parameters", image->parameters};
    if (image->metadata) texts[count++] = (dd_png_text){"ddit", image->metadata};
    return dd_png_write(&image->allocator, path, image->width, image->height, image->rgb, texts, count, err);
}

ddit_status ddit_image_join(ddit_image **out, const ddit_image *left, const ddit_image *right, ddit_err *err) {
    const dd_allocator *a = &left->allocator;
    ddit_image *image;
    *out = NULL;
    if (left->height != right->height)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "images of heights %d and %d cannot stand side by side", left->height,
                       right->height);
    DD_TRY(dd_alloc(a, &image, 1, sizeof *image, "the image", err));
    image->allocator = *a;
    image->width = left->width + right->width;
    image->height = left->height;
    ddit_status status = dd_alloc_raw(a, &image->rgb, (size_t)image->width * (size_t)image->height, 3, "the image", err);
    if (status != DDIT_OK) {
        ddit_image_free(image);
        return status;
    }
    size_t left_row = 3 * (size_t)left->width, right_row = 3 * (size_t)right->width;
    for (size_t y = 0; y < (size_t)image->height; y++) {
        uint8_t *row = image->rgb + y * (left_row + right_row);
        memcpy(row, left->rgb + y * left_row, left_row);
        memcpy(row + left_row, right->rgb + y * right_row, right_row);
    }
    *out = image;
    return DDIT_OK;
}

double ddit_image_psnr(const ddit_image *a, const ddit_image *b) {
    if (a->width != b->width || a->height != b->height) return NAN;
    size_t count = 3 * (size_t)a->width * (size_t)a->height;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)a->rgb[i] - b->rgb[i];
        sum += d * d;
    }
    return sum == 0 ? INFINITY : 10 * log10(255.0 * 255.0 * (double)count / sum);
}
