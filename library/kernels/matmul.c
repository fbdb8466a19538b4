/* Products of bfloat16 matrices whose second factor is read from memory once, and packed tile by tile while the lines of the next tile
 * are already on their way. With few rows, where reading the weights is all of the work, that is as fast as the memory; with many
 * it is as fast as the arithmetic.
 *
 * out (N, M) = scale * sum over i of A_i B_i + bias, with A_i (N, K_i), B_i (K_i, M); rows of A_i and of out are contiguous, and so
 * are either the rows or the columns of B_i. Rows of A_i have an even length, padded by a zero where K_i is odd.
 */
#include "tiles.h"

enum {
    CHUNK = 64,   /* pairs of a tile: 16 kB */
    SPAN = 256,   /* rows of a piece, at most */
    ENOUGH = 8,   /* pieces that keep all threads busy to the end */
    FACTORS = 2,
};

typedef struct {
    const bf16 *A, *B;
    int64_t K, a_row, b_k, b_m; /* strides in values; b_k or b_m is 1 */
} Factors;

typedef struct {
    int64_t N, M, count;
    Factors factors[FACTORS];
    const bf16 *bias; /* or NULL */
    void *out;
    int32_t in_fp32;
    float scale;
} Product;

typedef struct {
    const Product *of;
    int64_t span, spans;
    Pieces pieces;
} Shared;

/* A tile of a B_i: its piece, i, and its first pair. */
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
    if ((tile.k += CHUNK) * 2 < s->of->factors[tile.i].K) return tile;
    if (++tile.i < s->of->count) return (Tile){tile.piece, tile.i, 0};
    return (Tile){take(&s->pieces), 0, 0};
}

static int64_t pairs_of(const Factors *f, Tile tile) { return smaller(CHUNK, parts_of(f->K, 2) - tile.k); }

static const bf16 *start_of(const Factors *f, Tile tile, int64_t column) {
    return f->B + 2 * tile.k * f->b_k + column * f->b_m;
}

/* What packing the tile will read; of narrow tiles nothing, since they are small. */
static Ahead lines_of(const Shared *s, Tile tile) {
    if (tile.piece >= s->pieces.count) return (Ahead){0};
    const Factors *f = &s->of->factors[tile.i];
    const Extent e = extent_of(s, tile.piece);
    const char *start = (const char *)start_of(f, tile, e.column);
    const int64_t pairs = pairs_of(f, tile);
    if (e.columns < TILE || pairs < CHUNK) return (Ahead){0};
    return f->b_m == 1 ? (Ahead){start, 2 * f->b_k, 1, 4 * pairs, 0} : (Ahead){start, 2 * f->b_m, 2, 4 * e.columns, 0};
}

/* Rows of B, two by two: [pair][TILE]. */
static void pack_rows(const bf16 *B, int64_t b_k, int64_t K, int64_t columns, pair *to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(LANES));
    for (int64_t k = 0; k < K; k += 2, to += TILE)
        for (int64_t c = 0; c < columns; c += 2 * LANES) {
            const __mmask32 real = columns - c >= 32 ? 0xFFFFFFFF : (1u << (columns - c)) - 1;
            __m512i first = _mm512_maskz_loadu_epi16(real, B + k * b_k + c), second = _mm512_setzero_si512();
            if (k + 1 < K) second = _mm512_maskz_loadu_epi16(real, B + (k + 1) * b_k + c);
            _mm512_store_si512(to + c, _mm512_permutex2var_epi16(first, low, second));
            _mm512_store_si512(to + c + LANES, _mm512_permutex2var_epi16(first, high, second));
        }
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

/* Columns of B, that lie in memory as rows: [pair][TILE]. */
static void pack_columns(const bf16 *B, int64_t b_m, int64_t K, int64_t columns, pair *to) {
    for (int64_t c = 0; c < columns; c += LANES)
        for (int64_t k = 0; k < K; k += 2 * LANES) {
            const __mmask32 real = K - k >= 32 ? 0xFFFFFFFF : (1u << (K - k)) - 1;
            __m512i rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] = c + i < columns ? _mm512_maskz_loadu_epi16(real, B + (c + i) * b_m + k) : _mm512_setzero_si512();
            transpose(rows);
            for (int i = 0; i < LANES && k + 2 * i < K; i++) _mm512_store_si512(to + (k / 2 + i) * TILE + c, rows[i]);
        }
}

static void store(const Product *p, Extent e, const float *sums) {
    const __m512 scale = _mm512_set1_ps(p->scale);
    for (int64_t r = 0; r < e.rows; r++)
        for (int64_t c = 0; c < e.columns; c += LANES) {
            const __mmask16 real = lanes_below(e.columns - c);
            const int64_t at = (e.row + r) * p->M + e.column + c;
            __m512 value = _mm512_mul_ps(_mm512_loadu_ps(sums + r * TILE + c), scale);
            if (p->bias) {
                __m512i bias = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(real, p->bias + e.column + c));
                value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(bias, 16)));
            }
            if (p->in_fp32)
                _mm512_mask_storeu_ps((float *)p->out + at, real, value);
            else
                _mm256_mask_storeu_epi16((bf16 *)p->out + at, real, (__m256i)_mm512_cvtneps_pbh(value));
        }
}

static void work(void *data) {
    Shared *s = data;
    pair *packed = block(CHUNK * TILE * sizeof(pair));
    float *sums = block(s->span * TILE * sizeof(float));
    if (!packed || !sums) s->pieces.failed = 1;
    for (Tile tile = {take(&s->pieces), 0, 0}, next; !s->pieces.failed && tile.piece < s->pieces.count; tile = next) {
        next = after(s, tile);
        const Extent e = extent_of(s, tile.piece);
        const Factors *f = &s->of->factors[tile.i];
        const int64_t pairs = pairs_of(f, tile), K = smaller(2 * pairs, f->K - 2 * tile.k);
        const pair *A = (const pair *)(f->A + e.row * f->a_row) + tile.k;
        if (f->b_m == 1)
            pack_rows(start_of(f, tile, e.column), f->b_k, K, e.columns, packed);
        else
            pack_columns(start_of(f, tile, e.column), f->b_m, K, e.columns, packed);
        multiply(e.rows, padded(e.columns, LANES), tile.i || tile.k, A, f->a_row / 2, 1, packed, TILE, sums, TILE, pairs,
                 lines_of(s, next));
        if (next.piece != tile.piece) store(s->of, e, sums);
    }
    free(packed), free(sums);
}

/* Returns 0, or 1 where memory is short. */
int matmul(const Product *product, int threads) {
    const int64_t stripes = parts_of(product->M, TILE);
    const int64_t least = larger(parts_of(product->N, SPAN), parts_of(ENOUGH, stripes));
    const int64_t span = padded(parts_of(product->N, least), 8), spans = parts_of(product->N, span);
    Shared shared = {product, span, spans, {stripes * spans, 0, 0}};
    GOMP_parallel(work, &shared, threads, 0);
    return shared.pieces.failed;
}
