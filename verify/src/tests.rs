//! Sound sources pass, and every check has a fault that it finds.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use noised::{DType, MatrixSpec, Precision, StreamingMatrix, Tree, tree::TreeValues};
use rand_distr::{Distribution, StandardNormal};

use super::*;

const LANES: usize = 100_000;
const STEPS: usize = 10;
const STDDEV: f64 = 0.5;

fn normals(seed: u64, step: u64, lanes: usize) -> Vec<f64> {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    stream.set_stream(step);
    (0..lanes).map(|_| StandardNormal.sample(&mut stream)).collect()
}

/// `stddev * A z`, computed and released in f32.
fn released(matrix: &MatrixSpec, steps: &[Vec<f64>]) -> Vec<Vec<f32>> {
    let lanes = steps[0].len();
    let matrix = StreamingMatrix::new(matrix.clone()).unwrap();
    let tree = Tree::flat(lanes as u64, DType::F32).unwrap();
    let mut state = matrix.init_multiply(&tree, Precision::F32).unwrap();
    let release = |z: &Vec<f64>| {
        let mut bytes = Vec::with_capacity(4 * lanes);
        z.iter().for_each(|z| bytes.extend(((z * STDDEV) as f32).to_le_bytes()));
        let mut slice = TreeValues::from_bytes(tree.clone(), bytes).unwrap();
        matrix.multiply_next_in_place(&mut slice, &mut state).unwrap();
        let (numbers, _) = slice.as_bytes().as_chunks::<4>();
        numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
    };
    steps.iter().map(release).collect()
}

fn sound(seed: u64) -> Vec<Vec<f64>> {
    (0..STEPS as u64).map(|step| normals(seed, step, LANES)).collect()
}

fn verify<T: Copy + Into<f64>>(matrix: &MatrixSpec, slices: &[Vec<T>]) -> Report {
    let mut verifier = Verifier::new(matrix, STDDEV, slices[0].len(), VerifyOptions::default()).unwrap();
    for slice in slices {
        verifier.step(slice).unwrap();
    }
    verifier.finish().unwrap()
}

fn failures(report: &Report) -> Vec<&str> {
    report.failures().map(|check| check.name.as_str()).collect()
}

/// A source of independent noise with a fault is caught by the check named, and by no other but those listed.
fn caught(fault: impl FnOnce(&mut Vec<Vec<f64>>), by: &str, besides: &[&str]) {
    let mut steps = sound(1);
    fault(&mut steps);
    steps.iter_mut().flatten().for_each(|z| *z *= STDDEV);
    let report = verify(&MatrixSpec::Identity, &steps);
    let found = failures(&report);
    assert!(found.contains(&by), "{by} missed it: {report:#?}");
    for name in found {
        assert!(name == by || besides.contains(&name), "{by}: {name} {report:#?}");
    }
}

fn change_each(steps: &mut [Vec<f64>], change: impl Fn(f64) -> f64) {
    steps.iter_mut().flatten().for_each(|z| *z = change(*z));
}

#[test]
fn sound_sources_pass() {
    let blt = MatrixSpec::BufferedToeplitz { buf_decay: vec![0.9, 0.5], output_scale: vec![0.1, 0.2] };
    let toeplitz = MatrixSpec::Toeplitz { coef: vec![1.0, 0.5, 0.375], column_normalize_for_n: None };
    let dense = (0..STEPS).map(|i| (0..=i).map(|j| 1.0 / (1 + i + j) as f64).collect()).collect();
    let matrices = [
        MatrixSpec::Identity,
        MatrixSpec::PrefixSum,
        blt.inverse(),
        toeplitz.clone(),
        toeplitz.inverse(),
        MatrixSpec::Dense { rows: dense },
        MatrixSpec::Diagonal { diag: vec![1.0, 0.1, 30.0] },
        MatrixSpec::Product { factors: vec![MatrixSpec::PrefixSum, MatrixSpec::PrefixSum] },
    ];
    for (seed, matrix) in (10..).zip(&matrices) {
        let report = verify(matrix, &released(matrix, &sound(seed)));
        assert!(report.passed(), "{matrix:?}: {report:#?}");
        assert_eq!(report.checks.len(), 30, "{report:#?}");
    }
}

