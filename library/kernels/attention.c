/* Exact attention and its gradient for bfloat16 on processors with AVX512-BF16, in tiles that stay in cache
 * (Dao et al. 2022, algorithm 1; Dao 2023, algorithm 2; softmax by Milakov & Gimelshein 2018).
 *
 * All tensors but `lse` are (batch, tokens, heads * D), contiguous, as the projections make them. Products accumulate
 * in fp32; probabilities and their gradients are rounded to bf16 only where a product reads them.
 *
 * Letters: T queries, S keys, D width of a head (even), P = D padded to whole vectors.
 */
#include <math.h>

#include "tiles.h"

enum {
    ROWS = 64,  /* queries of a block */
    KEYS = 512, /* keys of a block */
    SPAN = 256, /* queries of a piece of the forward pass */
};

typedef struct {
    int64_t batch, heads, T, S, D;
    float scale;
} Shape;

#define LOG2_E 1.44269504088896340736f
INLINE float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* For what is padded: a zero adds nothing, whatever it meets. */
static void *zeros(int64_t bytes) {
    void *memory = block(bytes);
    return memory ? memset(memory, 0, padded(bytes, 64)) : memory;
}

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

static const Ahead NOTHING = {0};

/* Tokens as rows, contiguous: (N, D). */
static void pack_rows(const bf16 *from, int64_t stride, int64_t N, int64_t D, bf16 *to) {
    for (int64_t n = 0; n < N; n++) memcpy(to + n * D, from + n * stride, D * sizeof(bf16));
}

/* Tokens as columns, in tiles: [tile][D / 2][TILE] pairs along the width. */
static void pack_columns(const bf16 *from, int64_t stride, int64_t N, int64_t D, word *to) {
    for (int64_t n = 0; n < N; n++) {
        word *tile = to + n / TILE * TILE * (D / 2) + n % TILE;
        for (int64_t d = 0; d < D / 2; d++) memcpy(tile + d * TILE, from + n * stride + 2 * d, sizeof(word));
    }
}

/* Pairs of tokens: [N / 2][P]. */
static void pack_pairs(const bf16 *from, int64_t stride, int64_t N, int64_t D, int64_t P, word *to) {
    for (int64_t n = 0; n < N; n += 2)
        for (int64_t d = 0; d < D; d++) {
            word second = n + 1 < N ? from[(n + 1) * stride + d] : 0;
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
INLINE void scores_of(const bf16 *rows, const word *columns, int64_t first, int64_t keys, int64_t D, float *scores) {
    for (int64_t j = 0; j < keys; j += TILE)
        multiply(BF16, ROWS, TILE, 0, (const word *)rows, D / 2, 1, columns + (first + j) / TILE * TILE * (D / 2), TILE,
                 scores + j, KEYS, D / 2, NOTHING);
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
    word *columns = zeros(padded_S * D * 2), *values = zeros(padded_S * P * 2), *probabilities = zeros(ROWS * KEYS * 2);
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
            multiply(BF16, ROWS, P, 1, probabilities, KEYS / 2, 1, values + j / 2 * P, P, sums, P, keys / 2, NOTHING);
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
INLINE void store_interleaved(word *to, __m512 first, __m512 second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
}

/* A block's probabilities, and the gradients of its scores, from scores and the gradients of the probabilities `dp`. */
static void score_gradients(int64_t queries, int64_t keys, int64_t real, float scale, const float *scores,
                            const float *dp, const float *level, const float *delta, word *p_pairs, word *ds_pairs,
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
    word *q_pairs = zeros(padded_T * P * 2), *g_pairs = zeros(padded_T * P * 2), *k_pairs = zeros(padded_S * P * 2);
    word *k_columns = zeros(padded_S * D * 2), *v_columns = zeros(padded_S * D * 2);
    word *p_pairs = block(ROWS * KEYS * 2), *ds_pairs = block(ROWS * KEYS * 2);
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
            multiply(BF16, keys, P, 1, p_pairs, 1, KEYS, g_pairs + t / 2 * P, P, dv, P, ROWS / 2, NOTHING);
            multiply(BF16, keys, P, 1, ds_pairs, 1, KEYS, q_pairs + t / 2 * P, P, dk, P, ROWS / 2, NOTHING);
            multiply(BF16, ROWS, P, 1, (word *)ds_rows, KEYS / 2, 1, k_pairs + j / 2 * P, P, dq + t * P, P, keys / 2,
                     NOTHING);
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

typedef struct {
    const Shape *shape;
    const bf16 *q, *k, *v, *out, *grad; /* the last two for the gradients alone */
    bf16 *to[3];                        /* the output; or the gradients of q, k and v */
    float *lse;
    Pieces pieces;
} Call;

static void forward_pieces(void *data) {
    Call *c = data;
    const int64_t T = c->shape->T, spans = parts_of(T, SPAN);
    for (int64_t n; !c->pieces.failed && (n = take(&c->pieces)) < c->pieces.count;) {
        const int64_t first = n % spans * SPAN, end = smaller(first + SPAN, T);
        if (forward_span(c->shape, n / spans, first, end, c->q, c->k, c->v, c->to[0], c->lse)) c->pieces.failed = 1;
    }
}

static void backward_pieces(void *data) {
    Call *c = data;
    for (int64_t n; !c->pieces.failed && (n = take(&c->pieces)) < c->pieces.count;)
        if (backward_head(c->shape, n, c->q, c->k, c->v, c->out, c->grad, c->lse, c->to[0], c->to[1], c->to[2]))
            c->pieces.failed = 1;
}

/* lse (batch, heads, T): base-2 logarithm of each query's sum. Returns 0, or 1 where memory is short. */
int attention_forward(const Shape *s, int threads, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
    Call call = {s, q, k, v, NULL, NULL, {out}, lse, {s->batch * s->heads * parts_of(s->T, SPAN), 0, 0}};
    on_threads(threads, forward_pieces, &call);
    return call.pieces.failed;
}

int attention_backward(const Shape *s, int threads, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out,
                       const bf16 *grad, float *lse, bf16 *grad_q, bf16 *grad_k, bf16 *grad_v) {
    Call call = {s, q, k, v, out, grad, {grad_q, grad_k, grad_v}, lse, {s->batch * s->heads, 0, 0}};
    on_threads(threads, backward_pieces, &call);
    return call.pieces.failed;
}
