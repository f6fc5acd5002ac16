// The two fully connected layers, the loss, and their backward pass. `rows` is the batch rounded up to 64;
// rows beyond the batch have zero gradients.

namespace dense {
constexpr int THREADS = 256, ROWS = 64, COLUMNS = 64;
constexpr int LD_ALONG = along(64), LD_ACROSS = across(64);

// A warp's 32 x 32 part of a product.
struct Part { float c[2][4][4]; };

template <class Each>
inline void each(const Part& part, Each use) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                use(m * 16 + h * 8 + lane() / 4, n * 8 + lane() % 4 * 2, part.c[m][n][h * 2], part.c[m][n][h * 2 + 1]);
}
}  // namespace dense

// === forward ===

namespace dense_forward_parts {
struct Shared {
    value input[dense::ROWS * dense::LD_ALONG];
    value weight[dense::COLUMNS * dense::LD_ALONG];
};
}

SHARED(dense_forward, dense_forward_parts::Shared);

// partial[split][row][hidden]: the product over every `chunks`-th part of 64 inputs. Grid: splits x 2 x rows / 64.
extern "C" __global__ void __launch_bounds__(dense::THREADS)
dense_forward(const value* pooled2, const float* parameters, float* partial, u32 rows, u32 chunks) {
    using namespace dense;
    auto& shared = block_memory<dense_forward_parts::Shared>();
    int row0 = blockIdx.z * ROWS, column0 = blockIdx.y * COLUMNS;
    int part_row = warp() % 4 * 16, part_column = warp() / 4 * 32;
    float c[4][4] = {};
    for (u32 chunk = blockIdx.x * chunks; chunk < (blockIdx.x + 1) * chunks; chunk++) {
        __syncthreads();
        stage<64>(shared.input, LD_ALONG, pooled2 + row0 * POOLED2 + chunk * 64, POOLED2, ROWS);
        stage<64>(shared.weight, LD_ALONG, parameters + W7 + column0 * POOLED2 + chunk * 64, POOLED2, COLUMNS);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 64; k += STEP) {
            const value* low = shared.input + (part_row + lane() / 4) * LD_ALONG + k;
            Left left = left_along(low, low + 8 * LD_ALONG);
#pragma unroll
            for (int n = 0; n < 4; n++)
                multiply(c[n], left, right_along(shared.weight + (part_column + n * 8 + lane() / 4) * LD_ALONG + k));
        }
    }
    float* to = partial + ((u64)blockIdx.x * rows + row0 + part_row + lane() / 4) * HIDDEN + column0 + part_column;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int column = n * 8 + lane() % 4 * 2;
        *(float2*)(to + column) = make_float2(c[n][0], c[n][1]);
        *(float2*)(to + 8 * HIDDEN + column) = make_float2(c[n][2], c[n][3]);
    }
}

// === head: the rest of the forward pass, the loss, and the way back to the hidden layer ===

namespace head_parts {
struct Shared {
    float hidden[HIDDEN];
    float logits[CLASSES];
};

inline void logits(const float* parameters, Shared& shared) {
    for (int c = warp(); c < CLASSES; c += HIDDEN / 32) {
        float sum = 0.0f;
        for (int h = lane(); h < HIDDEN; h += 32) sum += parameters[W9 + c * HIDDEN + h] * shared.hidden[h];
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane() == 0) shared.logits[c] = sum + parameters[B9 + c];
    }
}
}  // namespace head_parts

SHARED(head, head_parts::Shared);

