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
