/* What the kernels for processors with AVX512-BF16 share: products of blocks that stay in the processor's caches, and the
 * threads that work on them. Products accumulate in fp32.
 */
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint32_t pair; /* two neighbours along the summed axis, as the dot-product instruction takes them */

enum {
    LANES = 16,
    TILE = 64, /* columns of a packed tile */
};

#define INLINE static inline __attribute__((always_inline))

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }
INLINE int64_t padded(int64_t n, int64_t to) { return parts_of(n, to) * to; }

static void *block(int64_t bytes) { return aligned_alloc(64, padded(bytes, 64)); }

/* The lanes of a vector whose number is below n. */
INLINE __mmask16 lanes_below(int64_t n) { return n >= LANES ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* Rows of memory that will be read next. A product asks for their lines while it computes, so that neither waits for the other. */
typedef struct {
    const char *start;
    int64_t row, shift; /* bytes from row to row; a row has 1 << shift lines */
    int64_t lines;      /* of all rows */
    int64_t asked;      /* lines so far */
} Ahead;

INLINE void ask_for(const Ahead *ahead, int64_t line) {
    const int64_t in_row = line & ((1 << ahead->shift) - 1);
    _mm_prefetch(ahead->start + (line >> ahead->shift) * ahead->row + in_row * 64, _MM_HINT_T1);
}

/* C[rows, 16 * vectors] (+)= A B. A: word [row * a_row + k * a_k]; B: words [k * b_k + column]; k counts pairs. Meanwhile asks for
 * `share` lines of `ahead`.
 */
INLINE void product(int rows, int vectors, int add, const pair *A, int64_t a_row, int64_t a_k, const pair *B,
                    int64_t b_k, float *C, int64_t c_row, int64_t pairs, Ahead *ahead, int64_t share) {
    int64_t line = ahead->asked, until_next = 1;
    ahead->asked = smaller(ahead->lines, line + share);
    const int64_t every = ahead->asked > line ? larger(1, pairs / (ahead->asked - line)) : 0;
    __m512 sum[8][5];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = add ? _mm512_loadu_ps(C + r * c_row + v * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < pairs; k++) {
        if (--until_next == 0 && line < ahead->asked) {
            ask_for(ahead, line++);
            until_next = every;
        }
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

/* `product` for any number of rows, and of columns that LANES divides; all lines of `ahead` are asked for. */
static void multiply(int64_t rows, int64_t columns, int add, const pair *A, int64_t a_row, int64_t a_k, const pair *B,
                     int64_t b_k, float *C, int64_t c_row, int64_t pairs, Ahead ahead) {
#define ROWS_OF(height, vectors)                                                                               \
    for (; r + height <= rows; r += height) {                                                                  \
        const pair *a = A + r * a_row;                                                                         \
        if (add)                                                                                               \
            product(height, vectors, 1, a, a_row, a_k, b, b_k, c + r * c_row, c_row, pairs, &ahead, share);    \
        else                                                                                                   \
            product(height, vectors, 0, a, a_row, a_k, b, b_k, c + r * c_row, c_row, pairs, &ahead, share);    \
    }
#define STRIPE(height, vectors)  \
    case vectors:                \
        ROWS_OF(height, vectors) \
        ROWS_OF(1, vectors)      \
        break;
    const int64_t share = parts_of(ahead.lines, parts_of(rows, 4));
    for (int64_t done = 0, step; done < columns / LANES; done += step) {
        const pair *b = B + done * LANES;
        float *c = C + done * LANES;
        int64_t r = 0;
        switch (step = step_of(columns / LANES - done)) {
            STRIPE(4, 5)
            STRIPE(4, 4)
            STRIPE(8, 3)
            STRIPE(8, 2)
            STRIPE(8, 1)
        }
    }
#undef STRIPE
#undef ROWS_OF
}

/* Runs `work(data)` on so many threads at once: those of PyTorch's own team, which exports this name. */
void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);

/* Pieces of work that threads take one after another. */
typedef struct {
    int64_t count, taken;
    int failed;
} Pieces;

INLINE int64_t take(Pieces *pieces) { return __atomic_fetch_add(&pieces->taken, 1, __ATOMIC_RELAXED); }
