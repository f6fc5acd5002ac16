// The end of a step: the convolutions' partial gradients added up, and Adam (PyTorch's defaults) over the flat
// buffer.

namespace update {
constexpr int THREADS = 256;

// In the order of the groups, so that a sum has the same bits each time.
inline float gradient_of(int i, const float* gradient, const float* partial0, const float* partial3,
                                    u32 groups0, u32 groups3) {
    if (i >= CONVOLUTIONS) return gradient[i];
    bool first = i < W3;
    const float* from = first ? partial0 + i : partial3 + i - W3;
    u32 groups = first ? groups0 : groups3, stride = first ? W3 : W7 - W3;
    float sum = 0.0f;
#pragma unroll 8
    for (u32 group = 0; group < groups; group++) sum += from[group * stride];
    return sum;
}
}  // namespace update

// With other ranks, before the sum over them.
extern "C" __global__ void __launch_bounds__(update::THREADS)
conv_gradient(float* gradient, const float* partial0, const float* partial3, u32 groups0, u32 groups3) {
    int i = blockIdx.x * update::THREADS + threadIdx.x;
    if (i < CONVOLUTIONS) gradient[i] = update::gradient_of(i, gradient, partial0, partial3, groups0, groups3);
}

// `share` is 1 / ranks. Groups are 0 where the gradient is whole already.
extern "C" __global__ void __launch_bounds__(update::THREADS)
adam(Control* control, float* parameters, float* first, float* second, const float* gradient, const float* partial0,
     const float* partial3, u32 groups0, u32 groups3, float share, volatile Posted* posted, volatile float* posted_losses) {
    int i = blockIdx.x * update::THREADS + threadIdx.x;
    if (control->frozen) return;
    if (i < PARAMETERS) {
        float g = groups0 ? update::gradient_of(i, gradient, partial0, partial3, groups0, groups3) : gradient[i];
        g *= share;
        float m = first[i] = first[i] * 0.9f + g * (1.0f - 0.9f);
        float v = second[i] = second[i] * 0.999f + g * g * (1.0f - 0.999f);
        parameters[i] -= control->rate * m / (sqrtf(v) / control->root + 1e-8f);
    }
    if (i == 0) {
        u32 position = control->position++;
        control->step++;
        posted_losses[position] = gradient[LOSS] * share;
        if (gradient[STOP] > 0.0f) posted->stopped = control->stopping = 1;
        __threadfence_system();
        posted->batches = position + 1;
    }
}
