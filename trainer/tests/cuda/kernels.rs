//! Each kernel beside its CPU twin on random input.

use convoke_trainer::device::Precision;
use convoke_trainer::device::cpu::{
    Adam, Conv, adam, conv_backward, conv_forward, cross_entropy, linear_backward, linear_forward, relu,
    relu_backward, relu_pool_backward, relu_pool_forward,
};
use convoke_trainer::mnist::model::{PARAMETERS, views};
use convoke_trainer::mnist::network::{CLASSES, HIDDEN, PIXELS, POOLED1, POOLED2, grey};

use crate::Test;
use crate::twin::{Bench, assert_close, planes};

pub(crate) const TESTS: [Test; 7] = [
    ("conv_forward_agrees_with_its_cpu_twin", forward_of_convolutions),
    ("dense_forward_agrees_with_its_cpu_twin", forward_of_dense),
    ("head_agrees_with_its_cpu_twin", head),
    ("dense_backward_agrees_with_its_cpu_twin", backward_of_dense),
    ("conv_backward_agrees_with_its_cpu_twin", backward_of_convolutions),
    ("conv_gradient_adds_the_parts_in_order", gradient_of_convolutions),
    ("adam_agrees_with_its_cpu_twin", update),
];

/// A small batch whose rows do not fill a tile, and a large one, whose sums are cut otherwise.
const BATCHES: [usize; 2] = [5, 130];
const FIRST: Conv<28> = Conv { inputs: 1, outputs: 32 };
const SECOND: Conv<14> = Conv { inputs: 32, outputs: 64 };

fn image(bench: &Bench, sample: usize) -> Vec<f32> {
    let grey = grey::<f32>();
    let index = bench.order[sample] as usize;
    bench.digits.images[index * PIXELS..][..PIXELS].iter().map(|&level| grey[usize::from(level)]).collect()
}

/// At most so many of a million winners may differ: near-ties that rounding decides.
fn assert_winners(precision: Precision, got: &[u8], want: &[u8]) {
    let differ = got.iter().zip(want).filter(|(a, b)| a != b).count();
    let allowed = match precision {
        Precision::Fp32 => 30,
        Precision::Tf32 => 2000,
        Precision::Bf16 => 10_000,
    };
    assert!(differ * 1_000_000 <= allowed * want.len(), "{differ} of {} winners differ", want.len());
}

fn forward_of_convolutions(precision: Precision) {
    for batch in BATCHES {
        let bench = Bench::new(precision, batch as u32, 0);
        bench.run(&bench.network.forward(&bench.data, false)[0]);
        let network = &bench.network;
        let pooled1 = planes(&bench.read(&network.pooled1, batch * POOLED1), 196, 32);
        let winner1 = planes(&bench.bytes(&network.winner1, batch * POOLED1), 196, 32);
        let pooled2 = planes(&bench.read(&network.pooled2, batch * POOLED2), 49, 64);
        let winner2 = planes(&bench.bytes(&network.winner2, batch * POOLED2), 49, 64);
        let [w0, b0, w3, b3, ..] = views(&bench.parameters);
        let w3 = planes(w3, 9, 32);
        let mut columns = vec![0.0; SECOND.columns()];
        let mut plane = vec![0.0; 32 * PIXELS];
        let (mut want1, mut win1) = (vec![0.0; batch * POOLED1], vec![0; batch * POOLED1]);
        let (mut want2, mut win2) = (vec![0.0; batch * POOLED2], vec![0; batch * POOLED2]);
        for s in 0..batch {
            let (range1, range2) = (s * POOLED1..(s + 1) * POOLED1, s * POOLED2..(s + 1) * POOLED2);
            conv_forward(FIRST, &image(&bench, s), w0, b0, &mut columns[..FIRST.columns()], &mut plane);
            relu_pool_forward(28, &plane, &mut want1[range1.clone()], &mut win1[range1.clone()]);
            let plane = &mut plane[..64 * 196];
            conv_forward(SECOND, &want1[range1], &w3, b3, &mut columns, plane);
            relu_pool_forward(14, plane, &mut want2[range2.clone()], &mut win2[range2]);
        }
        assert_close(precision, "pooled1", &pooled1, &want1);
        assert_close(precision, "pooled2", &pooled2, &want2);
        assert_winners(precision, &winner1, &win1);
        assert_winners(precision, &winner2, &win2);
    }
}

