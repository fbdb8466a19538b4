/* Exact attention and its gradient for bfloat16 on processors with AVX512-BF16, in tiles that stay in cache
 * (Dao et al. 2022, algorithm 1; Dao 2023, algorithm 2; softmax by Milakov & Gimelshein 2018).
 *
 * All tensors but `lse` are (batch, tokens, heads * D), contiguous, as the projections make them. Products accumulate
 * in fp32; probabilities and their gradients are rounded to bf16 only where a product reads them. A call works on piece
 * after piece until `next` says that none is left, so any number of threads may call at once.
 *
 * Letters: T queries, S keys, D width of a head (even), P = D padded to whole vectors.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint32_t pair; /* two neighbours along the summed axis, as the dot-product instruction takes them */

enum {
    LANES = 16,
    TILE = 64,  /* keys of a packed tile */
    ROWS = 64,  /* queries of a block */
    KEYS = 512, /* keys of a block */
    SPAN = 256, /* queries of a piece of the forward pass */
};

typedef struct {
    int64_t batch, heads, T, S, D;
    float scale;
} Shape;

#define LOG2_E 1.44269504088896340736f
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
INLINE float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void *block(int64_t bytes) { return aligned_alloc(64, padded(bytes, 64)); }

/* For what is padded: a zero adds nothing, whatever it meets. */
static void *zeros(int64_t bytes) {
    void *memory = block(bytes);
    return memory ? memset(memory, 0, padded(bytes, 64)) : memory;
}

/* The lanes of a vector whose number is below n. */
INLINE __mmask16 lanes_below(int64_t n) { return n >= LANES ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* 2^x, x <= 0: Taylor's series of 2^f around the nearest integer, relative error below 3e-6. */
INLINE __m512 exp2_vector(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x); /* in this order a NaN stays one */
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
    __m512 y = _mm512_set1_ps(1.3333558e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, n);
}

/* C[rows, 16 * vectors] (+)= A B. A: word [row * a_row + k * a_k]; B: words [k * b_k + column]; k counts pairs. */
INLINE void product(int rows, int vectors, int add, const pair *A, int64_t a_row, int64_t a_k, const pair *B,
                    int64_t b_k, float *C, int64_t c_row, int64_t pairs) {
    __m512 sum[8][5];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = add ? _mm512_loadu_ps(C + r * c_row + v * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh b[5];
        for (int v = 0; v < vectors; v++) b[v] = (__m512bh)_mm512_loadu_si512(B + k * b_k + v * LANES);
        for (int r = 0; r < rows; r++) {
            __m512bh a = (__m512bh)_mm512_set1_epi32((int)A[r * a_row + k * a_k]);
            for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], a, b[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(C + r * c_row + v * LANES, sum[r][v]);
}

/* How many of the vectors that are left to take at once: what divides them, else four. */
static int64_t step_of(int64_t left) {
    for (int64_t step = 5; step > 2; step--)
        if (left % step == 0) return step;
    return left < 4 ? left : 4;
}

/* `product` for any number of columns and a number of rows that 8 divides; its sizes must be constants. */
static void multiply(int64_t rows, int64_t columns, int add, const pair *A, int64_t a_row, int64_t a_k, const pair *B,
                     int64_t b_k, float *C, int64_t c_row, int64_t pairs) {
#define STRIPE(height, vectors)                                                                              \
    case vectors:                                                                                            \
        for (int64_t r = 0; r < rows; r += height)                                                           \
            if (add)                                                                                         \
                product(height, vectors, 1, A + r * a_row, a_row, a_k, b, b_k, c + r * c_row, c_row, pairs); \
            else                                                                                             \
                product(height, vectors, 0, A + r * a_row, a_row, a_k, b, b_k, c + r * c_row, c_row, pairs); \
        break;
    for (int64_t done = 0, step; done < columns / LANES; done += step) {
        const pair *b = B + done * LANES;
        float *c = C + done * LANES;
        switch (step = step_of(columns / LANES - done)) {
            STRIPE(4, 5)
            STRIPE(4, 4)
            STRIPE(8, 3)
            STRIPE(8, 2)
            STRIPE(8, 1)
        }
    }
#undef STRIPE
}

/* Tokens as rows, contiguous: (N, D). */
static void pack_rows(const bf16 *from, int64_t stride, int64_t N, int64_t D, bf16 *to) {
    for (int64_t n = 0; n < N; n++) memcpy(to + n * D, from + n * stride, D * sizeof(bf16));
}

/* Tokens as columns, in tiles: [tile][D / 2][TILE] pairs along the width. */
static void pack_columns(const bf16 *from, int64_t stride, int64_t N, int64_t D, pair *to) {
    for (int64_t n = 0; n < N; n++) {
        pair *tile = to + n / TILE * TILE * (D / 2) + n % TILE;
        for (int64_t d = 0; d < D / 2; d++) memcpy(tile + d * TILE, from + n * stride + 2 * d, sizeof(pair));
    }
}

/* Pairs of tokens: [N / 2][P]. */
static void pack_pairs(const bf16 *from, int64_t stride, int64_t N, int64_t D, int64_t P, pair *to) {
    for (int64_t n = 0; n < N; n += 2)
        for (int64_t d = 0; d < D; d++) {
            pair second = n + 1 < N ? from[(n + 1) * stride + d] : 0;
            to[n / 2 * P + d] = from[n * stride + d] | second << 16;
        }
}

INLINE void store_row(const float *from, int64_t D, float factor, bf16 *to) {
    __m512 scale = _mm512_set1_ps(factor);
    for (int64_t d = 0; d < D; d += LANES) {
        __m256bh value = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(from + d), scale));
        _mm256_mask_storeu_epi16(to + d, lanes_below(D - d), (__m256i)value);
    }
}