#[test]
fn p_values_are_spread_evenly() {
    // Of sound sources, a p-value is below 1/10 one time in ten: neither more, which would fail them, nor
    // less, which would find nothing. Those of rules, of counts near 0 and of lower bounds aside.
    let conservative = ["released zeros", "Kolmogorov-Smirnov", "beyond 5 sigma", "beyond 6 sigma"];
    let (mut low, mut all) = (0, 0);
    for seed in 0..60 {
        let steps: Vec<Vec<f64>> = (0..4).map(|step| normals(1000 + seed, step, 5_000)).collect();
        let mut verifier =
            Verifier::new(&MatrixSpec::Identity, 1.0, 5_000, VerifyOptions::default()).unwrap();
        steps.iter().for_each(|step| verifier.step(step).unwrap());
        for check in verifier.finish().unwrap().checks {
            if let Some(p) = check.p_value.filter(|_| !conservative.contains(&check.name.as_str())) {
                low += u32::from(p < 0.1);
                all += 1;
            }
        }
    }
    let rate = f64::from(low) / f64::from(all);
    assert!(all > 1000 && (0.07..0.13).contains(&rate), "{low} of {all}");
}

#[test]
fn small_noise_on_large_passes() {
    // In f32, values near 10^5 are two cells apart.
    let matrix = MatrixSpec::Dense { rows: vec![vec![1e5], vec![1e5, 1.0]] };
    let steps = &sound(30)[..2];
    let report = verify(&matrix, &released(&matrix, steps));
    assert!(report.passed(), "{report:#?}");
    // The inverse has second differences.
    let rows = vec![vec![1e5], vec![2e5, 1.0], vec![3e5, 2.0, 1.0]];
    let matrix = MatrixSpec::Dense { rows };
    let report = verify(&matrix, &released(&matrix, &sound(31)[..3]));
    assert!(report.passed(), "{report:#?}");
}

#[test]
fn few_lanes_and_many_steps_pass() {
    let matrix = MatrixSpec::PrefixSum;
    let steps: Vec<Vec<f64>> = (0..3000).map(|step| normals(5, step, 40)).collect();
    let report = verify(&matrix, &released(&matrix, &steps));
    assert!(report.passed(), "{report:#?}");
    assert!(report.checks.iter().all(|check| check.name != "covariance"), "too few for it");
}

#[test]
fn an_offset() {
    caught(|steps| change_each(steps, |z| z + 0.01), "mean", &["Kolmogorov-Smirnov"]);
}

#[test]
fn a_wrong_scale() {
    caught(|steps| change_each(steps, |z| z * 1.005), "variance", &["covariance", "beyond 3 sigma"]);
    let slices = released(&MatrixSpec::PrefixSum, &sound(2));
    let slices: Vec<Vec<f32>> = slices.iter().map(|y| y.iter().map(|y| y * 0.995).collect()).collect();
    assert!(failures(&verify(&MatrixSpec::PrefixSum, &slices)).contains(&"variance"));
}

#[test]
fn a_lopsided_law() {
    // Of the right mean and, to 2e-4, variance.
    let besides =
        ["Kolmogorov-Smirnov", "chi-square", "beyond 3 sigma", "beyond 4 sigma", "kurtosis", "mean"];
    caught(|steps| change_each(steps, |z| z + 0.01 * (z * z - 1.0)), "skewness", &besides);
}

#[test]
fn heavy_tails() {
    // A mixture of two scales with the variance 1.
    let mixture = |steps: &mut Vec<Vec<f64>>| {
        for (i, z) in steps.iter_mut().flatten().enumerate() {
            *z *= if i % 2 == 0 { 1.1_f64.sqrt() } else { 0.9_f64.sqrt() };
        }
    };
    let besides = [
        "chi-square",
        "Kolmogorov-Smirnov",
        "beyond 3 sigma",
        "beyond 4 sigma",
        "covariance",
        "covariance entry",
    ];
    caught(mixture, "kurtosis", &besides);
}

#[test]
fn tails_cut_off() {
    let besides = ["beyond 4 sigma", "largest", "kurtosis", "chi-square"];
    let clip = |steps: &mut Vec<Vec<f64>>| change_each(steps, |z| z.clamp(-3.5, 3.5));
    caught(clip, "beyond 4 sigma", &besides);
    caught(clip, "largest", &besides);
    let besides = ["beyond 3 sigma", "beyond 4 sigma", "largest", "kurtosis", "chi-square", "variance"];
    let besides = [&besides[..], &["covariance", "covariance entry"]].concat();
    caught(|steps| change_each(steps, |z| z.clamp(-2.9, 2.9)), "beyond 3 sigma", &besides);
}

