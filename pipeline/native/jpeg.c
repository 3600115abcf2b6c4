/* Crops of JPEGs, decoded and resized straight into rows of a batch.

   libjpeg-turbo 3 decodes: of the rows above the crop only the entropy coding is undone, of the columns beside it no
   more than two (which the upsampling of colours looks at, so that a crop has the pixels of a whole decode), and of the
   rows below it nothing. Each row is resized as it comes, so that a thread needs room for a few rows and not for
   an image.

   The library is found when the program runs: Pillow's wheel has one. Its interface, version 62, is declared here in
   as far as it is used, so that no header is needed; the library itself refuses a caller whose version or structure
   has another size.

   Nothing is taken on trust: sizes are checked before anything is allocated by them, errors come back by longjmp, and
   whatever libjpeg only warns of is handed back too, for Pillow to decide. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"
#include "resample.h"

enum { MOST_PIXELS = 178956970, /* as in pipeline/data/decode.py */
       VERSION = 62, STRUCTURE_BYTES = 632, COLOURS_RGB = 2, MOST_SCANS = 500, READ_ROWS = 16, CHANNELS = 3 };

/* What became of an image; pipeline/data/decode.py has the same numbers. */
enum { DECODED = 0, NO_JPEG = 1, ODD_COLOURS = 2, OTHER_SIZE = 3, BAD_JOB = 4, BROKEN = 5, NO_MEMORY = 6 };

struct error_manager {
  void (*error_exit)(void *info);
  void (*emit_message)(void *info, int level);
  void (*functions[3])(void);
  int code;
  union {
    int numbers[8];
    char text[80];
  } parameters;
  int trace_level;
  long num_warnings;
  const void *tables_and_limits[4];
};

struct progress_manager {
  void (*monitor)(void *info);
  long passes[3];
};

struct decompressor {
  struct error_manager *errors;
  void *memory;
  struct progress_manager *progress;
  void *client;
  int is_decompressor;
  int state;
  void *source;
  unsigned width, height;
  int num_components;
  int stored_colours;
  int colours;
  unsigned scale[2];
  double gamma;
  int choices[12]; /* left as the library sets them: whole scans, exact DCT, smooth upsampling, no palette */
  unsigned output_width, output_height;
  int components[3];
  int num_palette_colours;
  void *palette;
  unsigned output_row;
  int scan;
};

union structure {
  struct decompressor info;
  char bytes[STRUCTURE_BYTES];
};

static struct {
  struct error_manager *(*std_error)(struct error_manager *);
  void (*create)(struct decompressor *, int version, size_t structure_bytes);
  void (*destroy)(struct decompressor *);
  void (*mem_src)(struct decompressor *, const unsigned char *, unsigned long);
  int (*read_header)(struct decompressor *, int require_image);
  int (*start)(struct decompressor *);
  unsigned (*read_rows)(struct decompressor *, unsigned char **rows, unsigned count);
  unsigned (*skip_rows)(struct decompressor *, unsigned count);
  void (*crop_columns)(struct decompressor *, unsigned *left, unsigned *width);
} library;

/* An image to decode, as the array of `pipeline/data/decode.py` has it. */
struct job {
  int64_t offset, size_bytes; /* of the file's bytes */
  double box[4];              /* left, top, width, height: what becomes the output */
  int32_t region[4];          /* the pixels that have a part in it; the box lies inside */
  int32_t height, width;      /* of the image, as it must be */
  int32_t flip;
  int32_t result;
};

struct errors {
  struct error_manager base;
  jmp_buf back;
};

static void on_error(void *info) {
  struct errors *errors = (struct errors *)((struct decompressor *)info)->errors;
  longjmp(errors->back, 1);
}

static void on_message(void *info, int level) {
  if (level < 0) on_error(info);
}

/* A few kilobytes can hold thousands of scans of a large image: libjpeg-turbo's own advice is to stop. */
static void on_progress(void *info) {
  if (((struct decompressor *)info)->scan > MOST_SCANS) on_error(info);
}

