/* What the kernels for processors with AVX512-BF16 share: products of blocks that stay in the processor's caches, and
 * the threads that work on them. Products accumulate in fp32.
 *
 * Both factors of a product are made of words along the summed axis: in fp32 a value, in bf16 two neighbours, as the
 * dot-product instruction takes them.
 */
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint32_t word;
typedef enum { BF16, FP32 } Type;

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

/* Rows of memory that will be read next. A product asks for their lines while it computes, so that neither waits for
 * the other. */
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

INLINE __m512 add_product(Type type, __m512i a, __m512i b, __m512 sum) {
    if (type == BF16) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

/* C[rows, 16 * vectors] (+)= A B. A: word [row * a_row + k * a_k]; B: words [k * b_k + column]; k counts words.
 * Meanwhile asks for `share` lines of `ahead`.
 */
INLINE void product(Type type, int rows, int vectors, int add, const word *A, int64_t a_row, int64_t a_k, const word *B,
                    int64_t b_k, float *C, int64_t c_row, int64_t words, Ahead *ahead, int64_t share) {
    int64_t line = ahead->asked, until_next = 1;
    ahead->asked = smaller(ahead->lines, line + share);
    const int64_t every = ahead->asked > line ? larger(1, words / (ahead->asked - line)) : 0;
    __m512 sum[8][5];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = add ? _mm512_loadu_ps(C + r * c_row + v * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < words; k++) {
        if (--until_next == 0 && line < ahead->asked) {
            ask_for(ahead, line++);
            until_next = every;
        }
        __m512i b[5];
        for (int v = 0; v < vectors; v++) b[v] = _mm512_loadu_si512(B + k * b_k + v * LANES);
        for (int r = 0; r < rows; r++) {
            __m512i a = _mm512_set1_epi32((int)A[r * a_row + k * a_k]);
            for (int v = 0; v < vectors; v++) sum[r][v] = add_product(type, a, b[v], sum[r][v]);
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
INLINE void multiply_in(Type type, int64_t rows, int64_t columns, int add, const word *A, int64_t a_row, int64_t a_k,
                        const word *B, int64_t b_k, float *C, int64_t c_row, int64_t words, Ahead ahead) {
#define ROWS_OF(height, vectors)                                                                                  \
    for (; r + height <= rows; r += height) {                                                                     \
        const word *a = A + r * a_row;                                                                            \
        if (add)                                                                                                  \
            product(type, height, vectors, 1, a, a_row, a_k, b, b_k, c + r * c_row, c_row, words, &ahead, share); \
        else                                                                                                      \
            product(type, height, vectors, 0, a, a_row, a_k, b, b_k, c + r * c_row, c_row, words, &ahead, share); \
    }
#define STRIPE(height, vectors)  \
    case vectors:                \
        ROWS_OF(height, vectors) \
        ROWS_OF(1, vectors)      \
        break;
    const int64_t share = parts_of(ahead.lines, parts_of(rows, 4));
    for (int64_t done = 0, step; done < columns / LANES; done += step) {
        const word *b = B + done * LANES;
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

static void multiply(Type type, int64_t rows, int64_t columns, int add, const word *A, int64_t a_row, int64_t a_k,
                     const word *B, int64_t b_k, float *C, int64_t c_row, int64_t words, Ahead ahead) {
    if (type == BF16)
        multiply_in(BF16, rows, columns, add, A, a_row, a_k, B, b_k, C, c_row, words, ahead);
    else
        multiply_in(FP32, rows, columns, add, A, a_row, a_k, B, b_k, C, c_row, words, ahead);
}

/* PyTorch's own team of threads, which exports this name. */
void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);

static void on_threads(int64_t threads, void (*work)(void *), void *data) {
    if (threads > 1)
        GOMP_parallel(work, data, (unsigned)threads, 0);
    else
        work(data);
}

/* Pieces of work that threads take one after another. */
typedef struct {
    int64_t count, taken;
    int failed;
} Pieces;

INLINE int64_t take(Pieces *pieces) { return __atomic_fetch_add(&pieces->taken, 1, __ATOMIC_RELAXED); }
