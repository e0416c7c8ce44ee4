//! The matrices that are measured, as everyone measured knows them.

use noised::MatrixSpec;
use noised::matrix::strategy;

/// Rows of the column-normalised matrix: more steps than any run takes.
const COLUMNS: usize = 20_000;

/// A matrix and what it is called in reports.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) matrix: MatrixSpec,
}

impl Case {
    fn new(name: impl Into<String>, matrix: MatrixSpec) -> Self {
        Self { name: name.into(), matrix }
    }
}

/// The inverse of a BLT with this many buffers.
pub(crate) fn blt_inverse(buffers: u32) -> MatrixSpec {
    let decay = |k| 1.0 - 0.5_f64.powi(k as i32 + 1);
    let buf_decay: Vec<f64> = (0..buffers).map(decay).collect();
    let output_scale = (0..buffers).map(|k| 0.2 / f64::from(k + 1)).collect();
    MatrixSpec::BufferedToeplitz { buf_decay, output_scale }.inverse()
}

/// The noising matrix of the banded inverse square root: a banded Toeplitz matrix.
pub(crate) fn replayable(bands: usize) -> anyhow::Result<MatrixSpec> {
    Ok(strategy::banded_inverse_square_root(bands, None)?.inverse())
}

fn toeplitz_inverse(bands: usize) -> anyhow::Result<MatrixSpec> {
    Ok(strategy::banded_square_root(bands, None)?.inverse())
}

/// Every matrix that a figure is promised for.
pub(crate) fn all() -> anyhow::Result<Vec<Case>> {
    let mut cases = vec![
        Case::new("prefix sum", MatrixSpec::PrefixSum),
        Case::new("momentum", MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None }),
    ];
    for buffers in [2, 4, 8] {
        cases.push(Case::new(format!("BLT inverse, {buffers} buffers"), blt_inverse(buffers)));
    }
    for bands in [4, 8, 16, 32] {
        cases.push(Case::new(format!("Toeplitz inverse, {bands} bands"), toeplitz_inverse(bands)?));
    }
    let normalized = strategy::column_normalized_banded(COLUMNS, 8)?.inverse();
    cases.push(Case::new("column-normalised banded inverse, 8 bands", normalized));
    let fused = MatrixSpec::Product { factors: vec![MatrixSpec::PrefixSum, blt_inverse(4)] };
    cases.push(Case::new("prefix sum x BLT inverse, 4 buffers", fused));
    Ok(cases)
}