static void open_decoder(union structure *structure, struct errors *errors, struct progress_manager *progress) {
  structure->info.errors = library.std_error(&errors->base);
  errors->base.error_exit = on_error;
  errors->base.emit_message = on_message;
  library.create(&structure->info, VERSION, STRUCTURE_BYTES);
  progress->monitor = on_progress;
  structure->info.progress = progress;
}

TARMAC_EXPORT int tarmac_jpeg_open(const char *path);
TARMAC_EXPORT int64_t tarmac_jpeg_job_bytes(void);
TARMAC_EXPORT void tarmac_decode_jpegs(const uint8_t *bytes, struct job *jobs, int64_t count, int64_t *next,
                                       uint8_t *out, int height, int width);

int64_t tarmac_jpeg_job_bytes(void) { return sizeof(struct job); }

/* Load a libjpeg-turbo from 3 on. Returns 0, or: 1 there is none of that name, 2 it is another, 3 it refuses us. */
int tarmac_jpeg_open(const char *path) {
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return 1;
  const struct {
    const char *name;
    void *place;
  } symbols[] = {
      {"jpeg_std_error", &library.std_error},       {"jpeg_CreateDecompress", &library.create},
      {"jpeg_destroy_decompress", &library.destroy}, {"jpeg_mem_src", &library.mem_src},
      {"jpeg_read_header", &library.read_header},   {"jpeg_start_decompress", &library.start},
      {"jpeg_read_scanlines", &library.read_rows},  {"jpeg_skip_scanlines", &library.skip_rows},
      {"jpeg_crop_scanline", &library.crop_columns},
  };
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *found = dlsym(handle, symbols[i].name);
    if (!found) return 2;
    memcpy(symbols[i].place, &found, sizeof found);
  }
  if (!dlsym(handle, "jpeg12_read_scanlines")) return 2; /* new in 3.0, before which crops had faults */
  union structure structure = {0};
  struct errors errors = {0};
  struct progress_manager progress = {0};
  if (setjmp(errors.back)) return 3;
  open_decoder(&structure, &errors, &progress);
  library.destroy(&structure.info);
  return 0;
}

static int is_sound(const struct job *job) {
  const int32_t *region = job->region;
  const double *box = job->box;
  if (job->height < 1 || job->width < 1 || (int64_t)job->height * job->width > MOST_PIXELS) return 0;
  if (region[0] < 0 || region[1] < 0 || region[2] < 1 || region[3] < 1) return 0;
  if (region[0] > job->width - region[2] || region[1] > job->height - region[3]) return 0;
  for (int axis = 0; axis < 2; axis++) {
    /* A box may end a rounding error late. Spelled so that NaN is outside. */
    const double end = (double)region[axis] + region[axis + 2] + 1e-6;
    if (!(box[axis] >= region[axis] && box[axis + 2] > 0.0 && box[axis] + box[axis + 2] <= end)) return 0;
  }
  return 1;
}

/* Of one image: everything that one allocation has room for. */
struct room {
  struct axis across, down;
  float *line;
  const uint8_t **rows; /* those of one output row */
  uint8_t *ring;        /* the decoded rows that are still needed: row k at k % ring_rows */
  int ring_rows;
  size_t row_bytes;
};