/* Where a head of a sample begins among so many tokens. */
INLINE int64_t start_of(const Shape *s, int64_t head, int64_t tokens) {
    return head / s->heads * tokens * s->heads * s->D + head % s->heads * s->D;
}

/* Scores of a block of queries and keys, masked where keys are padding. */
INLINE void scores_of(const bf16 *rows, const pair *columns, int64_t first, int64_t keys, int64_t D, float *scores) {
    for (int64_t j = 0; j < keys; j += TILE)
        multiply(ROWS, TILE, 0, (const pair *)rows, D / 2, 1, columns + (first + j) / TILE * TILE * (D / 2), TILE,
                 scores + j, KEYS, D / 2);
}

/* Probabilities of a row of scores, relative to the highest so far; returns by what earlier sums shrink. */
static float soften(float *row, int64_t keys, int64_t real, float scale, float *highest, float *total, bf16 *to) {
    const __m512 scales = _mm512_set1_ps(scale);
    for (int64_t i = real; i < keys; i++) row[i] = -INFINITY;
    __m512 most = _mm512_set1_ps(*highest), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < keys; i += LANES)
        most = _mm512_max_ps(most, _mm512_mul_ps(_mm512_loadu_ps(row + i), scales));
    const float top = _mm512_reduce_max_ps(most), shrink = exp2f(*highest - top);
    for (int64_t i = 0; i < keys; i += LANES) {
        __m512 p = exp2_vector(_mm512_fmsub_ps(_mm512_loadu_ps(row + i), scales, _mm512_set1_ps(top)));
        p = _mm512_maskz_mov_ps(lanes_below(real - i), p);
        sum = _mm512_add_ps(sum, p);
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(p));
    }
    *total = *total * shrink + _mm512_reduce_add_ps(sum);
    *highest = top;
    return shrink;
}