fn forward_of_dense(precision: Precision) {
    for batch in BATCHES {
        let mut bench = Bench::new(precision, batch as u32, 0);
        let input = bench.operands(|n| &mut n.pooled2, batch * POOLED2);
        bench.run(&bench.network.forward(&bench.data, false)[1]);
        let [_, _, _, _, w7, ..] = views(&bench.parameters);
        let mut want = vec![0.0; batch * HIDDEN];
        linear_forward(batch, &input, w7, &[0.0; HIDDEN], &mut want);
        let rows = batch.next_multiple_of(64);
        let partial = bench.read(&bench.network.partial, usize::MAX);
        let mut got = vec![0.0; batch * HIDDEN];
        for split in partial.chunks_exact(rows * HIDDEN) {
            got.iter_mut().zip(split).for_each(|(sum, x)| *sum += x);
        }
        assert_close(precision, "product", &got, &want);
    }
}

fn head(precision: Precision) {
    // The last batch of 200 samples is not full.
    for (batch, place) in [(5usize, 0), (130, 1)] {
        let count = batch.min(200 - place * batch);
        let mut bench = Bench::new(precision, batch as u32, place as u32);
        let rows = batch.next_multiple_of(64);
        let splits = bench.read(&bench.network.partial, usize::MAX).len() / rows / HIDDEN;
        let partial: Vec<f32> = bench.noise.floats(splits * rows * HIDDEN);
        bench.write(|n| &mut n.partial, &partial);
        bench.run(&bench.network.forward(&bench.data, true)[2]);

        let [.., b7, w9, b9] = views(&bench.parameters);
        let mut hidden: Vec<f32> = (0..count).flat_map(|_| b7.to_vec()).collect();
        for split in partial.chunks_exact(rows * HIDDEN) {
            hidden.iter_mut().zip(split).for_each(|(sum, x)| *sum += x);
        }
        relu(&mut hidden);
        let mut logits = vec![0.0; count * CLASSES];
        linear_forward(count, &hidden, w9, b9, &mut logits);
        let samples = &bench.order[place * batch..][..count];
        let labels: Vec<u8> = samples.iter().map(|&s| bench.digits.labels[s as usize]).collect();
        let top = |row: &[f32]| convoke_trainer::device::cpu::argmax(row);
        let hits =
            logits.chunks_exact(CLASSES).zip(&labels).filter(|(row, l)| top(row) == usize::from(**l)).count();
        let loss = cross_entropy(&mut logits, &labels);
        let (mut g9, mut gb9) = (vec![0.0; w9.len()], vec![0.0; CLASSES]);
        let mut hidden_grad = vec![0.0; count * HIDDEN];
        linear_backward(count, &hidden, w9, &logits, &mut g9, &mut gb9, &mut hidden_grad);
        relu_backward(&hidden, &mut hidden_grad);

        let network = &bench.network;
        // Everything but the gradient by the hidden layer is computed in 32 bits.
        assert_close(Precision::Fp32, "hidden", &bench.read(&network.hidden, count * HIDDEN), &hidden);
        let got = bench.read(&network.logits_grad, rows * CLASSES);
        assert_close(Precision::Fp32, "logits", &got[..count * CLASSES], &logits);
        assert!(got[count * CLASSES..].iter().all(|&x| x == 0.0), "rows beyond the batch weigh nothing");
        let got = bench.read(&network.hidden_grad, rows * HIDDEN);
        assert_close(precision, "hidden_grad", &got[..count * HIDDEN], &hidden_grad);
        assert!(got[count * HIDDEN..].iter().all(|&x| x == 0.0), "rows beyond the batch weigh nothing");
        let got: f32 = bench.read(&network.losses, rows).iter().sum();
        assert_close(Precision::Fp32, "loss", &[got], &[loss]);
        let correct = bench.bytes(&network.correct, 4);
        assert_eq!(u32::from_le_bytes(correct.try_into().unwrap()) as usize, hits);
    }
}

