// From the gradient by the second pooling's output to the gradients of both convolutions' parameters, in
// partial sums: one of each kind for each group of samples, added up by the optimiser.
//
// The pooling's backward pass is a scatter while operands are laid out in shared memory. Blocks have one of
// two roles, which share the multiprocessors:
// - input: the gradient by the second layer's input, for half of its channels, stays in the block and becomes
//   the first layer's parameters' gradient;
// - weight: one row of taps of 3.weight, and 3.bias.

namespace backward {
constexpr int THREADS = 256, HALF = C1 / 2, ROW = 16, PARTIAL0 = W3, PARTIAL3 = W7 - W3;
constexpr int PIXEL_ALONG = along(C2), PIXEL_ACROSS = across(C2), PIXEL_INPUT = across(C1);
constexpr int WEIGHT = across(TAPS * HALF);

struct Input {
    // A halo of one pixel; the last row's tail is read for columns that do not exist.
    union {
        value plane[(16 * ROW + 2) * PIXEL_ALONG];
        float grad[AREA1 * (HALF + 1)];
        float sums[SIDE1 * HALF * (TAPS + 1)];
    };
    value weight[C2 * WEIGHT];
    float image[forward::IMAGE];
};
struct Weight {
    value plane[SIDE1 * ROW * PIXEL_ACROSS];
    // One row of taps' rows of the layer's input, column x at x + 1.
    value input[(SIDE1 * ROW + 2) * PIXEL_INPUT];
    float scratch[THREADS];
};
union Shared {
    Input input;
    Weight weight;
};

// Each gradient goes to its window's winner; pixel (y, x) lies at plane + (y * ROW + x) * pixel.
inline void unpool(value* plane, int pixel, const value* grad, const u8* winner) {
    for (int i = threadIdx.x; i < AREA2 * C2 / 4; i += THREADS) {
        int window = i / (C2 / 4), channel = i % (C2 / 4) * 4;
        Four g = get4(grad + window * C2 + channel);
        uchar4 w = *(const uchar4*)(winner + window * C2 + channel);
        u8 place[4] = {w.x, w.y, w.z, w.w};
        value* to = plane + (window / SIDE2 * 2 * ROW + window % SIDE2 * 2) * pixel + channel;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            Four out;
#pragma unroll
            for (int j = 0; j < 4; j++) out.x[j] = place[j] == q ? g.x[j] : 0.0f;
            put4(to + (q / 2 * ROW + q % 2) * pixel, out);
        }
    }
}

// === role: input ===

// The gradient by the pixels of two rows of the image and 16 channels, for each of 7 warps. The transposed
// convolution reads at minus the tap.
inline void input_product(const Input& shared, float (&c)[2][2][4]) {
    const value* low = shared.plane + (warp() * 2 * ROW + lane() / 4) * PIXEL_ALONG;
    for (int tap = 0; tap < TAPS; tap++) {
        const value* at = low + ((2 - tap / 3) * ROW + 2 - tap % 3) * PIXEL_ALONG;
#pragma unroll
        for (int k = 0; k < C2; k += STEP) {
            Left left[2];
#pragma unroll
            for (int m = 0; m < 2; m++)
                left[m] = left_along(at + m * ROW * PIXEL_ALONG + k, at + (m * ROW + 8) * PIXEL_ALONG + k);
#pragma unroll
            for (int n = 0; n < 2; n++) {
                Right right = right_across(shared.weight + k * WEIGHT + tap * HALF + n * 8, WEIGHT);
                multiply(c[0][n], left[0], right);
                multiply(c[1][n], left[1], right);
            }
        }
    }
}

inline void keep_product(Input& shared, const float (&c)[2][2][4]) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int x = lane() / 4 + h * 8;
            if (x >= SIDE1) continue;
            float* to = shared.grad + ((warp() * 2 + m) * SIDE1 + x) * (HALF + 1) + lane() % 4 * 2;
