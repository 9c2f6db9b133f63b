/* RoIAlign over one table of all pyramid levels, forward and backward, and the way into the table and back.

   A row of the table is one place of one image's map: its channels lie side by side, `pitch` numbers of
   them, a multiple of LANES, filled up with zeros. So every cell of a RoI is a weighted sum of a few rows,
   and all inner loops run over whole vectors of channels.

   Nothing here depends on how many threads work: each number of a result is made by one thread, by the same
   operations in the same order.

   Source: Mask R-CNN (He et al., 2017), section 3; at the border as torchvision's kernel: samples up to one
   place outside the map repeat its border, samples farther off are 0. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef DOUBLE
typedef double real;
typedef int64_t place_in_vector;
#else
typedef float real;
typedef int32_t place_in_vector;
#endif

/* MOST_VECTORS: as many sums as 16 registers of 32 bytes hold. SQUARE: of a matrix, turned in registers.
   PLACES: of a map, turned at a time; so many rows of 256 channels fit the first cache's ways. */
enum { VECTOR_BYTES = 64, LANES = VECTOR_BYTES / sizeof(real), MOST_VECTORS = 4, SQUARE = 4, PLACES = 32 };
enum { DONE = 0, NO_MEMORY = 1, NO_SUCH_MAP = 2 };
/* Aligned as single numbers are, since a tensor may begin anywhere. */
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef real four __attribute__((vector_size(SQUARE * sizeof(real)), aligned(sizeof(real)), may_alias));

/* Where a count is a constant, its loops become registers. */
#define INLINE static inline __attribute__((always_inline))

#ifdef __clang__
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef place_in_vector indices __attribute__((vector_size(SQUARE * sizeof(place_in_vector))));
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (indices){i, j, k, l})
#endif

/* The pyramid and the RoIs that are cut out of it. Python has the same structure (ops/roi_kernel.py). */
typedef struct {
    int64_t num_levels, num_images, channels, pitch;
    const int64_t *heights, *widths; /* of each level, in places */
    const double *strides;           /* pixels a place, of each level */
    int64_t size, sampling_ratio, is_aligned;
    int64_t num_boxes;
    const real *boxes; /* num_boxes x 4: x1, y1, x2, y2 in pixels */
    const int64_t *images, *levels;
} Task;

/* The places along one side of a RoI that make each of its cells, and their weights. */
typedef struct {
    int64_t *ends; /* of each cell: behind its last tap; the first cell's taps begin at 0 */
    int64_t *places;
    real *weights;
} Taps;

/* Has so many threads do the work: GOMP_parallel of the OpenMP runtime that torch has loaded, so that there
   is one pool of threads in the process. */
typedef void (*Run)(void (*work)(void *), void *crew, unsigned threads, unsigned flags);

/* Threads that take items from one list. */
typedef struct Crew {
    void (*item)(struct Crew *, int64_t item, char *scratch);
    int64_t num_items, next_item;
    int64_t scratch_bytes, next_scratch; /* of each thread */
    char *scratch;
    const Task *task;
    const real *source;
    real *result;
    real *const *maps;
    int64_t vectors_at_once;
} Crew;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void work(void *shared) {
    Crew *crew = shared;
    int64_t number = __atomic_fetch_add(&crew->next_scratch, 1, __ATOMIC_RELAXED);
    char *scratch = crew->scratch + number * crew->scratch_bytes;
    for (;;) {
        int64_t item = __atomic_fetch_add(&crew->next_item, 1, __ATOMIC_RELAXED);
        if (item >= crew->num_items) return;
        crew->item(crew, item, scratch);
    }
}

