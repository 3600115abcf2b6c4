/* An antialiased linear resize: the triangle filter that Pillow calls BILINEAR, in floats, rows first.

   Sums are taken in the order of the taps whatever the vector width, so that every machine gets the same pixels. */
#include "resample.h"

#include <math.h>
#include <string.h>

#include "native.h"

typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));

/* The lowest byte of each of four numbers, in one. A conversion to bytes by the compiler takes twice the time. */
static inline int32_t low_bytes(ints4 numbers) {
#if defined(__clang__)
  const bytes16 bytes = (bytes16)numbers;
  const bytes16 low = __builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
#else
  const bytes16 low =
      __builtin_shuffle((bytes16)numbers, (bytes16){0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12});
#endif
  return ((ints4)low)[0];
}

static double support_of(double extent, int count) { return extent > count ? extent / count : 1.0; }

int axis_taps(int length, double extent, int count) {
  double taps = ceil(2.0 * support_of(extent, count));
  return taps < length ? (int)taps : length;
}

void axis_fill(struct axis *axis, int length, double start, double extent, int count, int flip) {
  const double scale = extent / count, support = support_of(extent, count);
  for (int i = 0; i < count; i++) {
    const int at = flip ? count - 1 - i : i;
    float *weight = axis->weight + (size_t)at * axis->taps;
    const double centre = start + (i + 0.5) * scale;
    int first = (int)floor(centre - support + 0.5);
    first = first > length - axis->taps ? length - axis->taps : first;
    first = first < 0 ? 0 : first;
    double sum = 0.0;
    for (int k = 0; k < axis->taps; k++) {
      const double height = 1.0 - fabs(first + k + 0.5 - centre) / support;
      weight[k] = (float)(height > 0.0 ? height : 0.0);
      sum += weight[k];
    }
    for (int k = 0; k < axis->taps; k++) weight[k] = (float)(weight[k] / sum);
    axis->first[at] = first;
  }
}

TARMAC_CLONES void blend_rows(const uint8_t *const *rows, const float *weight, int taps, float *restrict line,
                              int length) {
  while (taps > 1 && weight[taps - 1] == 0.0f) taps--;
  while (taps > 1 && weight[0] == 0.0f) rows++, weight++, taps--;
  const uint8_t *restrict a = rows[0];
  if (taps == 1) {
    for (int i = 0; i < length; i++) line[i] = a[i] * weight[0];
    return;
  }
  const uint8_t *restrict b = rows[1];
  if (taps == 2) {
    for (int i = 0; i < length; i++) line[i] = a[i] * weight[0] + b[i] * weight[1];
    return;
  }
  const uint8_t *restrict c = rows[2];
  for (int i = 0; i < length; i++) line[i] = a[i] * weight[0] + b[i] * weight[1] + c[i] * weight[2];
  for (int k = 3; k < taps; k++) {
    const uint8_t *restrict row = rows[k];
    for (int i = 0; i < length; i++) line[i] += row[i] * weight[k];
  }
}

static inline __attribute__((always_inline)) int32_t blend_pixel(const float *pixel, const float *weight, int taps) {
  floats4 sum = {0.5f, 0.5f, 0.5f, 0.5f};
  for (int k = 0; k < taps; k++, pixel += 3) {
    floats4 values; /* red, green, blue, and the next pixel's red, which is not used */
    memcpy(&values, pixel, sizeof values);
    sum += values * weight[k];
  }
  return low_bytes(__builtin_convertvector(sum, ints4));
}

static inline __attribute__((always_inline)) void columns_of_taps(const float *line, const struct axis *axis, int taps,
                                                                  int count, uint8_t *out) {
  const float *weight = axis->weight;
  int i = 0;
  for (; i < count - 1; i++, weight += taps) {
    const int32_t pixel = blend_pixel(line + 3 * (size_t)axis->first[i], weight, taps);
    memcpy(out + 3 * i, &pixel, 4); /* the fourth byte is the next pixel's, which overwrites it */
  }
  const int32_t pixel = blend_pixel(line + 3 * (size_t)axis->first[i], weight, taps);
  memcpy(out + 3 * i, &pixel, 3);
}

TARMAC_CLONES void blend_columns(const float *line, const struct axis *axis, int count, uint8_t *out) {
  switch (axis->taps) {
    case 2: columns_of_taps(line, axis, 2, count, out); break;
    case 3: columns_of_taps(line, axis, 3, count, out); break;
    case 4: columns_of_taps(line, axis, 4, count, out); break;
    default: columns_of_taps(line, axis, axis->taps, count, out);
  }
}