#pragma unroll
            for (int n = 0; n < 2; n++) to[n * 8] = c[m][n][h * 2], to[n * 8 + 1] = c[m][n][h * 2 + 1];
        }
}

// Adds one sample to the first layer's sums; a thread has a channel and a row of windows.
inline void first(const Input& shared, const u8* winner1, int half, float (&sum)[TAPS + 1]) {
    int channel = threadIdx.x % HALF, y = threadIdx.x / HALF;
    for (int x = 0; x < SIDE1; x++) {
        int place = winner1[(y * SIDE1 + x) * C1 + half * HALF + channel];
        if (place == DEAD) continue;
        float g = shared.grad[(y * SIDE1 + x) * (HALF + 1) + channel];
        const float* at = shared.image + (2 * y + place / 2) * forward::IMAGE_ROW + 2 * x + place % 2;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) sum[tap] += g * at[tap / 3 * forward::IMAGE_ROW + tap % 3];
        sum[TAPS] += g;
    }
}

inline void first_out(Input& shared, const float (&sum)[TAPS + 1], int half, float* partial0) {
    if (threadIdx.x < SIDE1 * HALF)
        for (int i = 0; i <= TAPS; i++) shared.sums[threadIdx.x * (TAPS + 1) + i] = sum[i];
    __syncthreads();
    for (int i = threadIdx.x; i < HALF * (TAPS + 1); i += THREADS) {
        float total = 0.0f;
        for (int y = 0; y < SIDE1; y++) total += shared.sums[y * HALF * (TAPS + 1) + i];
        int channel = half * HALF + i / (TAPS + 1), tap = i % (TAPS + 1);
        partial0[tap < TAPS ? W0 + channel * TAPS + tap : B0 + channel] = total;
    }
}

// === role: weight ===

// Rows -1 + ky to 12 + ky of the layer's input, zero outside.
inline void load_input(value* to, const value* pooled1, int ky) {
    for (int i = threadIdx.x; i < SIDE1 * ROW * C1 / 4; i += THREADS) {
        int pixel = i / (C1 / 4), channel = i % (C1 / 4) * 4, y = pixel / ROW + ky - 1, x = pixel % ROW - 1;
        bool inside = y >= 0 && y < SIDE1 && x >= 0 && x < SIDE1;
        Four v = {};
        if (inside) v = get4(pooled1 + (y * SIDE1 + x) * C1 + channel);
        put4(to + pixel * PIXEL_INPUT + channel, v);
    }
}

// Warps: 2 x 32 outputs by 4 x 24 columns, of which there are 32 a tap.
inline void weight_product(const Weight& shared, float (&c)[2][3][4]) {
    int outputs = warp() % 2 * 32, column0 = warp() / 2 * 3;
    for (int k = 0; k < SIDE1 * ROW; k += STEP) {
        Left left[2];
#pragma unroll
        for (int m = 0; m < 2; m++)
            left[m] = left_across(shared.plane + k * PIXEL_ACROSS + outputs + m * 16, PIXEL_ACROSS);
#pragma unroll
        for (int n = 0; n < 3; n++) {
            int kx = (column0 + n) / 4, inputs = (column0 + n) % 4 * 8;
            Right right = right_across(shared.input + (k + kx) * PIXEL_INPUT + inputs, PIXEL_INPUT);
            multiply(c[0][n], left[0], right);
            multiply(c[1][n], left[1], right);
        }
    }
}

inline void weight_out(const float (&c)[2][3][4], int ky, float* partial3) {
    int outputs = warp() % 2 * 32, column0 = warp() / 2 * 3;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 3; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int kx = (column0 + n) / 4, input = (column0 + n) % 4 * 8 + lane() % 4 * 2;
                int output = outputs + m * 16 + h * 8 + lane() / 4;
                float* to = partial3 + (output * TAPS + ky * 3 + kx) * C1 + input;
                *(float2*)to = make_float2(c[m][n][h * 2], c[m][n][h * 2 + 1]);
            }
}

