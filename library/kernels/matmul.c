/* Products of matrices whose second factor is read from memory once, and packed tile by tile while the lines of the
 * next tile are already on their way. With few rows, where reading the weights is all of the work, that is as fast as
 * the memory; with many it is as fast as the arithmetic.
 *
 * out (N, M) = scale * sum over i of A_i B_i + bias, with A_i (N, K_i), B_i (K_i, M), all of one type; rows of A_i and
 * of out are contiguous, and so are either the rows or the columns of B_i. Rows of A_i consist of whole words: in bf16,
 * where K_i is odd, a zero follows.
 */
#include "tiles.h"

enum {
    CHUNK = 64, /* words of a tile along the sum: 16 kB */
    SPAN = 256, /* rows of a piece, at most */
    ENOUGH = 8, /* pieces that keep all threads busy to the end */
    FACTORS = 2,
    ONE_THREAD = 1 << 19, /* multiplications for which a further thread is worth waking */
};

typedef struct {
    const char *A, *B;
    int64_t K, a_row, b_k, b_m; /* strides in values; b_k or b_m is 1 */
} Factors;

typedef struct {
    int64_t N, M, count;
    Factors factors[FACTORS];
    const char *bias; /* or NULL */
    void *out;
    int32_t type, type_of_out;
    float scale;
} Product;

typedef struct {
    const Product *of;
    int64_t values, bytes; /* of a word; of a value */
    int64_t span, spans;
    Pieces pieces;
} Shared;

/* A tile of a B_i: its piece, i, and its first word along the sum. */
typedef struct {
    int64_t piece, i, k;
} Tile;

typedef struct {
    int64_t row, rows, column, columns;
} Extent;

static Extent extent_of(const Shared *s, int64_t piece) {
    const int64_t row = piece % s->spans * s->span, column = piece / s->spans * TILE;
    return (Extent){row, smaller(s->span, s->of->N - row), column, smaller(TILE, s->of->M - column)};
}

static Tile after(Shared *s, Tile tile) {
    if ((tile.k += CHUNK) * s->values < s->of->factors[tile.i].K) return tile;
    if (++tile.i < s->of->count) return (Tile){tile.piece, tile.i, 0};
    return (Tile){take(&s->pieces), 0, 0};
}

static int64_t words_of(const Shared *s, Tile tile) {
    return smaller(CHUNK, parts_of(s->of->factors[tile.i].K, s->values) - tile.k);
}

static const char *start_of(const Shared *s, Tile tile, int64_t column) {
    const Factors *f = &s->of->factors[tile.i];
    return f->B + s->bytes * (s->values * tile.k * f->b_k + column * f->b_m);
}

/* What packing the tile will read; of narrow tiles nothing, since they are small. */
static Ahead lines_of(const Shared *s, Tile tile) {
    if (tile.piece >= s->pieces.count) return (Ahead){0};
    const Factors *f = &s->of->factors[tile.i];
    const Extent e = extent_of(s, tile.piece);
    if (e.columns < TILE || words_of(s, tile) < CHUNK) return (Ahead){0};
    const char *start = start_of(s, tile, e.column);
    if (f->b_m == 1) return (Ahead){start, s->bytes * f->b_k, s->values == 2 ? 1 : 2, 4 * CHUNK, 0};
    return (Ahead){start, s->bytes * f->b_m, 2, 4 * TILE, 0};
}

/* The half words of a vector whose number is below n. */
INLINE __mmask32 halves_below(int64_t n) { return n >= 32 ? 0xFFFFFFFF : n <= 0 ? 0 : (1u << n) - 1; }

/* Rows of B in bf16, two by two: [word][TILE]. */
static void pack_pairs_of_rows(const bf16 *B, int64_t b_k, int64_t K, int64_t columns, word *to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(LANES));
    for (int64_t k = 0; k < K; k += 2, to += TILE)
        for (int64_t c = 0; c < columns; c += 2 * LANES) {
            const __mmask32 real = halves_below(columns - c);
            __m512i first = _mm512_maskz_loadu_epi16(real, B + k * b_k + c), second = _mm512_setzero_si512();
            if (k + 1 < K) second = _mm512_maskz_loadu_epi16(real, B + (k + 1) * b_k + c);
            _mm512_store_si512(to + c, _mm512_permutex2var_epi16(first, low, second));
            _mm512_store_si512(to + c + LANES, _mm512_permutex2var_epi16(first, high, second));
        }
}

/* Rows of B in fp32: [word][TILE]. */
static void pack_rows(const float *B, int64_t b_k, int64_t K, int64_t columns, word *to) {
    for (int64_t k = 0; k < K; k++, to += TILE)
        for (int64_t c = 0; c < columns; c += LANES)
            _mm512_store_ps(to + c, _mm512_maskz_loadu_ps(lanes_below(columns - c), B + k * b_k + c));
}