// A block of 128 threads a row. `correct`, if given, counts the digits recognised.
extern "C" __global__ void __launch_bounds__(HIDDEN)
head(const Control* control, const u32* order, const u8* labels, const float* parameters, const float* partial,
     u32 splits, float* hidden, value* hidden_grad, float* logits_grad, float* losses, u32* correct, u32 batch) {
    auto& shared = block_memory<head_parts::Shared>();
    u32 row = blockIdx.x, rows = gridDim.x, h = threadIdx.x, n = batch_of(control, batch);
    float sum = parameters[B7 + h];
#pragma unroll 7
    for (u32 split = 0; split < splits; split++) sum += partial[((u64)split * rows + row) * HIDDEN + h];
    float active = sum > 0.0f ? sum : 0.0f;
    hidden[row * HIDDEN + h] = shared.hidden[h] = active;
    __syncthreads();
    head_parts::logits(parameters, shared);
    __syncthreads();

    int label = labels[sample_of(control, order, batch, row)], best = 0;
    float top = shared.logits[0];
#pragma unroll
    for (int c = 1; c < CLASSES; c++)
        if (shared.logits[c] > top) top = shared.logits[c], best = c;
    float e[CLASSES], total = 0.0f;
#pragma unroll
    for (int c = 0; c < CLASSES; c++) total += e[c] = expf(shared.logits[c] - top);
    // Rows beyond the batch weigh nothing.
    float scale = row < n ? 1.0f / n : 0.0f, grad = 0.0f;
#pragma unroll
    for (int c = 0; c < CLASSES; c++) {
        e[c] = (e[c] / total - (c == label ? 1.0f : 0.0f)) * scale;
        grad += e[c] * parameters[W9 + c * HIDDEN + h];
    }
    put(hidden_grad + row * HIDDEN + h, active > 0.0f ? grad : 0.0f);
    if (h == 0) {
#pragma unroll
        for (int c = 0; c < CLASSES; c++) logits_grad[row * CLASSES + c] = e[c];
        losses[row] = (logf(total) - (shared.logits[label] - top)) * scale;
        if (correct && row < n && best == label) atomicAdd(correct, 1u);
    }
}

// === backward ===

namespace dense_backward_parts {
using namespace dense;
constexpr int LD_HIDDEN_ALONG = along(HIDDEN), LD_HIDDEN_ACROSS = across(HIDDEN);

struct Input {
    value hidden_grad[ROWS * LD_HIDDEN_ALONG];
    value weight[HIDDEN * LD_ACROSS];
};
struct Weight {
    value hidden_grad[ROWS * LD_HIDDEN_ACROSS];
    value input[ROWS * LD_ACROSS];
};
union Shared {
    Input input;
    Weight weight;
    float scratch[THREADS];
};

// The gradient by 64 inputs of 64 samples.
inline void input_grad(Input& shared, const value* hidden_grad, const float* parameters,
                                  value* pooled2_grad, int row0, int column0) {
    stage<HIDDEN>(shared.hidden_grad, LD_HIDDEN_ALONG, hidden_grad + row0 * HIDDEN, HIDDEN, ROWS);
    stage<64>(shared.weight, LD_ACROSS, parameters + W7 + column0, POOLED2, HIDDEN);
    __syncthreads();
    int part_row = warp() % 4 * 16, part_column = warp() / 4 * 32;
    const value* low = shared.hidden_grad + (part_row + lane() / 4) * LD_HIDDEN_ALONG;
    float c[4][4] = {};
#pragma unroll
    for (int k = 0; k < HIDDEN; k += STEP) {
        Left left = left_along(low + k, low + 8 * LD_HIDDEN_ALONG + k);
#pragma unroll
        for (int n = 0; n < 4; n++)
            multiply(c[n], left, right_across(shared.weight + k * LD_ACROSS + part_column + n * 8, LD_ACROSS));
    }
    value* to = pooled2_grad + (u64)(row0 + part_row + lane() / 4) * POOLED2 + column0 + part_column;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int column = n * 8 + lane() % 4 * 2;
        put2(to + column, c[n][0], c[n][1]);
        put2(to + 8 * POOLED2 + column, c[n][2], c[n][3]);
    }
}