inline void input_role(Input& shared, const Control* control, const u32* order, const u8* images,
                                  const float* grey, const float* parameters, const u8* winner1, const u8* winner2,
                                  const value* pooled2_grad, float* partial0, u32 batch, u32 group, u32 groups, int half) {
    for (int i = threadIdx.x; i < C2 * TAPS * HALF / 4; i += THREADS) {
        int row = i / (HALF / 4), channel = i % (HALF / 4) * 4;   // row: output, then tap
        put4(shared.weight + row / TAPS * WEIGHT + row % TAPS * HALF + channel,
             get4(parameters + W3 + row * C1 + half * HALF + channel));
    }
    clear(shared.image, forward::IMAGE);
    float sum[TAPS + 1] = {};
    for (u32 s = group; s < batch; s += groups) {
        __syncthreads();
        clear((u32*)shared.plane, sizeof shared.plane / 4);
        forward::load_image(shared.image, grey, images + (u64)sample_of(control, order, batch, s) * PIXELS);
        __syncthreads();
        unpool(shared.plane + (ROW + 1) * PIXEL_ALONG, PIXEL_ALONG, pooled2_grad + (u64)s * POOLED2, winner2 + (u64)s * POOLED2);
        __syncthreads();
        float c[2][2][4] = {};
        if (warp() < SIDE1 / 2) input_product(shared, c);
        __syncthreads();
        if (warp() < SIDE1 / 2) keep_product(shared, c);
        __syncthreads();
        if (threadIdx.x < SIDE1 * HALF) first(shared, winner1 + (u64)s * POOLED1, half, sum);
    }
    __syncthreads();
    first_out(shared, sum, half, partial0 + group * PARTIAL0);
}

inline void weight_role(Weight& shared, const value* pooled1, const value* pooled2_grad, const u8* winner2,
                                   float* partial3, u32 batch, u32 group, u32 groups, int ky) {
    clear((u32*)shared.plane, sizeof shared.plane / 4);
    clear((u32*)shared.input, sizeof shared.input / 4);
    float c[2][3][4] = {}, bias = 0.0f;
    for (u32 s = group; s < batch; s += groups) {
        __syncthreads();
        unpool(shared.plane, PIXEL_ACROSS, pooled2_grad + (u64)s * POOLED2, winner2 + (u64)s * POOLED2);
        load_input(shared.input, pooled1 + (u64)s * POOLED1, ky);
        __syncthreads();
        weight_product(shared, c);
        if (ky == 1)
            for (int p = threadIdx.x / C2; p < SIDE1 * ROW; p += THREADS / C2)
                bias += as_float(shared.plane[p * PIXEL_ACROSS + threadIdx.x % C2]);
    }
    float* to = partial3 + group * PARTIAL3;
    weight_out(c, ky, to);
    if (ky != 1) return;
    shared.scratch[threadIdx.x] = bias;
    __syncthreads();
    if (threadIdx.x < C2) {
        const float* part = shared.scratch + threadIdx.x;
        to[B3 - W3 + threadIdx.x] = part[0] + part[C2] + part[2 * C2] + part[3 * C2];
    }
}
}  // namespace backward

SHARED(conv_backward, backward::Shared);

// Grid: 3 blocks for each of `groups3`, then 2 for each of `groups0`.
extern "C" __global__ void __launch_bounds__(backward::THREADS)
conv_backward(const Control* control, const u32* order, const u8* images, const float* grey, const float* parameters,
              const value* pooled1, const u8* winner1, const u8* winner2, const value* pooled2_grad, float* partial0,
              float* partial3, u32 batch, u32 groups0, u32 groups3) {
    using namespace backward;
    auto& shared = block_memory<Shared>();
    u32 block = blockIdx.x;
    if (block < 3 * groups3)
        return weight_role(shared.weight, pooled1, pooled2_grad, winner2, partial3, batch, block / 3, groups3, block % 3);
    block -= 3 * groups3;
    input_role(shared.input, control, order, images, grey, parameters, winner1, winner2, pooled2_grad, partial0, batch,
               block / 2, groups0, block % 2);
}
