//! What a session is made for, and the fingerprint that binds it to that.

use std::fmt;

use super::range;
use super::source::{KeyOrigin, Noise, NoiseOptions, NoiseState, Source};
use crate::analysis::Growth;
use crate::analysis::growth::{growth, may_grow};
use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::limits::{
    BLOCK_LANES, LOOKAHEAD_BYTES, MAX_HORIZON, MAX_RELATIVE_ERROR, MAX_STEPS_A_PASS, TILE_LANES,
};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::{Layout, Leaf, Shard, ShardCut, Tree};

/// Everything that a session is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSpec {
    /// The matrix `A`.
    pub matrix: MatrixSpec,
    /// The tree that its steps are of.
    pub tree: Tree,
    /// The part of the tree that it holds.
    pub shard: Shard,
    /// Where its input comes from.
    pub source: Source,
    /// The format of state and arithmetic.
    pub precision: Precision,
    /// The number of steps it may ever produce; `None` for as many as the matrix has rows.
    pub horizon: Option<u64>,
}

impl SessionSpec {
    /// A session for a whole tree, with the client's input, the tree's default precision and the matrix's
    /// horizon.
    pub fn new(matrix: MatrixSpec, tree: Tree) -> Self {
        let precision = tree.default_precision();
        Self { matrix, tree, shard: Shard::WHOLE, source: Source::Input, precision, horizon: None }
    }

    /// Checks everything that a session needs, and takes no memory for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field and the rule it breaks.
    pub fn resolve(self) -> Result<ResolvedSpec> {
        let resolved = self.resolve_whatever_grows()?;
        resolved.check_growth()?;
        Ok(resolved)
    }

    /// The same, but for how values and rounding errors grow.
    pub(crate) fn resolve_whatever_grows(mut self) -> Result<ResolvedSpec> {
        let plan = Plan::new(&self.matrix)?;
        match self.precision {
            Precision::F32 => plan.check_representable::<f32>()?,
            Precision::F64 => plan.check_representable::<f64>()?,
        }
        if let Some(horizon) = self.horizon {
            let most = plan.horizon().unwrap_or(MAX_HORIZON);
            if horizon == 0 || horizon > most {
                return Err(Error::invalid(
                    "horizon",
                    format!("must be at least 1 and at most {most}, found {horizon}"),
                ));
            }
        }
        self.source.validate(self.precision)?;
        range::check(&self, &plan)?;
        self.horizon = self.horizon.or(plan.horizon());
        let of_leaves = Layout::new(&self.tree, self.shard)?;
        let (layout, gradient_layout) = match self.source {
            Source::Privatize { noise: _, answer_dtype: Some(dtype) } => {
                (Layout::flat(of_leaves.lanes(), dtype), Some(of_leaves))
            }
            Source::Input | Source::Gaussian(_) | Source::Privatize { .. } => (of_leaves, None),
        };
        let first_lane = self.shard.lanes(&self.tree)?.start;
        let fingerprint = Fingerprint::of(&self, self.shard);
        Ok(ResolvedSpec { spec: self, plan, layout, gradient_layout, first_lane, fingerprint })
    }

    /// The first part in which two descriptions differ.
    pub fn first_difference(&self, other: &Self) -> Option<&'static str> {
        let Self { matrix, tree, shard, source, precision, horizon } = self;
        [
            ("matrix", *matrix != other.matrix),
            ("tree", *tree != other.tree),
            ("shard", *shard != other.shard),
            ("source", *source != other.source),
            ("precision", *precision != other.precision),
            ("horizon", *horizon != other.horizon),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field))
    }
}

/// A [`SessionSpec`] that is known to be sound, with what follows from it.
#[derive(Clone, Debug)]
pub struct ResolvedSpec {
    pub(super) spec: SessionSpec,
    pub(super) plan: Plan,
    pub(super) layout: Layout,
    /// Where gradients come in other formats than answers go out.
    gradient_layout: Option<Layout>,
    /// The place of the first lane held in the whole tree.
    pub(super) first_lane: u64,
    pub(super) fingerprint: Fingerprint,
}

impl ResolvedSpec {
    /// The description, with its horizon filled in from the matrix.
    pub fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    /// The lanes held and where they lie in the bytes of a step's answer.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The same in the bytes that a client sends. Of a source for which it sends none, this is the layout of
    /// answers.
    pub fn input_layout(&self) -> &Layout {
        self.gradient_layout.as_ref().unwrap_or(&self.layout)
    }

    /// Bytes that a client sends for a step: none where the server draws all of it.
    pub fn input_bytes(&self) -> usize {
        match self.spec.source {
            Source::Gaussian(_) => 0,
            Source::Input | Source::Privatize { .. } => self.input_layout().byte_len(),
        }
    }