INLINE void transpose(__m512i r[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Columns of B, that lie in memory as rows so many bytes apart: [word][TILE]. */
static void pack_columns(const char *B, int64_t row, int64_t bytes_of_sum, int64_t columns, word *to) {
    for (int64_t c = 0; c < columns; c += LANES)
        for (int64_t at = 0; at < bytes_of_sum; at += 64) {
            const __mmask32 real = halves_below((bytes_of_sum - at) / 2);
            __m512i rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] =
                    c + i < columns ? _mm512_maskz_loadu_epi16(real, B + (c + i) * row + at) : _mm512_setzero_si512();
            transpose(rows);
            for (int i = 0; i < LANES && at + 4 * i < bytes_of_sum; i++)
                _mm512_store_si512(to + (at / 4 + i) * TILE + c, rows[i]);
        }
}

static void pack(const Shared *s, Tile tile, Extent e, int64_t K, word *to) {
    const Factors *f = &s->of->factors[tile.i];
    const char *start = start_of(s, tile, e.column);
    if (f->b_m != 1)
        pack_columns(start, s->bytes * f->b_m, s->bytes * K, e.columns, to);
    else if (s->of->type == BF16)
        pack_pairs_of_rows((const bf16 *)start, f->b_k, K, e.columns, to);
    else
        pack_rows((const float *)start, f->b_k, K, e.columns, to);
}

INLINE __m512 load_values(const char *from, int64_t at, __mmask16 real, int32_t type) {
    if (type == FP32) return _mm512_maskz_loadu_ps(real, (const float *)from + at);
    __m512i halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(real, (const bf16 *)from + at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
}

INLINE void store_values(void *to, int64_t at, __mmask16 real, int32_t type, __m512 values) {
    if (type == FP32)
        _mm512_mask_storeu_ps((float *)to + at, real, values);
    else
        _mm256_mask_storeu_epi16((bf16 *)to + at, real, (__m256i)_mm512_cvtneps_pbh(values));
}

static void finish(const Product *p, Extent e, const float *sums) {
    const __m512 scale = _mm512_set1_ps(p->scale);
    for (int64_t r = 0; r < e.rows; r++)
        for (int64_t c = 0; c < e.columns; c += LANES) {
            const __mmask16 real = lanes_below(e.columns - c);
            __m512 values = _mm512_mul_ps(_mm512_loadu_ps(sums + r * TILE + c), scale);
            if (p->bias) values = _mm512_add_ps(values, load_values(p->bias, e.column + c, real, p->type));
            store_values(p->out, (e.row + r) * p->M + e.column + c, real, p->type_of_out, values);
        }
}

static void work(void *data) {
    Shared *s = data;
    word *packed = block(CHUNK * TILE * sizeof(word));
    float *sums = block(s->span * TILE * sizeof(float));
    if (!packed || !sums) s->pieces.failed = 1;
    for (Tile tile = {take(&s->pieces), 0, 0}, next; !s->pieces.failed && tile.piece < s->pieces.count; tile = next) {
        next = after(s, tile);
        const Extent e = extent_of(s, tile.piece);
        const Factors *f = &s->of->factors[tile.i];
        const int64_t words = words_of(s, tile), K = smaller(s->values * words, f->K - s->values * tile.k);
        const word *A = (const word *)(f->A + s->bytes * e.row * f->a_row) + tile.k;
        pack(s, tile, e, K, packed);
        multiply(s->of->type, e.rows, padded(e.columns, LANES), tile.i || tile.k, A, f->a_row / s->values, 1, packed,
                 TILE, sums, TILE, words, lines_of(s, next));
        if (next.piece != tile.piece) finish(s->of, e, sums);
    }
    free(packed), free(sums);
}

/* Returns 0, or 1 where memory is short. */
int matmul(const Product *p, int threads) {
    const int64_t stripes = parts_of(p->M, TILE);
    const int64_t least = larger(parts_of(p->N, SPAN), parts_of(ENOUGH, stripes));
    const int64_t span = padded(parts_of(p->N, least), 8), spans = parts_of(p->N, span);
    const int64_t values = p->type == BF16 ? 2 : 1;
    Shared shared = {p, values, 4 / values, span, spans, {stripes * spans, 0, 0}};
    int64_t multiplications = 0;
    for (int64_t i = 0; i < p->count; i++) multiplications += p->N * p->M * p->factors[i].K;
    on_threads(smaller(threads, parts_of(multiplications, ONE_THREAD)), work, &shared);
    return shared.pieces.failed;
}