static int forward_span(const Shape *s, int64_t head, int64_t first, int64_t end, const bf16 *q, const bf16 *k,
                        const bf16 *v, bf16 *out, float *lse) {
    const int64_t S = s->S, D = s->D, P = padded(D, LANES), padded_S = padded(S, TILE), width = s->heads * D;
    const int64_t at_q = start_of(s, head, s->T), at_k = start_of(s, head, S);
    pair *columns = zeros(padded_S * D * 2), *values = zeros(padded_S * P * 2), *probabilities = zeros(ROWS * KEYS * 2);
    float *scores = block(ROWS * KEYS * 4), *sums = block(ROWS * P * 4);
    bf16 *rows = zeros(ROWS * D * 2);
    int failed = !columns || !values || !probabilities || !scores || !sums || !rows;
    if (!failed) {
        pack_columns(k + at_k, width, S, D, columns);
        pack_pairs(v + at_k, width, S, D, P, values);
    }
    const float scale = s->scale * LOG2_E;
    for (int64_t t = first; !failed && t < end; t += ROWS) {
        int64_t count = end - t < ROWS ? end - t : ROWS;
        float highest[ROWS], total[ROWS];
        for (int64_t r = 0; r < ROWS; r++) highest[r] = -INFINITY, total[r] = 0;
        pack_rows(q + at_q + t * width, width, count, D, rows);
        memset(sums, 0, ROWS * P * 4);
        for (int64_t j = 0; j < padded_S; j += KEYS) {
            int64_t keys = padded_S - j < KEYS ? padded_S - j : KEYS, real = S - j < keys ? S - j : keys;
            scores_of(rows, columns, j, keys, D, scores);
            for (int64_t r = 0; r < count; r++) {
                const float shrink = soften(scores + r * KEYS, keys, real, scale, highest + r, total + r,
                                            (bf16 *)(probabilities + r * KEYS / 2));
                if (j && shrink != 1.0f)
                    for (int64_t d = 0; d < P; d += LANES)
                        _mm512_storeu_ps(sums + r * P + d,
                                         _mm512_mul_ps(_mm512_loadu_ps(sums + r * P + d), _mm512_set1_ps(shrink)));
            }
            multiply(ROWS, P, 1, probabilities, KEYS / 2, 1, values + j / 2 * P, P, sums, P, keys / 2);
        }
        for (int64_t r = 0; r < count; r++) {
            store_row(sums + r * P, D, 1 / total[r], out + at_q + (t + r) * width);
            lse[head * s->T + t + r] = highest[r] + log2f(total[r]);
        }
    }
    free(columns), free(values), free(probabilities), free(scores), free(sums), free(rows);
    return failed;
}

/* Two rows of probabilities, or of their gradients, as pairs along the queries. */
INLINE void store_interleaved(pair *to, __m512 first, __m512 second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
}

/* A block's probabilities, and the gradients of its scores, from scores and the gradients of the probabilities `dp`. */
static void score_gradients(int64_t queries, int64_t keys, int64_t real, float scale, const float *scores,
                            const float *dp, const float *level, const float *delta, pair *p_pairs, pair *ds_pairs,
                            bf16 *ds_rows) {
    const __m512 scales = _mm512_set1_ps(scale), scales2 = _mm512_set1_ps(scale * LOG2_E);
    for (int64_t r = 0; r < ROWS; r += 2)
        for (int64_t i = 0; i < keys; i += LANES) {
            __m512 p[2], ds[2];
            for (int two = 0; two < 2; two++) {
                const int64_t row = r + two, at = row * KEYS + i;
                const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + at), scales2, _mm512_set1_ps(level[row]));
                const __m512 difference = _mm512_sub_ps(_mm512_loadu_ps(dp + at), _mm512_set1_ps(delta[row]));
                p[two] =
                    row < queries ? _mm512_maskz_mov_ps(lanes_below(real - i), exp2_vector(x)) : _mm512_setzero_ps();
                ds[two] = _mm512_mul_ps(_mm512_mul_ps(p[two], scales), difference);
                _mm256_storeu_si256((__m256i *)(ds_rows + at), (__m256i)_mm512_cvtneps_pbh(ds[two]));
            }
            store_interleaved(p_pairs + r / 2 * KEYS + i, p[0], p[1]);
            store_interleaved(ds_pairs + r / 2 * KEYS + i, ds[0], ds[1]);
        }
}