    /// What all shards of one session are bound to: the fingerprint of the whole tree's.
    pub fn noise_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.spec, Shard::WHOLE)
    }

    /// The lanes held, in the whole tree.
    pub fn lanes(&self) -> std::ops::Range<u64> {
        self.first_lane..self.first_lane + self.layout.lanes() as u64
    }

    /// The matrix, ready to run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the session is bound to, as 32 bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Checks that this session may go on as one made for `asked`.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`] names the first part that differs.
    pub fn check_same(&self, asked: &Self) -> Result<()> {
        if self.fingerprint == asked.fingerprint {
            return Ok(());
        }
        // Numbers that compare equal may differ in bits: zeros of both signs, which only a matrix holds.
        let field = self.spec.first_difference(&asked.spec).unwrap_or("matrix");
        Err(Error::FingerprintMismatch { field })
    }

    /// Checks that what is released of a noise is that noise up to the horizon: that its values do not
    /// overflow, and that its rounding errors stay small. Of a client's own input, that a matrix with a
    /// horizon does not overflow before it.
    fn check_growth(&self) -> Result<()> {
        let SessionSpec { source, precision, horizon, .. } = &self.spec;
        let stddev = source.noise().map(|noise| noise.stddev);
        let concerned = stddev.map_or(horizon.is_some(), |stddev| stddev > 0.0);
        if !concerned || !may_grow(&self.plan) {
            return Ok(());
        }
        let found = |precision| growth(&self.plan, precision, *horizon, stddev.unwrap_or(1.0));
        let Growth { sound_steps: Some(most), steps, overflows, .. } = found(*precision) else {
            return Ok(());
        };
        if stddev.is_none() && !overflows {
            return Ok(());
        }
        let why = if overflows {
            "the values of its recurrences overflow".to_owned()
        } else {
            let percent = 100.0 * MAX_RELATIVE_ERROR;
            format!(
                "rounding errors are more than {percent}% of what it gives: its recurrences grow and cancel"
            )
        };
        let in_f64 = match precision {
            Precision::F32 => match found(Precision::F64).sound_steps {
                None => format!("use the precision F64, which serves for {steps}; or "),
                Some(0) => String::new(),
                Some(more) => format!("use the precision F64, which serves for {more}; or "),
            },
            Precision::F64 => String::new(),
        };
        let asked = horizon.map_or("none".to_owned(), |horizon| horizon.to_string());
        let rule = format!(
            "must be at most {most} for this matrix in {precision}, found {asked}: from step {most} on {why}; \
             {in_f64}write the matrix without factors that cancel or grow"
        );
        Err(Error::invalid("horizon", rule))
    }

    /// Bytes of one step's noise as it is kept until it is released.
    pub(super) fn step_noise_bytes(&self) -> u64 {
        match self.spec.source {
            Source::Input => 0,
            Source::Gaussian(_) => self.layout.byte_len() as u64,
            Source::Privatize { .. } => (self.layout.lanes() * self.spec.precision.size()) as u64,
        }
    }

    /// The options of a noise, with what is not given chosen for it.
    ///
    /// By itself, a session has noise ready for as many steps as fit [`LOOKAHEAD_BYTES`], at least one and at
    /// most [`MAX_STEPS_A_PASS`], and keeps its state.
    pub fn noise_options(&self, lookahead: Option<u32>, state: Option<NoiseState>) -> NoiseOptions {
        let fitting = LOOKAHEAD_BYTES / self.step_noise_bytes().max(1);
        NoiseOptions {
            lookahead: lookahead.unwrap_or(fitting.clamp(1, MAX_STEPS_A_PASS as u64) as u32),
            state: state.unwrap_or_default(),
        }
    }

    /// Whether nothing need be kept between steps that a server draws ([`NoiseState::Replayed`]).
    pub fn is_replayable(&self) -> bool {
        self.plan.replayed_steps().is_some()
    }

    /// Checks that a session may be run so.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `lookahead` or `noise_state`.
    pub fn check_noise_options(&self, options: NoiseOptions) -> Result<()> {
        match self.spec.source {
            Source::Input => Ok(()),
            Source::Gaussian(_) | Source::Privatize { .. } => options.validate(self.is_replayable()),
        }
    }

    /// The memory that a session takes, in bytes, with the options that it gets by itself.
    pub fn cost(&self) -> SessionCost {
        self.cost_with(self.noise_options(None, None))
    }

    /// The memory that a session takes, in bytes. The options matter where the server draws the noise.
    pub fn cost_with(&self, options: NoiseOptions) -> SessionCost {
        let NoiseOptions { lookahead, state } = options;
        let planes = match (&self.spec.source, state) {
            (Source::Gaussian(_) | Source::Privatize { .. }, NoiseState::Replayed) => 0,
            _ => self.plan.planes() as u64,
        };
        let noise_bytes = match self.spec.source {
            Source::Input => 0,
            Source::Gaussian(_) => u64::from(lookahead) * self.step_noise_bytes(),
            Source::Privatize { .. } => u64::from(lookahead.max(1)) * self.step_noise_bytes(),
        };
        // MAX_LANES, MAX_PLANES and 8 bytes fit an i64: the relation is asserted beside them.
        let lanes = self.layout.lanes() as u64;
        SessionCost {
            state_bytes: lanes.next_multiple_of(BLOCK_LANES as u64)
                * planes
                * self.spec.precision.size() as u64,
            output_bytes: self.layout.byte_len() as u64,
            noise_bytes,
            digest_bytes: lanes.div_ceil(TILE_LANES as u64) * 8,
            description_bytes: self.description_bytes(),
        }
    }

    /// The numbers of a matrix are held as they were described and as they run.
    fn description_bytes(&self) -> u64 {
        let Self { spec, plan, layout, gradient_layout, first_lane: _, fingerprint: _ } = self;
        let described = spec.matrix.heap_bytes() + spec.tree.heap_bytes();
        let layouts = layout.heap_bytes() + gradient_layout.as_ref().map_or(0, Layout::heap_bytes);
        described + plan.heap_bytes() + layouts
    }
}

