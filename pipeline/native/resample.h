/* An antialiased linear resize of RGB rows that come one by one: see resample.c. */
#ifndef TARMAC_RESAMPLE_H
#define TARMAC_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

/* One axis: output i is the sum over k < taps of weight[i * taps + k] times the input first[i] + k. */
struct axis {
  int taps;
  int *first;
  float *weight;
};

/* The number of taps of `count` outputs over `extent` of an axis with `length` inputs. */
int axis_taps(int length, double extent, int count);

/* Fill first[count] and weight[count * taps], which the caller has. */
void axis_fill(struct axis *axis, int length, double start, double extent, int count, int flip);

/* line[i] = sum over k of weight[k] * rows[k][i], for i < length; zero weights at the ends cost nothing. */
void blend_rows(const uint8_t *const *rows, const float *weight, int taps, float *line, int length);

/* One row of `count` RGB pixels from a line, behind whose last float another one can be read. */
void blend_columns(const float *line, const struct axis *axis, int count, uint8_t *out);

#endif