// The gradient by all weights of 64 inputs.
inline void weight_grad(Weight& shared, const value* hidden_grad, const value* pooled2, float* gradient,
                                   int column0, int rows) {
    int part_row = warp() % 4 * 32, part_column = warp() / 4 * 32;
    Part part = {};
    for (int row0 = 0; row0 < rows; row0 += ROWS) {
        __syncthreads();
        stage<HIDDEN>(shared.hidden_grad, LD_HIDDEN_ACROSS, hidden_grad + row0 * HIDDEN, HIDDEN, ROWS);
        stage<64>(shared.input, LD_ACROSS, pooled2 + (u64)row0 * POOLED2 + column0, POOLED2, ROWS);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < ROWS; k += STEP) {
            Left left[2];
#pragma unroll
            for (int m = 0; m < 2; m++)
                left[m] = left_across(shared.hidden_grad + k * LD_HIDDEN_ACROSS + part_row + m * 16, LD_HIDDEN_ACROSS);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                Right right = right_across(shared.input + k * LD_ACROSS + part_column + n * 8, LD_ACROSS);
                multiply(part.c[0][n], left[0], right);
                multiply(part.c[1][n], left[1], right);
            }
        }
    }
    float* to = gradient + W7 + part_row * POOLED2 + column0 + part_column;
    each(part, [&](int m, int n, float a, float b) { *(float2*)(to + m * POOLED2 + n) = make_float2(a, b); });
}

// to[h] = the sum over the rows of factor(row) * from[row][h].
template <class From, class Factor>
inline void weighted_sum(float* scratch, const From* from, int rows, float* to, Factor factor) {
    int h = threadIdx.x % HIDDEN, first = threadIdx.x / HIDDEN;
    float sum = 0.0f;
#pragma unroll 8
    for (int row = first; row < rows; row += THREADS / HIDDEN) sum += factor(row) * as_float(from[row * HIDDEN + h]);
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (first == 0) to[h] = scratch[h] + scratch[h + HIDDEN];
    __syncthreads();
}
// The sum over the rows of from[row * stride].
inline float column_sum(float* scratch, const float* from, int rows, int stride) {
    float sum = 0.0f;
    for (int row = threadIdx.x; row < rows; row += THREADS) sum += from[row * stride];
    return block_sum(sum, scratch);
}

// What the optimiser needs to know of this step; PyTorch's defaults.
inline void prepare_update(Control* control) {
    double step = (double)(control->step + 1);
    control->frozen = control->stopping;
    control->rate = (float)(1e-3 / (1.0 - pow(0.9, step)));
    control->root = (float)sqrt(1.0 - pow(0.999, step));
}
constexpr int TILES = POOLED2 / COLUMNS;
constexpr int SMALL = CLASSES + 2;
}  // namespace dense_backward_parts

SHARED(dense_backward, dense_backward_parts::Shared);

// Grid: 49 blocks for 7.weight, 12 for what is small, then 49 a 64 rows for the input.
extern "C" __global__ void __launch_bounds__(dense::THREADS)
dense_backward(Control* control, const volatile u32* stop, const float* parameters, const value* pooled2,
               const float* hidden, const value* hidden_grad, const float* logits_grad, const float* losses,
               float* gradient, value* pooled2_grad, u32 rows) {
    using namespace dense_backward_parts;
    auto& shared = block_memory<Shared>();
    int block = blockIdx.x;
    if (block < TILES) return weight_grad(shared.weight, hidden_grad, pooled2, gradient, block * COLUMNS, rows);
    block -= TILES;
    if (block >= SMALL) {
        block -= SMALL;
        return input_grad(shared.input, hidden_grad, parameters, pooled2_grad, block / TILES * ROWS, block % TILES * COLUMNS);
    }
    if (block < CLASSES) {
        auto factor = [&](int row) { return logits_grad[row * CLASSES + block]; };
        weighted_sum(shared.scratch, hidden, rows, gradient + W9 + block * HIDDEN, factor);
        float bias = column_sum(shared.scratch, logits_grad + block, rows, CLASSES);
        if (threadIdx.x == 0) gradient[B9 + block] = bias;
    } else if (block == CLASSES) {
        weighted_sum(shared.scratch, hidden_grad, rows, gradient + B7, [](int) { return 1.0f; });
    } else {
        float loss = column_sum(shared.scratch, losses, rows, 1);
        if (threadIdx.x == 0) {
            gradient[LOSS] = loss;
            gradient[STOP] = *stop ? 1.0f : 0.0f;
            prepare_update(control);
        }
    }
}
