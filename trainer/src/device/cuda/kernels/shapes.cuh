// The network's shapes. "Device order" puts channels innermost: activations are [sample][pixel][channel],
// 3.weight is [output][tap][input], 7.weight is [hidden][pixel][channel]. Every operand of every product
// is then read as it lies.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int SIDE = 28, PIXELS = SIDE * SIDE;       // the image
constexpr int C1 = 32, SIDE1 = 14, AREA1 = 196;      // after the first convolution and pooling
constexpr int C2 = 64, SIDE2 = 7, AREA2 = 49;        // after the second
constexpr int POOLED1 = AREA1 * C1, POOLED2 = AREA2 * C2;
constexpr int HIDDEN = 128, CLASSES = 10, TAPS = 9;
constexpr u8 DEAD = 4;                               // no pixel of the four was positive

// Places in the flat parameter and gradient buffers.
constexpr int W0 = 0, B0 = 288, W3 = 320, B3 = W3 + C2 * TAPS * C1, W7 = B3 + C2;
constexpr int B7 = W7 + HIDDEN * POOLED2, W9 = B7 + HIDDEN, B9 = W9 + CLASSES * HIDDEN;
constexpr int PARAMETERS = B9 + CLASSES;
// Behind the gradient travel the loss and the wish to stop, so that they need no reduction of their own.
constexpr int LOSS = PARAMETERS, STOP = PARAMETERS + 1;
constexpr int CONVOLUTIONS = W7;                     // parameters of the two convolutions

// Where training stands, on the device. Each field has one writer a step.
struct Control {
    u32 position;   // batches of this epoch done; adam
    u32 samples;    // of this rank in this epoch; the host, between epochs
    u64 step;       // optimiser steps done; adam
    u32 stopping;   // a step in which some rank was asked to stop is done; adam
    u32 frozen;     // so this step changes nothing; dense_backward
    float rate, root;  // Adam's corrections for this step; dense_backward
};

// What the device tells the host, in memory of the host: written in this order.
struct Posted {
    u32 stopped;
    u32 batches;    // of this epoch done; their losses are there
};

// Samples of the batch in hand, and where it begins in the epoch's order.
inline u32 begin_of(const Control* control, u32 batch) { return control->position * batch; }
inline u32 batch_of(const Control* control, u32 batch) {
    u32 begin = begin_of(control, batch);
    u32 left = control->samples > begin ? control->samples - begin : 0;
    return left < batch ? left : batch;
}
// The data set's index of sample `s`; beyond the batch, some sample.
inline u32 sample_of(const Control* control, const u32* order, u32 batch, u32 s) {
    u32 place = begin_of(control, batch) + s;
    return order[place < control->samples ? place : control->samples - 1];
}
