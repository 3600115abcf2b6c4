/* A box of each packed image, enlarged to the image's size, mirrored and normalised, in one pass.

   Linear interpolation in whole numbers, so that torch's own operations give the same pixels to the last bit
   (pipeline/data/resized_crop.py, which checks that 255*4*height*width is an int32): a row is blended from two, which
   the compiler makes vectors of, then each pixel of it from two. */
#include "native.h"

#include <stdlib.h>

#include "pixels.h"

typedef int32_t ints4 __attribute__((vector_size(16)));
/* A pixel of three channels is read and written as four. */
#define SLACK 4

struct crops {
    const uint8_t *source;
    const int64_t *offsets; /* of each image in the source */
    const int32_t *boxes;   /* of each image: left, top, width, height, whether it is mirrored */
    int64_t height, width, channels;
    const float *mean, *std; /* of each place in a row: (width, channels) */
    const uint16_t *table;   /* (channels, 256), the pixels to write where they have 16 bits, else NULL */
    void *out;
    int bypass;
};

/* Between which two pixels of the box a place lies, and its part of the second in units of 1 / (2 * count). */
struct place {
    int32_t first, second, part;
};

struct room {
    struct place *columns;
    int32_t *line, *sums;
    uint8_t *row, *wide;
};

TARMAC_EXPORT int tarmac_resized_crop(const uint8_t *source, const int64_t *offsets, const int32_t *boxes,
                                      int64_t num_images, int64_t height, int64_t width, int64_t channels,
                                      const float *mean, const float *std, const uint16_t *table, void *out,
                                      int64_t num_threads);

ALWAYS_INLINE struct place place_of(int64_t i, int64_t extent, int64_t count) {
    int64_t numerator = (2 * i + 1) * extent - count, last = 2 * count * (extent - 1);
    numerator = numerator < 0 ? 0 : numerator > last ? last : numerator;
    const int64_t first = numerator / (2 * count);
    return (struct place){(int32_t)first, (int32_t)(first + 1 < extent ? first + 1 : extent - 1),
                          (int32_t)(numerator - first * 2 * count)};
}

ALWAYS_INLINE void blend_rows(int32_t *restrict line, const uint8_t *restrict above, const uint8_t *restrict below,
                              int64_t num_values, int32_t part, int32_t whole) {
    for (int64_t i = 0; i < num_values; i++)
        line[i] = above[i] * (whole - part) + below[i] * part;
}

ALWAYS_INLINE void blend_columns(int32_t *sums, const int32_t *line, const struct place *columns, int64_t width,
                                 int64_t channels) {
    const int32_t whole = (int32_t)(2 * width);
    for (int64_t x = 0; x < width; x++) {
        const int32_t part = columns[x].part;
        const int32_t *first = line + columns[x].first * channels, *second = line + columns[x].second * channels;
        int32_t *to = sums + x * channels;
        if (channels == 3) {
            ints4 a, b; /* the fourth place is the next pixel's, which overwrites it */
            memcpy(&a, first, sizeof a);
            memcpy(&b, second, sizeof b);
            a = a * (whole - part) + b * part;
            memcpy(to, &a, sizeof a);
        } else {
            for (int64_t c = 0; c < channels; c++)
                to[c] = first[c] * (whole - part) + second[c] * part;
        }
    }
}

/* (sum + divisor / 2) / divisor, exactly: half a unit more keeps the product with the reciprocal off whole numbers,
   which its rounding could fall below. */
ALWAYS_INLINE void divide(uint8_t *restrict row, const int32_t *restrict sums, int64_t num_values, int32_t divisor) {
    const double reciprocal = 1.0 / divisor, more = divisor / 2 + 0.5;
    for (int64_t i = 0; i < num_values; i++)
        row[i] = (uint8_t)(int32_t)((sums[i] + more) * reciprocal);
}

ALWAYS_INLINE void crop_images(const struct crops *all, int64_t first, int64_t end, int64_t channels,
                               const struct room *room) {
    const int64_t height = all->height, width = all->width, row_bytes = width * channels;
    const int64_t out_bytes = row_bytes * (int64_t)(all->table ? sizeof(uint16_t) : sizeof(float));
    for (int64_t image = first; image < end; image++) {
        const int32_t *box = all->boxes + 5 * image;
        const int64_t left = box[0], top = box[1], box_width = box[2], box_height = box[3];
        const uint8_t *pixels = all->source + all->offsets[image] + top * row_bytes + left * channels;
        uint8_t *out = (uint8_t *)all->out + image * height * out_bytes;
        for (int64_t x = 0; x < width; x++)
            room->columns[box[4] ? width - 1 - x : x] = place_of(x, box_width, width);
        for (int64_t y = 0; y < height; y++, out += out_bytes) {
            const struct place at = place_of(y, box_height, height);
            blend_rows(room->line, pixels + at.first * row_bytes, pixels + at.second * row_bytes,
                       box_width * channels, at.part, (int32_t)(2 * height));
            blend_columns(room->sums, room->line, room->columns, width, channels);
            divide(room->row, room->sums, row_bytes, (int32_t)(4 * height * width));
            uint8_t *to = all->bypass ? room->wide : out;
            if (all->table)
                look_up((uint16_t *)to, room->row, width, channels, all->table);
            else
                normalise((float *)to, room->row, row_bytes, all->mean, all->std);
            if (all->bypass)
                copy(out, room->wide, out_bytes, 1);
        }
    }
    finish_bypass(all->bypass);
}

TARMAC_CLONES static void *crop_part(void *argument) {
    struct part *part = argument;
    const struct crops *all = part->all;
    const size_t row_values = (size_t)(all->width * all->channels);
    struct room room = {
        .columns = malloc((size_t)all->width * sizeof(struct place)),
        .line = calloc(row_values + SLACK, sizeof(int32_t)),
        .sums = calloc(row_values + SLACK, sizeof(int32_t)),
        .row = malloc(row_values),
        .wide = malloc(row_values * sizeof(float)),
    };
    if (!room.columns || !room.line || !room.sums || !room.row || !room.wide)
        part->failed = 1;
    else if (all->channels == 3)
        crop_images(all, part->first, part->end, 3, &room);
    else if (all->channels == 1)
        crop_images(all, part->first, part->end, 1, &room);
    else
        crop_images(all, part->first, part->end, all->channels, &room);
    free(room.columns), free(room.line), free(room.sums), free(room.row), free(room.wide);
    return NULL;
}

/* Returns 0, or -1 where memory for a row is not to be had. */
int tarmac_resized_crop(const uint8_t *source, const int64_t *offsets, const int32_t *boxes, int64_t num_images,
                        int64_t height, int64_t width, int64_t channels, const float *mean, const float *std,
                        const uint16_t *table, void *out, int64_t num_threads) {
    const int64_t out_row_bytes = width * channels * (int64_t)(table ? sizeof(uint16_t) : sizeof(float));
    const struct crops all = {
        .source = source,
        .offsets = offsets,
        .boxes = boxes,
        .height = height,
        .width = width,
        .channels = channels,
        .mean = mean,
        .std = std,
        .table = table,
        .out = out,
        .bypass = may_bypass(out, out_row_bytes, num_images * height * out_row_bytes),
    };
    return run_parts(crop_part, &all, num_images, num_threads);
}