static int backward_head(const Shape *s, int64_t head, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out,
                         const bf16 *grad, const float *lse, bf16 *grad_q, bf16 *grad_k, bf16 *grad_v) {
    const int64_t T = s->T, S = s->S, D = s->D, P = padded(D, LANES), width = s->heads * D;
    const int64_t padded_T = padded(T, ROWS), padded_S = padded(S, TILE), at_q = start_of(s, head, T),
                  at_k = start_of(s, head, S);
    bf16 *q_rows = zeros(padded_T * D * 2), *g_rows = zeros(padded_T * D * 2), *ds_rows = block(ROWS * KEYS * 2);
    pair *q_pairs = zeros(padded_T * P * 2), *g_pairs = zeros(padded_T * P * 2), *k_pairs = zeros(padded_S * P * 2);
    pair *k_columns = zeros(padded_S * D * 2), *v_columns = zeros(padded_S * D * 2);
    pair *p_pairs = block(ROWS * KEYS * 2), *ds_pairs = block(ROWS * KEYS * 2);
    float *scores = block(ROWS * KEYS * 4), *dp = block(ROWS * KEYS * 4), *delta = block(padded_T * 4),
          *level = block(padded_T * 4);
    float *dq = zeros(padded_T * P * 4), *dk = block(KEYS * P * 4), *dv = block(KEYS * P * 4);
    void *all[] = {q_rows,   g_rows, ds_rows, q_pairs, g_pairs, k_pairs, k_columns, v_columns, p_pairs,
                   ds_pairs, scores, dp,      delta,   level,   dq,      dk,        dv};
    int failed = 0;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) failed |= !all[i];
    if (!failed) {
        const bf16 *g = grad + at_q, *o = out + at_q;
        pack_rows(q + at_q, width, T, D, q_rows);
        pack_rows(g, width, T, D, g_rows);
        pack_pairs(q + at_q, width, T, D, P, q_pairs);
        pack_pairs(g, width, T, D, P, g_pairs);
        pack_pairs(k + at_k, width, S, D, P, k_pairs);
        pack_columns(k + at_k, width, S, D, k_columns);
        pack_columns(v + at_k, width, S, D, v_columns);
        for (int64_t t = 0; t < padded_T; t++) {
            float sum = 0;
            for (int64_t d = 0; t < T && d < D; d++) sum += widen(g[t * width + d]) * widen(o[t * width + d]);
            delta[t] = sum;
            level[t] = t < T ? lse[head * T + t] : 0;
        }
    }
    for (int64_t j = 0; !failed && j < padded_S; j += KEYS) {
        int64_t keys = padded_S - j < KEYS ? padded_S - j : KEYS, real = S - j < keys ? S - j : keys;
        memset(dk, 0, KEYS * P * 4), memset(dv, 0, KEYS * P * 4);
        for (int64_t t = 0; t < T; t += ROWS) {
            scores_of(q_rows + t * D, k_columns, j, keys, D, scores);
            scores_of(g_rows + t * D, v_columns, j, keys, D, dp);
            score_gradients(T - t, keys, real, s->scale, scores, dp, level + t, delta + t, p_pairs, ds_pairs, ds_rows);
            multiply(keys, P, 1, p_pairs, 1, KEYS, g_pairs + t / 2 * P, P, dv, P, ROWS / 2);
            multiply(keys, P, 1, ds_pairs, 1, KEYS, q_pairs + t / 2 * P, P, dk, P, ROWS / 2);
            multiply(ROWS, P, 1, (pair *)ds_rows, KEYS / 2, 1, k_pairs + j / 2 * P, P, dq + t * P, P, keys / 2);
        }
        for (int64_t i = 0; i < real; i++) {
            int64_t at = at_k + (j + i) * width;
            store_row(dk + i * P, D, 1, grad_k + at);
            store_row(dv + i * P, D, 1, grad_v + at);
        }
    }
    for (int64_t t = 0; !failed && t < T; t++) store_row(dq + t * P, D, 1, grad_q + at_q + t * width);
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return failed;
}

/* lse (batch, heads, T): base-2 logarithm of each query's sum. Returns 0, or 1 where memory is short. */
int attention_forward(const Shape *s, int64_t *next, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out,
                      float *lse) {
    int64_t spans = (s->T + SPAN - 1) / SPAN;
    for (int64_t n; (n = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < s->batch * s->heads * spans;) {
        int64_t first = n % spans * SPAN, end = first + SPAN < s->T ? first + SPAN : s->T;
        if (forward_span(s, n / spans, first, end, q, k, v, out, lse)) return 1;
    }
    return 0;
}

int attention_backward(const Shape *s, int64_t *next, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out,
                       const bf16 *grad, const float *lse, bf16 *grad_q, bf16 *grad_k, bf16 *grad_v) {
    for (int64_t n; (n = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < s->batch * s->heads;)
        if (backward_head(s, n, q, k, v, out, grad, lse, grad_q, grad_k, grad_v)) return 1;
    return 0;
}