#[test]
fn outliers() {
    let besides = ["kurtosis", "beyond 5 sigma", "beyond 6 sigma", "largest", "skewness"];
    caught(|steps| steps[3][77] = 9.0, "largest", &besides);
    let several = |steps: &mut Vec<Vec<f64>>| (0..8).for_each(|i| steps[i][i * 1000 + 9] = 5.3);
    caught(several, "beyond 5 sigma", &besides);
    let several = |steps: &mut Vec<Vec<f64>>| (0..4).for_each(|i| steps[i][i * 1000 + 9] = -6.1);
    caught(several, "beyond 6 sigma", &besides);
}

#[test]
fn coarse_rounding() {
    let bf16 = |z: f64| f64::from(half::bf16::from_f64(z));
    caught(|steps| change_each(steps, bf16), "chi-square", &["Kolmogorov-Smirnov", "released zeros"]);
    // A source with 10 random bits.
    let coarse = |z: f64| ((z * 256.0).floor() + 0.5) / 256.0;
    caught(|steps| change_each(steps, coarse), "chi-square", &["Kolmogorov-Smirnov"]);
}

#[test]
fn a_hole_in_the_density() {
    // One value in twenty of those near 0 has moved: no moment notices.
    let moved = |steps: &mut Vec<Vec<f64>>| {
        let near = steps.iter_mut().flatten().filter(|z| z.abs() < 0.1);
        near.step_by(20).for_each(|z| *z += 0.15_f64.copysign(*z));
    };
    caught(moved, "chi-square", &["Kolmogorov-Smirnov"]);
}

#[test]
fn a_smooth_error_of_the_density() {
    let besides = ["chi-square", "kurtosis", "variance", "covariance", "beyond 3 sigma", "skewness", "mean"];
    let smooth = |z: f64| z + 0.012 * (2.0 * z).cos();
    caught(|steps| change_each(steps, smooth), "Kolmogorov-Smirnov", &besides);
}

#[test]
fn zeros() {
    let atoms = |steps: &mut Vec<Vec<f64>>| steps.iter_mut().flatten().step_by(20_011).for_each(|z| *z = 0.0);
    caught(atoms, "released zeros", &[]);
    let mut found = Univariate::new();
    found.add(&normals(1, 0, 10_000));
    found.add(&[0.0_f32; 5]);
    assert_eq!(failures(&Report::judge(found.findings(Some(1e-8)), 1e-6)), ["zeros"]);
    // Lanes that were never written, of correlated noise: whitened, they are no zeros but in the first step.
    let mut slices = released(&MatrixSpec::PrefixSum, &sound(3));
    slices.iter_mut().flatten().step_by(20_011).for_each(|y| *y = 0.0);
    assert!(failures(&verify(&MatrixSpec::PrefixSum, &slices)).contains(&"released zeros"));
    // All zero is caught by almost everything.
    let nothing = vec![vec![0.0_f32; 2000]; 10];
    assert!(failures(&verify(&MatrixSpec::PrefixSum, &nothing)).len() > 20);
}

#[test]
fn values_that_are_not_finite() {
    caught(|steps| steps[4][99] = f64::NAN, "released not finite", &[]);
    caught(|steps| steps[4][99] = f64::NEG_INFINITY, "released not finite", &[]);
    let mut found = Univariate::new();
    found.add(&normals(1, 0, 10_000));
    found.add(&[f32::NAN]);
    assert_eq!(failures(&Report::judge(found.findings(None), 1e-6)), ["not finite"]);
}

#[test]
fn lanes_repeated() {
    let repeat = |lag: usize| {
        move |steps: &mut Vec<Vec<f64>>| {
            for step in steps {
                let (earlier, later) = step.split_at_mut(lag);
                let runs = later.len() / (2 * lag);
                // Runs of lanes, some of them twice.
                earlier.copy_from_slice(&later[..lag]);
                for run in 0..runs {
                    later.copy_within(2 * run * lag..(2 * run + 1) * lag, (2 * run + 1) * lag);
                }
            }
        }
    };
    let others = ["lanes 2 apart", "lanes 16 apart", "lanes 32 apart", "lanes 1024 apart", "chi-square"];
    let moments = ["mean", "variance", "kurtosis", "Kolmogorov-Smirnov", "skewness"];
    for lag in [1, 2, 16, 32, 1024] {
        caught(repeat(lag), &format!("lanes {lag} apart"), &[&others[..], &moments].concat());
    }
}

