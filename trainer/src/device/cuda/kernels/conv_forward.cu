// Image -> conv 1 + bias + ReLU + pool -> conv 2 + bias + ReLU + pool, without leaving the block.
//
// A block makes one half of the second layer's channels for one sample after the other; the first layer is
// cheap enough to be computed by both halves. The second is an implicit product: its left rows are pixels,
// read where they lie for each tap. A warp takes 8 pooling windows; their four pixels are rows g and g + 8 of
// two tiles, so one lane holds a whole window and pools it in registers.

namespace forward {
constexpr int WARPS = 7, THREADS = 32 * WARPS, HALF = C2 / 2;
// A halo of one pixel; strides that keep the 8 windows of a warp in different banks.
constexpr int PIXEL = C1 + 2 * PER_WORD, ROW = 16 * PIXEL + 14 * PER_WORD;
constexpr int WEIGHT = along(TAPS * C1);
constexpr int IMAGE_ROW = 32, IMAGE = 30 * IMAGE_ROW;

struct Shared {
    value plane[16 * ROW];
    value weight[HALF * WEIGHT];
    float image[IMAGE];
    float grey[256];
};

// Pixel (y, x) lies at (y + 1, x + 1).
inline void load_image(float* image, const float* grey, const u8* from) {
    for (int i = threadIdx.x; i < PIXELS / 4; i += blockDim.x) {
        uchar4 four = ((const uchar4*)from)[i];
        float* to = image + (i / 7 + 1) * IMAGE_ROW + i % 7 * 4 + 1;
        to[0] = grey[four.x], to[1] = grey[four.y], to[2] = grey[four.z], to[3] = grey[four.w];
    }
}

// The greatest of a window and where it was, the first among equals.
struct Pooled { float best; u8 place; };
inline Pooled pool(float a0, float a1, float b0, float b1) {
    float upper = a1 > a0 ? a1 : a0, lower = b1 > b0 ? b1 : b0;
    float best = lower > upper ? lower : upper;
    u8 place = lower > upper ? (b1 > b0 ? 3 : 2) : (a1 > a0 ? 1 : 0);
    if (best > 0.0f) return {best, place};
    return {0.0f, DEAD};
}

// Lane = channel; a warp makes two rows, left to right over a sliding 4 x 4 patch.
inline void first(const float* image, const float (&w)[TAPS], float bias, value* plane,
                             value* pooled1, u8* winner1) {
    for (int y = warp() * 2; y < warp() * 2 + 2; y++) {
        float p[4][4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float2 v = *(const float2*)(image + (2 * y + r) * IMAGE_ROW);
            p[r][0] = v.x, p[r][1] = v.y;
        }
        for (int x = 0; x < SIDE1; x++) {
            float sum[4] = {bias, bias, bias, bias};
#pragma unroll
            for (int r = 0; r < 4; r++) {
                float2 v = *(const float2*)(image + (2 * y + r) * IMAGE_ROW + 2 * x + 2);
                p[r][2] = v.x, p[r][3] = v.y;
            }
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
                for (int q = 0; q < 4; q++) sum[q] += w[tap] * p[q / 2 + tap / 3][q % 2 + tap % 3];
            Pooled best = pool(sum[0], sum[1], sum[2], sum[3]);
            put(plane + (y + 1) * ROW + (x + 1) * PIXEL + lane(), best.best);
            if (pooled1) {
                put(pooled1 + (y * SIDE1 + x) * C1 + lane(), best.best);
                winner1[(y * SIDE1 + x) * C1 + lane()] = best.place;
            }
#pragma unroll
            for (int r = 0; r < 4; r++) p[r][0] = p[r][2], p[r][1] = p[r][3];
        }
    }
}

inline void second(const value* plane, const value* weight, const float* bias, int channel0,
                              value* pooled2, u8* winner2) {
    constexpr int COLUMNS = HALF / 8;
    int window = warp() * 8 + lane() / 4, inside = window < AREA2 ? window : AREA2 - 1;
    const value* top = plane + inside / SIDE2 * 2 * ROW + inside % SIDE2 * 2 * PIXEL;
    const value* rows = weight + lane() / 4 * WEIGHT;
    float c[2][COLUMNS][4] = {};
    for (int tap = 0; tap < TAPS; tap++) {
        const value* at = top + tap / 3 * ROW + tap % 3 * PIXEL;
#pragma unroll
        for (int k = 0; k < C1; k += STEP) {
            Left upper = left_along(at + k, at + PIXEL + k);
            Left lower = left_along(at + ROW + k, at + ROW + PIXEL + k);
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                Right right = right_along(rows + n * 8 * WEIGHT + tap * C1 + k);
                multiply(c[0][n], upper, right);
                multiply(c[1][n], lower, right);
            }
        }
    }
    if (window >= AREA2) return;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        int channel = channel0 + n * 8 + lane() % 4 * 2;
        Pooled best[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float b = bias[channel + j];
            best[j] = pool(c[0][n][j] + b, c[0][n][j + 2] + b, c[1][n][j] + b, c[1][n][j + 2] + b);
        }
        put2(pooled2 + window * C2 + channel, best[0].best, best[1].best);
        *(u16*)(winner2 + window * C2 + channel) = best[0].place | best[1].place << 8;
    }
}
}  // namespace forward

SHARED(conv_forward, forward::Shared);

// Grid: any number of blocks x 2 halves.
extern "C" __global__ void __launch_bounds__(forward::THREADS)
conv_forward(const Control* control, const u32* order, const u8* images, const float* grey, const float* parameters,
             value* pooled1, u8* winner1, value* pooled2, u8* winner2, u32 batch) {
    using namespace forward;
    Shared& shared = block_memory<Shared>();
    int half = blockIdx.y;
    clear((u32*)shared.plane, sizeof shared.plane / 4);
    clear(shared.image, IMAGE);
    for (int i = threadIdx.x; i < 256; i += blockDim.x) shared.grey[i] = grey[i];
    stage<TAPS * C1>(shared.weight, WEIGHT, parameters + W3 + half * HALF * TAPS * C1, TAPS * C1, HALF);
    float w[TAPS], bias = parameters[B0 + lane()];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) w[tap] = parameters[W0 + lane() * TAPS + tap];

    for (u32 s = blockIdx.x; s < batch; s += gridDim.x) {
        __syncthreads();
        load_image(shared.image, shared.grey, images + (u64)sample_of(control, order, batch, s) * PIXELS);
        __syncthreads();
        first(shared.image, w, bias, shared.plane, half ? nullptr : pooled1 + (u64)s * POOLED1, winner1 + (u64)s * POOLED1);
        __syncthreads();
        second(shared.plane, shared.weight, parameters + B3, half * HALF, pooled2 + (u64)s * POOLED2,
               winner2 + (u64)s * POOLED2);
    }
}
