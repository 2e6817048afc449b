//! Fourier transforms, whole and of frames.

use tract_core::ops::fft::{Fft, Stft};

use super::*;

#[test]
fn transforms() {
    for inverse in [false, true] {
        for (axis, shape) in [(1, &[2, 6, 3, 2][..]), (0, &[5, 2]), (2, &[1, 3, 7, 2])] {
            check("fft", &[shape], &|m, x| wire(m, Fft { axis, inverse }, x));
        }
    }
}

#[test]
fn frames() {
    let windows = [None, Some(tensor1(&[0.2f32, 0.9, 0.4, 0.7])), Some(tensor1(&[0.5f32, 0.8]))];
    for window in windows.map(|w| w.map(Tensor::into_arc_tensor)) {
        // Frames that overlap, that lie apart, and an end that is not read.
        for (stride, length) in [(2, 10), (1, 6), (5, 12)] {
            let op = Stft { axis: 1, frame: 4, stride, window: window.clone() };
            check("stft", &[&[2, length, 2]], &|m, x| wire(m, op.clone(), x));
        }
    }
}
