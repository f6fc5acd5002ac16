// Matrix products of a warp on the tensor cores, from operands in shared memory.
//
// A tensor-core step multiplies a 16 x k tile by a k x 8 one, where k is 8 words of 32 bits: 8 TF32 or 16
// bf16 values. Seen in words, both precisions have one layout, so the kernels are written once. FP32 is
// three TF32 products of split operands, which keeps about 22 of the 24 bits.

#define FP32 0
#define TF32 1
#define BF16 2

#if PRECISION == BF16
typedef u16 value;                    // what operands and activations are kept as
constexpr int PER_WORD = 2;
#else
typedef float value;
constexpr int PER_WORD = 1;
#endif
constexpr int STEP = 8 * PER_WORD;    // values along k in one step

// Leading dimensions that keep the lanes of a warp in different banks: for operands whose k lies along
// the rows, and across them.
constexpr int along(int k) { return k + 4 * PER_WORD; }
constexpr int across(int n) { return n + 8; }

// What the launch gave the block in shared memory; SHARED tells the host how much that is to be.
#define SHARED(kernel, type) extern "C" __device__ u32 kernel##_shared = sizeof(type)
template <class T>
inline T& block_memory() {
    extern __shared__ uint4 memory[];
    return *(T*)memory;
}

inline int lane() { return threadIdx.x & 31; }
inline int warp() { return threadIdx.x >> 5; }
inline float as_float(float x) { return x; }
inline float as_float(u16 x) { return __uint_as_float((u32)x << 16); }

// === four values at a time ===

struct Four { float x[4]; };

inline Four get4(const float* from) {
    float4 v = *(const float4*)from;
    return {{v.x, v.y, v.z, v.w}};
}
inline Four get4(const u16* from) {
    uint2 v = *(const uint2*)from;
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
             __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)}};
}
// What is kept is rounded: the tensor cores would cut off what TF32 has no bits for, always towards zero.
inline float kept(float x) {
#if PRECISION == TF32
    x = __uint_as_float(round_tf32(x));
#endif
    return x;
}
// `to` is aligned to 8 bytes only: rows in shared memory are padded.
inline void put2(float* to, float a, float b) { *(float2*)to = make_float2(kept(a), kept(b)); }
inline void put2(u16* to, float a, float b) { *(u32*)to = pack_bf16(a, b); }
inline void put4(float* to, const Four& v) { put2(to, v.x[0], v.x[1]), put2(to + 2, v.x[2], v.x[3]); }
inline void put4(u16* to, const Four& v) {
    *(uint2*)to = make_uint2(pack_bf16(v.x[0], v.x[1]), pack_bf16(v.x[2], v.x[3]));
}
inline void put(float* to, float a) { *to = kept(a); }
inline void put(u16* to, float a) { *to = (u16)pack_bf16(a, 0.0f); }

// The block copies `rows` rows of COLUMNS numbers into shared memory as operands.
template <int COLUMNS, class From>
inline void stage(value* to, int to_ld, const From* from, int from_ld, int rows) {
    constexpr int QUADS = COLUMNS / 4;
#pragma unroll 4
    for (int i = threadIdx.x; i < rows * QUADS; i += blockDim.x) {
        int row = i / QUADS, column = i % QUADS * 4;
        put4(to + row * to_ld + column, get4(from + row * from_ld + column));
    }
}
template <class T>
inline void clear(T* to, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = 0;
}

// === operands of a step, in registers ===

struct Left { u32 x[4]; };    // 16 x k
struct Right { u32 x[2]; };   // k x 8

inline u32 word(const value* at) { return *(const u32*)at; }

// Element (m, k) at row(m)[k]: `low` is row lane / 4 and `high` is row lane / 4 + 8, both at this step's k.
inline Left left_along(const value* low, const value* high) {
    int t = lane() % 4 * PER_WORD;
    return {{word(low + t), word(high + t), word(low + t + 4 * PER_WORD), word(high + t + 4 * PER_WORD)}};
}
// Element (k, n) at row(n)[k]: `row` is row lane / 4.
inline Right right_along(const value* row) {
    int t = lane() % 4 * PER_WORD;
    return {{word(row + t), word(row + t + 4 * PER_WORD)}};
}
// Element (m, k) at base[k * ld + m].
inline Left left_across(const value* base, int ld) {
    Left left;
#if PRECISION == BF16
    int tile = lane() / 8;
    load_transposed(left.x, base + (tile / 2 * 8 + lane() % 8) * ld + tile % 2 * 8);
#else
    const value* at = base + lane() % 4 * ld + lane() / 4;
    left.x[0] = word(at), left.x[1] = word(at + 8), left.x[2] = word(at + 4 * ld), left.x[3] = word(at + 4 * ld + 8);
#endif
    return left;
}
// Element (k, n) at base[k * ld + n].
inline Right right_across(const value* base, int ld) {
    Right right;
#if PRECISION == BF16
    load_transposed(right.x, base + lane() % 16 * ld);
#else
    const value* at = base + lane() % 4 * ld + lane() / 4;
    right.x[0] = word(at), right.x[1] = word(at + 4 * ld);
#endif
    return right;
}

// === products ===

// What of a number TF32 keeps, and the rest.
template <int N>
inline void split(const u32 (&x)[N], u32 (&big)[N], u32 (&small)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        big[i] = round_tf32(__uint_as_float(x[i]));
        small[i] = round_tf32(__uint_as_float(x[i]) - __uint_as_float(big[i]));
    }
}

// c += left * right. Lane l holds rows l / 4 (c[0], c[1]) and l / 4 + 8 (c[2], c[3]), columns l % 4 * 2 and
// the next.
inline void multiply(float (&c)[4], const Left& left, const Right& right) {
#if PRECISION == BF16
    mma_bf16(c, left.x, right.x);
#elif PRECISION == TF32
    mma_tf32(c, left.x, right.x);
#else
    u32 big[4], small[4], right_big[2], right_small[2];
    split(left.x, big, small), split(right.x, right_big, right_small);
    mma_tf32(c, small, right_big);
    mma_tf32(c, big, right_small);
    mma_tf32(c, big, right_big);
#endif
}

// The sum of every thread's x, the same order each time; `scratch` holds a number for each thread.
inline float block_sum(float x, float* scratch) {
    scratch[threadIdx.x] = x;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    float sum = scratch[0];
    __syncthreads();
    return sum;
}
