/* Packed pixels into a batch: the gather, and the gather that mirrors, shifts and normalises on its way.

   Both are bound by memory. What helps, on two cores of an EPYC with random images of 64x64x3: reading eight images side
   by side, so that their cache and page misses overlap (1.6 times memcpy image by image on one core), and stores that
   bypass the cache for batches that would not stay in it anyway (another 1.1 times, with floats on two cores 1.4).

   Python checks every bound before it calls: offsets within the source, shapes, types, contiguity. */
#include "native.h"

#include <stdlib.h>

#include "pixels.h"

#define SIDE_BY_SIDE 8
#define CACHE_LINE 64
#define AHEAD_BYTES 256

struct augmentation {
    const uint8_t *source;
    const int64_t *offsets; /* of each image in the source */
    const int64_t *bits;    /* bit 0: mirror; bits 8..27 and 28..47: shifts down and right */
    int64_t height, width, channels, flip, crop_padding;
    const float *mean, *std; /* of each place in a row: (width, channels) */
    const uint16_t *table;   /* (channels, 256), the pixels to write where they have 16 bits, else NULL */
    void *out;
    int bypass;
};

TARMAC_EXPORT void tarmac_gather(const uint8_t *source, const int64_t *offsets, int64_t num_images,
                                 int64_t image_bytes, uint8_t *out);
TARMAC_EXPORT int tarmac_augment(const uint8_t *source, const int64_t *offsets, const int64_t *bits,
                                 int64_t num_images, int64_t height, int64_t width, int64_t channels, int64_t flip,
                                 int64_t crop_padding, const float *mean, const float *std, const uint16_t *table,
                                 void *out, int64_t num_threads);

ALWAYS_INLINE void gather(const uint8_t *source, const int64_t *offsets, int64_t num_images, int64_t image_bytes,
                          uint8_t *out, int bypass) {
    int64_t image = 0;
    for (; image + SIDE_BY_SIDE <= num_images; image += SIDE_BY_SIDE) {
        const uint8_t *in[SIDE_BY_SIDE];
        uint8_t *to = out + image * image_bytes;
        int64_t at = 0;
        for (int k = 0; k < SIDE_BY_SIDE; k++)
            in[k] = source + offsets[image + k];
        for (; at + CACHE_LINE <= image_bytes; at += CACHE_LINE)
            for (int k = 0; k < SIDE_BY_SIDE; k++) {
                __builtin_prefetch(in[k] + at + AHEAD_BYTES);
                copy(to + k * image_bytes + at, in[k] + at, CACHE_LINE, bypass);
            }
        for (int k = 0; k < SIDE_BY_SIDE; k++)
            copy(to + k * image_bytes + at, in[k] + at, image_bytes - at, bypass);
    }
    for (; image < num_images; image++)
        copy(out + image * image_bytes, source + offsets[image], image_bytes, bypass);
}

void tarmac_gather(const uint8_t *source, const int64_t *offsets, int64_t num_images, int64_t image_bytes,
                   uint8_t *out) {
    if (may_bypass(out, image_bytes, num_images * image_bytes)) {
        gather(source, offsets, num_images, image_bytes, out, 1);
        finish_bypass(1);
    } else {
        gather(source, offsets, num_images, image_bytes, out, 0);
    }
}

ALWAYS_INLINE void copy_mirrored(uint8_t *restrict out, const uint8_t *restrict in, int64_t width, int64_t channels) {
    for (int64_t x = 0; x < width; x++)
        for (int64_t c = 0; c < channels; c++)
            out[x * channels + c] = in[(width - 1 - x) * channels + c];
}

/* `channels` comes as a constant where that makes better loops. `row` has room for a row of bytes, `wide` for one of
   outputs. */