fn backward_of_dense(precision: Precision) {
    for batch in BATCHES {
        let mut bench = Bench::new(precision, batch as u32, 0);
        let rows = batch.next_multiple_of(64);
        // Rows beyond the batch have activations, and no gradient.
        let input = bench.operands(|n| &mut n.pooled2, rows * POOLED2);
        let hidden = bench.noise.floats(rows * HIDDEN);
        bench.write(|n| &mut n.hidden, &hidden);
        let grad = bench.operands(|n| &mut n.hidden_grad, batch * HIDDEN);
        let logits = bench.noise.floats(batch * CLASSES);
        bench.write(|n| &mut n.logits_grad, &logits);
        let losses = bench.noise.floats(batch);
        bench.write(|n| &mut n.losses, &losses);
        bench.post.stop[0].store(1, std::sync::atomic::Ordering::SeqCst);
        bench.run(&bench.network.dense_backward(&bench.data, &bench.post));

        let [.., w7, _, w9, _] = views(&bench.parameters);
        let (input, hidden) = (&input[..batch * POOLED2], &hidden[..batch * HIDDEN]);
        let zeros = |len: usize| vec![0.0; len];
        let (mut g9, mut gb9, mut unused) = (zeros(w9.len()), zeros(CLASSES), zeros(batch * HIDDEN));
        linear_backward(batch, hidden, w9, &logits, &mut g9, &mut gb9, &mut unused);
        let (mut g7, mut gb7, mut input_grad) = (zeros(w7.len()), zeros(HIDDEN), zeros(batch * POOLED2));
        linear_backward(batch, input, w7, &grad, &mut g7, &mut gb7, &mut input_grad);
        let gradient = bench.read(&bench.network.gradient, PARAMETERS + 2);
        let [.., got7, got_b7, got9, got_b9] = views(&gradient[..PARAMETERS]);
        assert_close(precision, "7.weight", got7, &g7);
        assert_close(Precision::Fp32, "7.bias", got_b7, &gb7);
        assert_close(Precision::Fp32, "9.weight", got9, &g9);
        assert_close(Precision::Fp32, "9.bias", got_b9, &gb9);
        assert_close(Precision::Fp32, "loss", &gradient[PARAMETERS..=PARAMETERS], &[losses.iter().sum()]);
        assert_eq!(gradient[PARAMETERS + 1], 1.0, "the wish to stop");
        let got = bench.read(&bench.network.pooled2_grad, batch * POOLED2);
        assert_close(precision, "pooled2_grad", &got, &input_grad);
    }
}