#[test]
fn steps_repeated() {
    for apart in 1..=8 {
        let repeat = |steps: &mut Vec<Vec<f64>>| steps[apart] = steps[0].clone();
        let besides = ["covariance", "covariance entry", "chi-square", "Kolmogorov-Smirnov"];
        caught(repeat, &format!("steps {apart} apart"), &besides);
    }
}

#[test]
fn no_covariance_where_there_should_be_one() {
    let matrix = MatrixSpec::PrefixSum;
    // Each step has the variance that it should have, and knows nothing of the others.
    let independent = |(step, z): (usize, Vec<f64>)| -> Vec<f64> {
        z.into_iter().map(|z| z * STDDEV * ((step + 1) as f64).sqrt()).collect()
    };
    let slices: Vec<Vec<f64>> = sound(4).into_iter().enumerate().map(independent).collect();
    let report = verify(&matrix, &slices);
    let found = failures(&report);
    assert!(found.contains(&"covariance") && found.contains(&"covariance entry"), "{report:#?}");
    assert!(found.contains(&"variance") && found.contains(&"steps 1 apart"), "{report:#?}");
    // As released, each step by itself is right.
    for (step, slice) in slices.iter().enumerate() {
        let diag = vec![((step + 1) as f64).sqrt()];
        assert!(verify(&MatrixSpec::Diagonal { diag }, std::slice::from_ref(slice)).passed());
    }
}

#[test]
fn one_entry_of_the_covariance() {
    // Two steps that have 3% in common: nothing in the sum of 55 squares that would say where.
    let share = |steps: &mut Vec<Vec<f64>>| {
        let (early, late) = steps.split_at_mut(9);
        late[0].iter_mut().zip(&early[0]).for_each(|(late, early)| *late = (*late + 0.03 * early) / 1.000_45);
    };
    caught(share, "covariance entry", &["covariance"]);
}

#[test]
fn a_covariance_wrong_all_over() {
    // A matrix near the right one.
    let coef = |c: f64| MatrixSpec::Toeplitz { coef: vec![1.0, c], column_normalize_for_n: None };
    let report = verify(&coef(0.52), &released(&coef(0.5), &sound(6)));
    assert!(failures(&report).contains(&"covariance"), "{report:#?}");
}

#[test]
fn a_matrix_without_an_inverse() {
    let shift = MatrixSpec::Dense { rows: vec![vec![0.0], vec![1.0, 0.0], vec![1.0, 1.0, 0.0]] };
    // Every step is the sum of the earlier ones' inputs.
    let z = [normals(7, 0, LANES), normals(7, 1, LANES)];
    let scaled = |z: &[f64]| -> Vec<f64> { z.iter().map(|z| z * STDDEV).collect() };
    let sums: Vec<f64> = z[0].iter().zip(&z[1]).map(|(a, b)| (a + b) * STDDEV).collect();
    let slices = [vec![0.0; LANES], scaled(&z[0]), sums.clone()];
    let report = verify(&shift, &slices);
    assert!(report.passed(), "{report:#?}");
    let names: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["released not finite", "lanes of the covariance", "covariance entry"]);
    let unrelated: Vec<f64> = normals(8, 0, LANES).iter().map(|z| z * STDDEV * 2.0_f64.sqrt()).collect();
    let wrong = [vec![0.0; LANES], scaled(&z[0]), unrelated];
    assert_eq!(failures(&verify(&shift, &wrong)), ["covariance entry"]);
    let wrong = [vec![1e-9; LANES], scaled(&z[0]), sums];
    assert_eq!(failures(&verify(&shift, &wrong)), ["covariance entry"]);
    let few: Vec<Vec<f64>> = slices.iter().map(|slice| slice[..500].to_vec()).collect();
    assert_eq!(failures(&verify(&shift, &few)), ["lanes of the covariance"]);
}

#[test]
fn too_little_is_no_pass() {
    let report = verify(&MatrixSpec::Identity, &[vec![0.3_f32; 10]]);
    assert_eq!(failures(&report), ["values"]);
    let verifier = Verifier::new(&MatrixSpec::Identity, 1.0, 10, VerifyOptions::default()).unwrap();
    assert!(!verifier.finish().unwrap().passed());
}