ALWAYS_INLINE void augment_images(const struct augmentation *all, int64_t first, int64_t end, int64_t channels,
                                  uint8_t *row, uint8_t *wide) {
    const int64_t height = all->height, width = all->width, padding = all->crop_padding;
    const int64_t num_shifts = 2 * padding + 1, row_bytes = width * channels;
    const int64_t out_bytes = row_bytes * (int64_t)(all->table ? sizeof(uint16_t) : sizeof(float));
    for (int64_t image = first; image < end; image++) {
        const uint8_t *pixels = all->source + all->offsets[image];
        const uint8_t *next = all->source + all->offsets[image + 1 < end ? image + 1 : image];
        const int64_t bits = all->bits[image];
        const int64_t down = ((bits >> 8) & 0xFFFFF) % num_shifts - padding;
        const int64_t right = ((bits >> 28) & 0xFFFFF) % num_shifts - padding;
        const int mirror = all->flip && (bits & 1);
        /* Columns of the crop that lie in the image; none where it is shifted out as a whole. */
        const int64_t start = right < 0 ? -right : 0, stop = right > 0 ? width - right : width;
        const int64_t shown = stop > start ? stop - start : 0;
        uint8_t *out = (uint8_t *)all->out + image * height * out_bytes;
        memset(row, 0, (size_t)row_bytes);
        for (int64_t y = 0; y < height; y++, out += out_bytes) {
            const int64_t from = y + down;
            const uint8_t *in = row;
            for (int64_t at = 0; at < row_bytes; at += CACHE_LINE)
                __builtin_prefetch(next + y * row_bytes + at);
            if (from < 0 || from >= height) {
                memset(row, 0, (size_t)row_bytes);
            } else if (shown) {
                const uint8_t *visible = pixels + from * row_bytes + (start + right) * channels;
                if (mirror)
                    copy_mirrored(row + (width - stop) * channels, visible, shown, channels);
                else if (shown < width)
                    memcpy(row + start * channels, visible, (size_t)(shown * channels));
                else
                    in = visible;
            }
            uint8_t *to = all->bypass ? wide : out;
            if (all->table)
                look_up((uint16_t *)to, in, width, channels, all->table);
            else
                normalise((float *)to, in, row_bytes, all->mean, all->std);
            if (all->bypass)
                copy(out, wide, out_bytes, 1);
        }
    }
    finish_bypass(all->bypass);
}

TARMAC_CLONES static void *augment_part(void *argument) {
    struct part *part = argument;
    const struct augmentation *all = part->all;
    const size_t row_bytes = (size_t)(all->width * all->channels);
    uint8_t *wide = malloc(row_bytes * (sizeof(float) + 1));
    if (!wide) {
        part->failed = 1;
        return NULL;
    }
    uint8_t *row = wide + row_bytes * sizeof(float);
    if (all->channels == 3)
        augment_images(all, part->first, part->end, 3, row, wide);
    else if (all->channels == 1)
        augment_images(all, part->first, part->end, 1, row, wide);
    else
        augment_images(all, part->first, part->end, all->channels, row, wide);
    free(wide);
    return NULL;
}

/* Returns 0, or -1 where memory for a row is not to be had. */
int tarmac_augment(const uint8_t *source, const int64_t *offsets, const int64_t *bits, int64_t num_images,
                   int64_t height, int64_t width, int64_t channels, int64_t flip, int64_t crop_padding,
                   const float *mean, const float *std, const uint16_t *table, void *out, int64_t num_threads) {
    const int64_t out_row_bytes = width * channels * (int64_t)(table ? sizeof(uint16_t) : sizeof(float));
    const struct augmentation all = {
        .source = source,
        .offsets = offsets,
        .bits = bits,
        .height = height,
        .width = width,
        .channels = channels,
        .flip = flip,
        .crop_padding = crop_padding,
        .mean = mean,
        .std = std,
        .table = table,
        .out = out,
        .bypass = may_bypass(out, out_row_bytes, num_images * height * out_row_bytes),
    };
    return run_parts(augment_part, &all, num_images, num_threads);
}
