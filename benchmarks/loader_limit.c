/* What bounds any loader of packed images: plain copies of random rows, and plain writes of as many floats. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

void copy_rows(const uint8_t *source, const int64_t *offsets, int64_t num_rows, int64_t row_bytes, uint8_t *out) {
    for (int64_t row = 0; row < num_rows; row++)
        memcpy(out + row * row_bytes, source + offsets[row], (size_t)row_bytes);
}

/* Past the cache, which the floats of a large batch do not stay in anyway. */
void write_floats(const uint8_t *source, const int64_t *offsets, int64_t num_rows, int64_t row_bytes, float *out) {
    (void)source, (void)offsets;
    for (int64_t at = 0; at + 4 <= num_rows * row_bytes; at += 4) {
#ifdef __SSE2__
        _mm_stream_ps(out + at, _mm_set1_ps(0.5f));
#else
        for (int64_t k = 0; k < 4; k++)
            out[at + k] = 0.5f;
#endif
    }
}
