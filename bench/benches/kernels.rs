//! One step of each recurrence in place, by size and format, on the threads of the machine.
//!
//! ```sh
//! cargo bench -p noised-bench
//! cargo bench -p noised-bench -- blt_inverse_4
//! ```
//!
//! Throughput is in the bytes that a step must move: state read, state written, input, output.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use noised::matrix::strategy;
use noised::tree::TreeValues;
use noised::{DType, MatrixSpec, Precision, StreamingMatrix, Tree, analysis};

/// Fits a core's cache, the machine's, and neither.
const LANES: [usize; 3] = [10_000, 1_000_000, 10_000_000];

fn blt(buffers: u32) -> MatrixSpec {
    let buf_decay = (0..buffers).map(|k| 1.0 - 0.5_f64.powi(k as i32 + 1)).collect();
    let output_scale = (0..buffers).map(|k| 0.2 / f64::from(k + 1)).collect();
    MatrixSpec::BufferedToeplitz { buf_decay, output_scale }
}

fn matrices() -> Vec<(&'static str, MatrixSpec)> {
    let banded = |bands| strategy::banded_square_root(bands, None).unwrap();
    vec![
        ("prefix_sum", MatrixSpec::PrefixSum),
        ("momentum", MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None }),
        ("blt_4", blt(4)),
        ("blt_inverse_2", blt(2).inverse()),
        ("blt_inverse_4", blt(4).inverse()),
        ("blt_inverse_8", blt(8).inverse()),
        ("toeplitz_8", banded(8)),
        ("toeplitz_inverse_4", banded(4).inverse()),
        ("toeplitz_inverse_8", banded(8).inverse()),
        ("toeplitz_inverse_16", banded(16).inverse()),
        ("toeplitz_inverse_32", banded(32).inverse()),
        (
            "prefix_sum_blt_inverse_4",
            MatrixSpec::Product { factors: vec![MatrixSpec::PrefixSum, blt(4).inverse()] },
        ),
    ]
}

/// Steps of a tree that is written again before each of them.
fn bench(
    c: &mut Criterion,
    group: &str,
    matrix: &MatrixSpec,
    lanes: usize,
    dtype: DType,
    precision: Precision,
) {
    let tree = Tree::flat(lanes as u64, dtype).unwrap();
    let described = analysis::describe(matrix, Some((&tree, noised::Shard::WHOLE)), Some(precision)).unwrap();
    let matrix = StreamingMatrix::new(matrix.clone()).unwrap();
    let mut state = matrix.init_multiply(&tree, precision).unwrap();
    let mut input = TreeValues::zeros(tree);
    input
        .as_bytes_mut()
        .iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = if i % 2 == 1 { 0x3c } else { 0x11 });
    let mut values = input.clone();
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(described.tree.unwrap().moved_bytes_per_step));
    group.bench_function(BenchmarkId::from_parameter(lanes), |bencher| {
        bencher.iter_custom(|count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                values.as_bytes_mut().copy_from_slice(input.as_bytes());
                let start = Instant::now();
                matrix.multiply_next_in_place(black_box(&mut values), &mut state).unwrap();
                total += start.elapsed();
            }
            total
        });
    });
}

fn recurrences(c: &mut Criterion) {
    for (name, matrix) in matrices() {
        for lanes in LANES {
            bench(c, name, &matrix, lanes, DType::F32, Precision::F32);
        }
    }
}

fn formats(c: &mut Criterion) {
    for dtype in DType::ALL {
        for precision in [Precision::F32, Precision::F64] {
            let name = format!("blt_inverse_4/{dtype}_in_{precision}");
            bench(c, &name, &blt(4).inverse(), 1_000_000, dtype, precision);
        }
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_secs(1))
}

criterion_group! { name = kernels; config = short(); targets = recurrences, formats }
criterion_main!(kernels);
