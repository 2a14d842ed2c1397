/* WebP files, by libwebp. */
#include "media/picture_formats.h"

#ifdef DDIT_WEBP

#include <webp/decode.h>

static ddit_status failure(const dd_picture_file *file, VP8StatusCode code, ddit_err *err) {
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while reading", file->path);
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: damaged WebP: %s", file->path,
                   code == VP8_STATUS_NOT_ENOUGH_DATA ? "the file ends too early" : "its stream cannot be decoded");
}

ddit_status dd_picture_read_webp(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return dd_fail(err, DDIT_ERR_INTERNAL, "%s: libwebp has another version than its header", file->path);
    VP8StatusCode code = WebPGetFeatures(file->data, file->size, &config.input);
    if (code != VP8_STATUS_OK) return failure(file, code, err);
    if (config.input.has_animation)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: is an animated WebP, only still pictures are supported", file->path);
    int channels = config.input.has_alpha ? 4 : 3;
    uint8_t *values;
    DD_TRY(dd_picture_alloc(out, file, (uint32_t)config.input.width, (uint32_t)config.input.height, &values, channels, err));
    out->rgb = values;
    config.output.colorspace = channels == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = values;
    config.output.u.RGBA.stride = out->width * channels;
    config.output.u.RGBA.size = (size_t)out->height * (size_t)out->width * (size_t)channels;
    code = WebPDecode(file->data, file->size, &config);
    WebPFreeDecBuffer(&config.output);
    if (code != VP8_STATUS_OK) return failure(file, code, err);
    if (channels == 4) dd_picture_over_white(values, values, (size_t)out->width * (size_t)out->height);
    return DDIT_OK;
}

#else

ddit_status dd_picture_read_webp(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    (void)out;
    return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                   "%s: is a WebP, which this build of ddit does not read (libwebp was not there when "
                   "it was built); PNG is always read", file->path);
}

#endif
