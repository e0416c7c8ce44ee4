//! Times the accounting of 10^4 rounds of DP-SGD, for a comparison with another accountant (see
//! `docs/accounting.md`).
#![allow(clippy::print_stdout, reason = "it is what the example is for")]

use std::time::Instant;

use noised::accounting::{Composition, PoissonGaussian};

fn main() -> noised::Result<()> {
    for (sampling_probability, noise_multiplier) in [(0.01, 1.0), (0.001, 0.8), (0.02, 2.0)] {
        let round = PoissonGaussian { sampling_probability, noise_multiplier };
        let started = Instant::now();
        let found = Composition::new().with(round, 10_000)?.epsilon(1e-5, &|| false)?;
        let took = 1e3 * started.elapsed().as_secs_f64();
        let epsilon = found.value;
        println!(
            "q {sampling_probability}, noise multiplier {noise_multiplier}: epsilon {epsilon:.6} in {took:.1} ms"
        );
    }
    Ok(())
}