fn backward_of_convolutions(precision: Precision) {
    for batch in BATCHES {
        let mut bench = Bench::new(precision, batch as u32, 0);
        let input = bench.operands(|n| &mut n.pooled1, batch * POOLED1);
        let grad = bench.operands(|n| &mut n.pooled2_grad, batch * POOLED2);
        let (winner1, winner2) =
            (bench.noise.bytes(batch * POOLED1, 5), bench.noise.bytes(batch * POOLED2, 5));
        let stream = bench.network.gpu.stream.clone();
        bench.network.winner1.write(&stream, &winner1).unwrap();
        bench.network.winner2.write(&stream, &winner2).unwrap();
        bench.run(&bench.network.conv_backward(&bench.data));
        bench.run(&bench.network.conv_gradient());

        let (input, winner1) = (planes(&input, 196, 32), planes(&winner1, 196, 32));
        let (grad, winner2) = (planes(&grad, 49, 64), planes(&winner2, 49, 64));
        let [_, _, w3, ..] = views(&bench.parameters);
        let w3 = planes(w3, 9, 32);
        let zeros = |len: usize| vec![0.0; len];
        let (mut g0, mut gb0, mut g3, mut gb3) = (zeros(288), zeros(32), zeros(w3.len()), zeros(64));
        let (mut columns, mut plane, mut input_grad) =
            (zeros(SECOND.columns()), zeros(32 * PIXELS), zeros(POOLED1));
        for s in 0..batch {
            let (range1, range2) = (s * POOLED1..(s + 1) * POOLED1, s * POOLED2..(s + 1) * POOLED2);
            let second = &mut plane[..64 * 196];
            relu_pool_backward(14, &grad[range2.clone()], &winner2[range2], second);
            let input = &input[range1.clone()];
            conv_backward(SECOND, input, &w3, second, &mut columns, &mut g3, &mut gb3, Some(&mut input_grad));
            relu_pool_backward(28, &input_grad, &winner1[range1], &mut plane);
            let columns = &mut columns[..FIRST.columns()];
            conv_backward(FIRST, &image(&bench, s), &[], &plane, columns, &mut g0, &mut gb0, None);
        }
        let gradient = bench.read(&bench.network.gradient, PARAMETERS);
        let [got0, got_b0, got3, got_b3, ..] = views(&gradient);
        assert_close(precision, "0.weight", got0, &g0);
        assert_close(precision, "0.bias", got_b0, &gb0);
        assert_close(precision, "3.weight", &planes(got3, 9, 32), &g3);
        assert_close(Precision::Fp32, "3.bias", got_b3, &gb3);
    }
}

fn gradient_of_convolutions(precision: Precision) {
    let mut bench = Bench::new(precision, 130, 0);
    let (first, second) = (bench.noise.floats(64 * 320), bench.noise.floats(32 * 18_496));
    bench.write(|n| &mut n.partial0, &first);
    bench.write(|n| &mut n.partial3, &second);
    bench.run(&bench.network.conv_gradient());
    let sum = |parts: &[f32], len| {
        parts.chunks_exact(len).fold(vec![0.0f32; len], |mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            sum
        })
    };
    let want = [sum(&first, 320), sum(&second, 18_496)].concat();
    assert!(bench.read(&bench.network.gradient, 18_816) == want, "not the same bits");
}

fn update(precision: Precision) {
    let mut bench = Bench::new(precision, 5, 0);
    let mut parameters = bench.parameters.clone();
    let (mut first, mut second) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
    for step in 1..=3 {
        let gradient = bench.noise.floats(PARAMETERS + 2);
        let gradient = [&gradient[..=PARAMETERS], &[0.0]].concat();
        // Prepares the corrections of the step; its gradient is overwritten.
        bench.run(&bench.network.dense_backward(&bench.data, &bench.post));
        bench.write(|n| &mut n.gradient, &gradient);
        bench.run(&bench.network.adam(&bench.data, &bench.post, 2, true));
        let halved: Vec<f32> = gradient[..PARAMETERS].iter().map(|g| g * 0.5).collect();
        adam(Adam::default(), step, &mut parameters, &halved, &mut first, &mut second);
        let loss =
            f32::from_bits(bench.post.losses[step as usize - 1].load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(loss, gradient[PARAMETERS] * 0.5);
        assert_eq!(u64::from(bench.post.posted[1].load(std::sync::atomic::Ordering::SeqCst)), step);
    }
    let network = &bench.network;
    assert_close(Precision::Fp32, "exp_avg", &bench.read(&network.first, PARAMETERS), &first);
    assert_close(Precision::Fp32, "exp_avg_sq", &bench.read(&network.second, PARAMETERS), &second);
    let moved = |after: &[f32]| after.iter().zip(&bench.parameters).map(|(a, b)| a - b).collect::<Vec<_>>();
    // A parameter moves by a hundredth of itself: what is left of its bits is compared.
    assert_close(
        Precision::Tf32,
        "update",
        &moved(&bench.read(&network.parameters, PARAMETERS)),
        &moved(&parameters),
    );
    assert_close(Precision::Fp32, "parameters", &bench.read(&network.parameters, PARAMETERS), &parameters);
}
