/* The limit of benchmarks/encoded.py: libjpeg-turbo decodes a crop's rows and columns, and nothing is made of them. */
#include "../pipeline/native/jpeg.c"

void decode_alone(const uint8_t *bytes, struct job *jobs, int64_t count, int64_t *next, uint8_t *room);

void decode_alone(const uint8_t *bytes, struct job *jobs, int64_t count, int64_t *next, uint8_t *room) {
  for (;;) {
    const int64_t at = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (at >= count) return;
    struct job *job = jobs + at;
    union structure structure = {0};
    struct decompressor *info = &structure.info;
    struct errors errors = {0};
    struct progress_manager progress = {0};
    job->result = BROKEN;
    if (!setjmp(errors.back)) {
      open_decoder(&structure, &errors, &progress);
      library.mem_src(info, bytes + job->offset, (unsigned long)job->size_bytes);
      library.read_header(info, 1);
      info->colours = COLOURS_RGB;
      library.start(info);
      unsigned left = (unsigned)job->region[0], columns = (unsigned)job->region[2];
      if (columns != info->output_width) library.crop_columns(info, &left, &columns);
      if (job->region[1]) library.skip_rows(info, (unsigned)job->region[1]);
      while (info->output_row < (unsigned)(job->region[1] + job->region[3])) {
        unsigned char *rows[READ_ROWS];
        for (int i = 0; i < READ_ROWS; i++) rows[i] = room + (size_t)i * info->output_width * CHANNELS;
        library.read_rows(info, rows, READ_ROWS);
      }
      job->result = DECODED;
    }
    library.destroy(info);
  }
}