static int run_crew(Crew *crew, Run run, int64_t threads) {
    threads = least(threads, crew->num_items);
    if (threads < 1 || run == NULL) threads = 1;
    crew->scratch_bytes = (crew->scratch_bytes + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES;
    crew->scratch = malloc((size_t)(threads * crew->scratch_bytes + 1));
    if (crew->scratch == NULL) return NO_MEMORY;
    if (threads == 1)
        work(crew);
    else
        run(work, crew, (unsigned)threads, 0);
    free(crew->scratch);
    return DONE;
}

INLINE void transpose_square(const real *src, int64_t src_pitch, real *dst, int64_t dst_pitch) {
    four a = *(const four *)src, b = *(const four *)(src + src_pitch);
    four c = *(const four *)(src + 2 * src_pitch), d = *(const four *)(src + 3 * src_pitch);
    four ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    four ba = SHUFFLE(a, b, 2, 6, 3, 7), dc = SHUFFLE(c, d, 2, 6, 3, 7);
    *(four *)dst = SHUFFLE(ab, cd, 0, 1, 4, 5);
    *(four *)(dst + dst_pitch) = SHUFFLE(ab, cd, 2, 3, 6, 7);
    *(four *)(dst + 2 * dst_pitch) = SHUFFLE(ba, dc, 0, 1, 4, 5);
    *(four *)(dst + 3 * dst_pitch) = SHUFFLE(ba, dc, 2, 3, 6, 7);
}

/* dst[column][row] = src[row][column] */
static void transpose(const real *restrict src, int64_t src_pitch, real *restrict dst, int64_t dst_pitch,
                      int64_t rows, int64_t columns) {
    int64_t whole_rows = rows / SQUARE * SQUARE, whole_columns = columns / SQUARE * SQUARE;
    /* Columns outside: each is a line of dst, written from end to end. */
    for (int64_t c = 0; c < whole_columns; c += SQUARE) {
        for (int64_t r = 0; r < whole_rows; r += SQUARE)
            transpose_square(src + r * src_pitch + c, src_pitch, dst + c * dst_pitch + r, dst_pitch);
        for (int64_t r = whole_rows; r < rows; r++)
            for (int64_t k = c; k < c + SQUARE; k++) dst[k * dst_pitch + r] = src[r * src_pitch + k];
    }
    for (int64_t c = whole_columns; c < columns; c++)
        for (int64_t r = 0; r < rows; r++) dst[c * dst_pitch + r] = src[r * src_pitch + c];
}

/* Row of the table at which a level's places begin. */
static int64_t first_row(const Task *task, int64_t level) {
    int64_t row = 0;
    for (int64_t k = 0; k < level; k++) row += task->num_images * task->heights[k] * task->widths[k];
    return row;
}

/* Places of one image's map that are turned at once. */
typedef struct {
    int64_t level, places, map_places;
    int64_t row, offset; /* of the first place: in the table; in the map's first channel */
} Strip;

static int64_t strips_of(const Task *task, int64_t level) {
    return (task->heights[level] * task->widths[level] + PLACES - 1) / PLACES;
}

static Strip find_strip(const Task *task, int64_t item) {
    Strip strip = {0};
    while (item >= task->num_images * strips_of(task, strip.level))
        item -= task->num_images * strips_of(task, strip.level++);
    int64_t strips = strips_of(task, strip.level), image = item / strips, begin = item % strips * PLACES;
    strip.map_places = task->heights[strip.level] * task->widths[strip.level];
    strip.places = least(PLACES, strip.map_places - begin);
    strip.row = first_row(task, strip.level) + image * strip.map_places + begin;
    strip.offset = image * task->channels * strip.map_places + begin;
    return strip;
}

static void fill_strip(Crew *crew, int64_t item, char *scratch) {
    const Task *task = crew->task;
    Strip strip = find_strip(task, item);
    real *rows = crew->result + strip.row * task->pitch;
    (void)scratch;
    transpose(crew->maps[strip.level] + strip.offset, strip.map_places, rows, task->pitch, task->channels,
              strip.places);
    size_t rest = (size_t)(task->pitch - task->channels) * sizeof(real);
    for (int64_t k = 0; k < strip.places && rest; k++)
        memset(rows + k * task->pitch + task->channels, 0, rest);
}

static void read_strip(Crew *crew, int64_t item, char *scratch) {
    const Task *task = crew->task;
    Strip strip = find_strip(task, item);
    (void)scratch;
    transpose(crew->source + strip.row * task->pitch, task->pitch, crew->maps[strip.level] + strip.offset,
              strip.map_places, strip.places, task->channels);
}

static int64_t samples_of(const Task *task, real cell) {
    if (task->sampling_ratio > 0) return task->sampling_ratio;
    real count = (real)ceil((double)cell);
    return count < 1 ? 0 : count > 1e9 ? 1000000000 : (int64_t)count; /* adaptive: one sample a place */
}

/* Taps a cell may have. */
static int64_t most_taps(const Task *task) {
    int64_t most = 0;
    for (int64_t k = 0; k < task->num_levels; k++) {
        if (task->heights[k] > most) most = task->heights[k];
        if (task->widths[k] > most) most = task->widths[k];
    }
    return 2 * (task->sampling_ratio > 0 ? task->sampling_ratio : most + 2);
}

static void add_tap(Taps *taps, int64_t begin, int64_t *end, int64_t place, real weight) {
    /* Neighbouring samples share places: a cell is often three places wide where it has four taps. */
    for (int64_t k = *end - 1; k >= begin && k >= *end - 2; k--)
        if (taps->places[k] == place) {
            taps->weights[k] += weight;
            return;
        }
    taps->places[*end] = place;
    taps->weights[(*end)++] = weight;
}

static void find_taps(const Task *task, Taps *taps, real start, real side, int64_t limit) {
    real cell = side / (real)task->size;
    int64_t samples = samples_of(task, cell), end = 0;
    for (int64_t index = 0; index < task->size; index++) {
        int64_t begin = end, first = 0, last = samples;
        real from = start + (real)index * cell;
        if (task->sampling_ratio == 0 && samples > 0) {
            /* An adaptive RoI may reach far outside: only samples near the map are looked at. */
            double step = (double)cell / (double)samples;
            double low = floor((-1.0 - (double)from) / step) - 1;
            double high = ceil(((double)limit - (double)from) / step) + 1;
            if (low > 0) first = low < (double)samples ? (int64_t)low : samples;
            if (high < (double)samples) last = high > 0 ? (int64_t)high : 0;
        }
        for (int64_t sample = first; sample < last; sample++) {
            real at = from + ((real)sample + (real)0.5) * cell / (real)samples;
            if (!(at >= -1 && at <= (real)limit)) continue;
            if (at < 0) at = 0;
            int64_t low = (int64_t)at, high = low + 1;
            if (low >= limit - 1) low = high = limit - 1, at = (real)low;
            real share = at - (real)low;
            add_tap(taps, begin, &end, low, (1 - share) / (real)samples);
            add_tap(taps, begin, &end, high, share / (real)samples);
        }
        taps->ends[index] = end;
    }
}

/* A box on its map. */
typedef struct {
    int64_t first, width; /* row of the map's first place; places a line */
    Taps y, x;
    int is_finite;
} Place;

static char *lay_taps(const Task *task, Taps *taps, char *scratch) {
    int64_t most = task->size * most_taps(task);
    taps->ends = (int64_t *)scratch;
    taps->places = taps->ends + task->size;
    taps->weights = (real *)(taps->places + most);
    return (char *)(taps->places + 2 * most);
}

static int64_t taps_bytes(const Task *task) {
    int64_t bytes = 2 * (int64_t)sizeof(int64_t) * (task->size + 2 * task->size * most_taps(task));
    return (bytes + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES;
}

/* Corners and sides are numbers. Of another box not even the level is known. */
static int is_finite(const real *corners) {
    return isfinite(corners[0]) && isfinite(corners[1]) && isfinite(corners[2] - corners[0]) &&
           isfinite(corners[3] - corners[1]);
}

static Place find_place(const Task *task, int64_t box, char *scratch) {
    Place place = {0};
    const real *corners = task->boxes + 4 * box;
    int64_t level = task->levels[box];
    real sides[2], starts[2];
    if (!is_finite(corners)) return place;
    real scale = (real)(1 / task->strides[level]);
    for (int64_t k = 0; k < 2; k++) {
        real shift = task->is_aligned ? (real)0.5 : 0;
        starts[k] = corners[k] * scale - shift;
        sides[k] = corners[k + 2] * scale - shift - starts[k];
        /* Source: Detectron; a malformed box is one cell of the map. */
        if (!task->is_aligned && sides[k] < 1) sides[k] = 1;
    }
    place.is_finite = 1;
    place.width = task->widths[level];
    place.first = first_row(task, level) + task->images[box] * task->heights[level] * place.width;
    scratch = lay_taps(task, &place.y, scratch);
    lay_taps(task, &place.x, scratch);
    find_taps(task, &place.y, starts[1], sides[1], task->heights[level]);
    find_taps(task, &place.x, starts[0], sides[0], place.width);
    return place;
}

/* Cells x (count * LANES) sums of the table's rows, whose channels of interest begin at `table`. */
INLINE void gather(const Task *task, const Place *place, const real *table, real *tile, const int count) {
    for (int64_t i = 0, y_begin = 0; i < task->size; y_begin = place->y.ends[i++])
        for (int64_t j = 0, x_begin = 0; j < task->size; x_begin = place->x.ends[j++]) {
            vec sums[MOST_VECTORS] = {{0}};
            for (int64_t y = y_begin; y < place->y.ends[i]; y++) {
                const real *line = table + (place->first + place->y.places[y] * place->width) * task->pitch;
                for (int64_t x = x_begin; x < place->x.ends[j]; x++) {
                    const vec *row = (const vec *)(line + place->x.places[x] * task->pitch);
                    real weight = place->y.weights[y] * place->x.weights[x];
                    for (int k = 0; k < count; k++) sums[k] += weight * row[k];
                }
            }
            for (int k = 0; k < count; k++) ((vec *)tile)[k] = sums[k];
            tile += count * LANES;
        }
}

/* The transpose of `gather`: cells added to the rows that they were made of. */
INLINE void scatter(const Task *task, const Place *place, const real *tile, real *table, const int count) {
    for (int64_t i = 0, y_begin = 0; i < task->size; y_begin = place->y.ends[i++])
        for (int64_t j = 0, x_begin = 0; j < task->size; x_begin = place->x.ends[j++]) {
            vec cell[MOST_VECTORS];
            for (int k = 0; k < count; k++) cell[k] = ((const vec *)tile)[k];
            tile += count * LANES;
            for (int64_t y = y_begin; y < place->y.ends[i]; y++) {
                real *line = table + (place->first + place->y.places[y] * place->width) * task->pitch;
                for (int64_t x = x_begin; x < place->x.ends[j]; x++) {
                    vec *row = (vec *)(line + place->x.places[x] * task->pitch);
                    real weight = place->y.weights[y] * place->x.weights[x];
                    for (int k = 0; k < count; k++) row[k] += weight * cell[k];
                }
            }
        }
}

static void align_box(Crew *crew, int64_t box, char *scratch) {
    const Task *task = crew->task;
    int64_t cells = task->size * task->size;
    real *result = crew->result + box * task->channels * cells;
    real *tile = (real *)(scratch + taps_bytes(task));
    Place place = find_place(task, box, scratch);
    if (!place.is_finite) {
        for (int64_t k = 0; k < task->channels * cells; k++) result[k] = (real)NAN;
        return;
    }
    for (int64_t channel = 0; channel < task->channels; channel += MOST_VECTORS * LANES) {
        const real *table = crew->source + channel;
        int count = (int)least((task->pitch - channel) / LANES, MOST_VECTORS);
        switch (count) {
            case 4: gather(task, &place, table, tile, 4); break;
            case 3: gather(task, &place, table, tile, 3); break;
            case 2: gather(task, &place, table, tile, 2); break;
            default: gather(task, &place, table, tile, 1);
        }
        transpose(tile, count * LANES, result + channel * cells, cells, cells,
                  least(count * LANES, task->channels - channel));
    }
}

/* One image and one block of channels: nobody else writes there, and boxes come in their order. */
static void spread_block(Crew *crew, int64_t item, char *scratch) {
    const Task *task = crew->task;
    int64_t cells = task->size * task->size, width = crew->vectors_at_once * LANES;
    int64_t blocks = (task->pitch + width - 1) / width;
    int64_t image = item / blocks, channel = item % blocks * width;
    int count = (int)least((task->pitch - channel) / LANES, crew->vectors_at_once);
    real *tile = (real *)(scratch + taps_bytes(task)), *table = crew->result + channel;
    int64_t used = least(count * LANES, task->channels - channel);
    memset(tile, 0, (size_t)(cells * count * LANES) * sizeof(real));
    for (int64_t box = 0; box < task->num_boxes; box++) {
        if (task->images[box] != image) continue;
        Place place = find_place(task, box, scratch);
        if (!place.is_finite) continue;
        transpose(crew->source + (box * task->channels + channel) * cells, cells, tile, count * LANES, used,
                  cells);
        switch (count) {
            case 4: scatter(task, &place, tile, table, 4); break;
            case 3: scatter(task, &place, tile, table, 3); break;
            case 2: scatter(task, &place, tile, table, 2); break;
            default: scatter(task, &place, tile, table, 1);
        }
    }
}

/* Levels and images of all boxes exist, or the boxes are not finite. */
static int is_sound(const Task *task) {
    for (int64_t box = 0; box < task->num_boxes; box++) {
        if (task->images[box] < 0 || task->images[box] >= task->num_images) return 0;
        if (task->levels[box] >= 0 && task->levels[box] < task->num_levels) continue;
        if (is_finite(task->boxes + 4 * box)) return 0;
    }
    return 1;
}

static int64_t scratch_bytes(const Task *task) {
    return taps_bytes(task) + task->size * task->size * MOST_VECTORS * VECTOR_BYTES;
}

static int64_t num_strips(const Task *task) {
    int64_t sum = 0;
    for (int64_t k = 0; k < task->num_levels; k++) sum += task->num_images * strips_of(task, k);
    return sum;
}

/* The table of maps (num_images, channels, height, width). */
int fill_table(const Task *task, real *const *maps, real *table, Run run, int64_t threads) {
    Crew crew = {.item = fill_strip, .num_items = num_strips(task), .task = task, .maps = maps,
                 .result = table};
    return run_crew(&crew, run, threads);
}

/* The maps of a table. */
int read_table(const Task *task, const real *table, real *const *maps, Run run, int64_t threads) {
    Crew crew = {.item = read_strip, .num_items = num_strips(task), .task = task, .source = table,
                 .maps = maps};
    return run_crew(&crew, run, threads);
}

/* RoIs (num_boxes, channels, size, size) of the table. */
int align_rois(const Task *task, const real *table, real *rois, Run run, int64_t threads) {
    Crew crew = {.item = align_box, .num_items = task->num_boxes, .task = task, .source = table,
                 .result = rois, .scratch_bytes = scratch_bytes(task)};
    return is_sound(task) ? run_crew(&crew, run, threads) : NO_SUCH_MAP;
}

/* Add the gradient of the RoIs to that of the table. */
int spread_rois(const Task *task, const real *rois, real *table, Run run, int64_t threads) {
    int64_t vectors = task->pitch / LANES, at_once = MOST_VECTORS;
    /* Narrower blocks where there would be too few for all threads. */
    while (at_once > 1 && task->num_images * ((vectors + at_once - 1) / at_once) < threads) at_once /= 2;
    Crew crew = {.item = spread_block, .num_items = task->num_images * ((vectors + at_once - 1) / at_once),
                 .task = task, .source = rois, .result = table, .vectors_at_once = at_once,
                 .scratch_bytes = scratch_bytes(task)};
    return is_sound(task) ? run_crew(&crew, run, threads) : NO_SUCH_MAP;
}

/* Who made this. */
const char *compiler(void) {
#ifdef __clang__
    return __VERSION__;
#else
    return "gcc " __VERSION__;
#endif
}