static size_t rounded(size_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

/* Lay the room out; returns the bytes that it takes. With no memory yet, that is all. */
static size_t lay_out(struct room *room, char *memory, int line_pixels, int height, int width) {
  size_t used = 0;
#define PLACE(field, count) \
  room->field = (void *)(memory ? memory + used : NULL), used += rounded((size_t)(count) * sizeof *room->field)
  PLACE(across.first, width);
  PLACE(across.weight, (size_t)width * room->across.taps);
  PLACE(down.first, height);
  PLACE(down.weight, (size_t)height * room->down.taps);
  PLACE(line, (size_t)line_pixels * CHANNELS + 1);
  PLACE(rows, room->down.taps);
  PLACE(ring, (size_t)room->ring_rows * room->row_bytes);
#undef PLACE
  return used;
}

static void read_and_resize(struct decompressor *info, const struct job *job, struct room *room, size_t column_bytes,
                            uint8_t *out, int height, int width) {
  const int line_length = job->region[2] * CHANNELS, num_rows = job->region[3];
  int decoded = 0;
  room->line[line_length] = 0.0f;
  for (int y = 0; y < height; y++) {
    const int first = room->down.first[y], end = first + room->down.taps;
    while (decoded < end) {
      int count = first + room->ring_rows - decoded;
      count = count > READ_ROWS ? READ_ROWS : count;
      count = count > num_rows - decoded ? num_rows - decoded : count;
      unsigned char *places[READ_ROWS];
      for (int i = 0; i < count; i++) places[i] = room->ring + (decoded + i) % room->ring_rows * room->row_bytes;
      const unsigned found = library.read_rows(info, places, (unsigned)count);
      if (found == 0) on_error(info);
      decoded += (int)found;
    }
    for (int k = 0; k < room->down.taps; k++)
      room->rows[k] = room->ring + (first + k) % room->ring_rows * room->row_bytes + column_bytes;
    blend_rows(room->rows, room->down.weight + (size_t)y * room->down.taps, room->down.taps, room->line, line_length);
    blend_columns(room->line, &room->across, width, out + (size_t)y * width * CHANNELS);
  }
}

static int decode(const uint8_t *bytes, const struct job *job, uint8_t *out, int height, int width) {
  if (job->size_bytes < 3 || memcmp(bytes, "\xff\xd8\xff", 3) != 0) return NO_JPEG;
  if (!is_sound(job)) return BAD_JOB;
  union structure structure = {0};
  struct decompressor *const info = &structure.info;
  struct errors errors = {0};
  struct progress_manager progress = {0};
  char *volatile memory = NULL;
  volatile int result = BROKEN;
  if (setjmp(errors.back)) goto end;
  open_decoder(&structure, &errors, &progress);
  library.mem_src(info, bytes, (unsigned long)job->size_bytes);
  library.read_header(info, 1);
  if ((int64_t)info->width != job->width || (int64_t)info->height != job->height) {
    result = OTHER_SIZE;
    goto end;
  }
  if (info->num_components != 1 && info->num_components != 3) {
    result = ODD_COLOURS;
    goto end;
  }
  info->colours = COLOURS_RGB;
  library.start(info);
  const unsigned spare = 2;
  unsigned left = (unsigned)job->region[0], right = left + (unsigned)job->region[2];
  left = left > spare ? left - spare : 0;
  right = info->output_width - right > spare ? right + spare : info->output_width;
  unsigned columns = right - left;
  if (columns != info->output_width) library.crop_columns(info, &left, &columns);
  if (job->region[1]) library.skip_rows(info, (unsigned)job->region[1]);
  struct room room = {0};
  room.across.taps = axis_taps(job->region[2], job->box[2], width);
  room.down.taps = axis_taps(job->region[3], job->box[3], height);
  room.row_bytes = rounded((size_t)info->output_width * CHANNELS);
  room.ring_rows = room.down.taps + READ_ROWS;
  memory = malloc(lay_out(&room, NULL, job->region[2], height, width));
  if (!memory) {
    result = NO_MEMORY;
    goto end;
  }
  lay_out(&room, memory, job->region[2], height, width);
  axis_fill(&room.across, job->region[2], job->box[0] - job->region[0], job->box[2], width, job->flip);
  axis_fill(&room.down, job->region[3], job->box[1] - job->region[1], job->box[3], height, 0);
  read_and_resize(info, job, &room, (size_t)(job->region[0] - (int)left) * CHANNELS, out, height, width);
  result = DECODED;
end:
  library.destroy(info);
  free(memory);
  return result;
}

/* Decode jobs until none is left, each into its row of out (count, height, width, 3). `next` is the first that nobody
   has begun, 0 at first; threads that are called with the same one share the work. */
void tarmac_decode_jpegs(const uint8_t *bytes, struct job *jobs, int64_t count, int64_t *next, uint8_t *out, int height,
                         int width) {
  const size_t image_bytes = (size_t)height * width * CHANNELS;
  for (;;) {
    const int64_t at = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (at >= count) return;
    struct job *job = jobs + at;
    job->result = decode(bytes + job->offset, job, out + at * image_bytes, height, width);
  }
}