/// The memory of one session, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCost {
    /// Planes times lanes.
    pub state_bytes: u64,
    /// One step's output, kept for a replay.
    pub output_bytes: u64,
    /// Noise of steps that are not released yet.
    pub noise_bytes: u64,
    /// A digest for each tile of the last step's input.
    pub digest_bytes: u64,
    /// The matrix and the tree, as they were described and as they run.
    pub description_bytes: u64,
}

impl SessionCost {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { state_bytes, output_bytes, noise_bytes, digest_bytes, description_bytes } = *self;
        let parts = [state_bytes, output_bytes, noise_bytes, digest_bytes, description_bytes];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// A digest of everything that a session is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes the bits of every number, not their text: a fingerprint outlives versions of a formatter.
    fn of(spec: &SessionSpec, shard: Shard) -> Self {
        let SessionSpec { matrix, tree, shard: _, source, precision, horizon } = spec;
        let mut hash = Canonical(blake3::Hasher::new_derive_key("noised session fingerprint v1"));
        hash.matrix(matrix);
        hash.count(tree.leaves().len());
        for Leaf { path, dtype, shape } in tree.leaves() {
            hash.text(path);
            hash.text(dtype.name());
            hash.count(shape.len());
            shape.iter().for_each(|&axis| hash.integer(axis));
        }
        let Shard { index, count, cut } = shard;
        hash.integer(index.into());
        hash.integer(count.into());
        match cut {
            ShardCut::Lanes => {}
            ShardCut::Leaves => hash.text("leaves"),
        }
        hash.source(source);
        hash.text(precision.name());
        hash.optional_integer(*horizon);
        Self(hash.0.finalize().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Feeds a description to a hash so that no two of them feed the same bytes: every list has its length before
/// it.
struct Canonical(blake3::Hasher);

impl Canonical {
    fn integer(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    fn count(&mut self, value: usize) {
        self.integer(value as u64);
    }

    fn optional_integer(&mut self, value: Option<u64>) {
        self.integer(u64::from(value.is_some()));
        self.integer(value.unwrap_or(0));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn numbers(&mut self, values: &[f64]) {
        self.count(values.len());
        for value in values {
            self.integer(value.to_bits());
        }
    }

    fn optional_numbers(&mut self, values: Option<&[f64]>) {
        self.integer(u64::from(values.is_some()));
        self.numbers(values.unwrap_or(&[]));
    }

    fn rows(&mut self, rows: &[Vec<f64>]) {
        self.count(rows.len());
        rows.iter().for_each(|row| self.numbers(row));
    }

    fn source(&mut self, source: &Source) {
        match source {
            Source::Input => self.text("input"),
            Source::Gaussian(noise) => {
                self.text("gaussian");
                self.noise(noise);
            }
            Source::Privatize { noise, answer_dtype } => {
                self.text("privatize");
                self.noise(noise);
                self.text(answer_dtype.map_or("", DType::name));
            }
        }
    }

    fn noise(&mut self, noise: &Noise) {
        let Noise { stddev, key } = noise;
        self.numbers(&[*stddev]);
        match key {
            KeyOrigin::Fresh => self.text("fresh"),
            KeyOrigin::Derived { noise_id } => {
                self.text("derived");
                self.text(noise_id);
            }
            KeyOrigin::Given => self.text("given"),
        }
    }

    fn matrix(&mut self, spec: &MatrixSpec) {
        self.text(spec.kind());
        match spec {
            MatrixSpec::Identity | MatrixSpec::PrefixSum => {}
            MatrixSpec::Diagonal { diag } => self.numbers(diag),
            MatrixSpec::MomentumSgd { momentum, learning_rates } => {
                self.numbers(&[*momentum]);
                self.optional_numbers(learning_rates.as_deref());
            }
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => {
                self.numbers(coef);
                self.optional_integer(*column_normalize_for_n);
            }
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => {
                self.numbers(buf_decay);
                self.numbers(output_scale);
            }
            MatrixSpec::ColumnNormalizedBanded { params } => self.rows(params),
            MatrixSpec::Dense { rows } => self.rows(rows),
            MatrixSpec::Product { factors } => {
                self.count(factors.len());
                factors.iter().for_each(|factor| self.matrix(factor));
            }
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
                self.matrix(matrix);
                self.optional_numbers(row_scale.as_deref());
                self.optional_numbers(col_scale.as_deref());
            }
            MatrixSpec::Inverse { matrix } => self.matrix(matrix),
        }
    }
}