#[test]
fn parts_are_merged() {
    let matrix = MatrixSpec::PrefixSum;
    let slices = released(&matrix, &sound(9));
    let part = |lanes: std::ops::Range<usize>| {
        let mut part = Verifier::new(&matrix, STDDEV, lanes.len(), VerifyOptions::default()).unwrap();
        slices.iter().for_each(|slice| part.step(&slice[lanes.clone()]).unwrap());
        part
    };
    let (mut merged, rest) = (part(0..30_000), part(30_000..LANES));
    merged.merge(&rest).unwrap();
    assert!(merged.step(&slices[0][..30_000]).is_err());
    let (merged, whole) = (merged.finish().unwrap(), verify(&matrix, &slices));
    assert!(merged.passed());
    for (a, b) in merged.checks.iter().zip(&whole.checks) {
        // But for the pairs of lanes across the cut.
        let close = (a.statistic - b.statistic).abs() <= 1e-3 * a.statistic.abs().max(0.1);
        assert!(a.name == b.name && close, "{a:?} {b:?}");
    }
    let fewer = Verifier::new(&matrix, STDDEV, 30_000, VerifyOptions::default()).unwrap();
    assert!(part(0..30_000).merge(&fewer).is_err());
}

#[test]
fn options_have_rules() {
    let refused = |options: VerifyOptions| {
        let noised::Error::Invalid { field, rule: _ } =
            Verifier::new(&MatrixSpec::Identity, 1.0, 5, options).unwrap_err()
        else {
            panic!("another error")
        };
        field
    };
    let base = VerifyOptions::default;
    assert_eq!(refused(VerifyOptions { level: 0.0, ..base() }), "level");
    assert_eq!(refused(VerifyOptions { level: f64::NAN, ..base() }), "level");
    assert_eq!(refused(VerifyOptions { lane_lags: vec![0], ..base() }), "lane_lags");
    assert_eq!(refused(VerifyOptions { step_lags: vec![65], ..base() }), "step_lags");
    assert_eq!(refused(VerifyOptions { covariance_steps: 65, ..base() }), "covariance_steps");
    assert_eq!(refused(VerifyOptions { zero_probability: 1.0, ..base() }), "zero_probability");
    assert!(Verifier::new(&MatrixSpec::Identity, 1.0, 0, base()).is_err());
}

#[test]
fn independent_streams() {
    let matrix = MatrixSpec::PrefixSum;
    let judge = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        let mut found = Independence::new(&matrix, STDDEV, LANES).unwrap();
        a.iter().zip(b).for_each(|(a, b)| found.add(a, b).unwrap());
        Report::judge(found.findings(), 1e-6)
    };
    let (z, other) = (sound(20), sound(21));
    let (a, b) = (released(&matrix, &z), released(&matrix, &other));
    assert!(judge(&a, &b).passed());
    assert_eq!(failures(&judge(&a, &a)), ["correlation", "equal bits"]);
    // A hundredth in common.
    let mixed: Vec<Vec<f64>> =
        z.iter().zip(&other).map(|(z, o)| z.iter().zip(o).map(|(z, o)| o + 0.01 * z).collect()).collect();
    assert_eq!(failures(&judge(&a, &released(&matrix, &mixed))), ["correlation"]);
    // Fifty values in common, which no correlation notices.
    let mut copied = b.clone();
    (0..50).for_each(|i| copied[9][i * 1999] = a[9][i * 1999]);
    assert_eq!(failures(&judge(&a, &copied)), ["equal bits"]);
    let mut found = Independence::new(&matrix, STDDEV, LANES).unwrap();
    assert!(found.add(&a[0], &b[0][1..]).is_err());
    assert_eq!(failures(&Report::judge(found.findings(), 1e-6)), ["pairs"]);
}

#[test]
fn reports_serialize() {
    let report = verify(&MatrixSpec::Identity, &[vec![0.3_f32; 10]]);
    let json = serde_json::to_value(&report).unwrap();
    let values = &json["checks"][2];
    assert_eq!((values["name"].as_str(), values["verdict"].as_str()), (Some("values"), Some("fail")));
    assert_eq!((values["statistic"].as_f64(), values["p_value"].is_null()), (Some(10.0), true));
}
