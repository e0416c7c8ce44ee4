//! What a session is made for, and the fingerprint that binds it to that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_LANES, MAX_HORIZON, TILE_LANES};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::{Layout, Leaf, Shard, Tree};

/// Where a session's input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The client sends `x_t` and gets `(A x)_t`.
    #[default]
    Input,
}

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
    /// A session for a whole tree, with the client's input, the tree's default precision and the matrix's horizon.
    pub fn new(matrix: MatrixSpec, tree: Tree) -> Self {
        let precision = tree.default_precision();
        Self { matrix, tree, shard: Shard::WHOLE, source: Source::Input, precision, horizon: None }
    }

    /// Checks everything that a session needs, and takes no memory for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field and the rule it breaks.
    pub fn resolve(mut self) -> Result<ResolvedSpec> {
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
        self.horizon = self.horizon.or(plan.horizon());
        let layout = Layout::new(&self.tree, self.shard)?;
        let fingerprint = Fingerprint::of(&self);
        Ok(ResolvedSpec { spec: self, plan, layout, fingerprint })
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
    pub(super) fingerprint: Fingerprint,
}

impl ResolvedSpec {
    /// The description, with its horizon filled in from the matrix.
    pub fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    /// The lanes held and where they lie in a step's bytes.
    pub fn layout(&self) -> &Layout {
        &self.layout
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

    /// The memory that a session takes, in bytes.
    pub fn cost(&self) -> SessionCost {
        // MAX_LANES, MAX_PLANES and 8 bytes fit an i64: the relation is asserted beside them.
        let lanes = self.layout.lanes() as u64;
        SessionCost {
            state_bytes: lanes.next_multiple_of(BLOCK_LANES as u64)
                * self.plan.planes() as u64
                * self.spec.precision.size() as u64,
            output_bytes: self.layout.byte_len() as u64,
            digest_bytes: lanes.div_ceil(TILE_LANES as u64) * 8,
            description_bytes: self.description_bytes(),
        }
    }

    /// The numbers of a matrix are held as they were described and as they run.
    fn description_bytes(&self) -> u64 {
        let Self { spec, plan, layout, fingerprint: _ } = self;
        let described = spec.matrix.heap_bytes() + spec.tree.heap_bytes();
        described + plan.heap_bytes() + layout.heap_bytes()
    }
}

/// The memory of one session, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCost {
    /// Planes times lanes.
    pub state_bytes: u64,
    /// One step's output, kept for a replay.
    pub output_bytes: u64,
    /// A digest for each tile of the last step's input.
    pub digest_bytes: u64,
    /// The matrix and the tree, as they were described and as they run.
    pub description_bytes: u64,
}

impl SessionCost {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { state_bytes, output_bytes, digest_bytes, description_bytes } = *self;
        [state_bytes, output_bytes, digest_bytes, description_bytes].into_iter().fold(0, u64::saturating_add)
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
    fn of(spec: &SessionSpec) -> Self {
        let SessionSpec { matrix, tree, shard, source, precision, horizon } = spec;
        let mut hash = Canonical(blake3::Hasher::new_derive_key("noised session fingerprint v1"));
        hash.matrix(matrix);
        hash.count(tree.leaves().len());
        for Leaf { path, dtype, shape } in tree.leaves() {
            hash.text(path);
            hash.text(dtype.name());
            hash.count(shape.len());
            shape.iter().for_each(|&axis| hash.integer(axis));
        }
        let Shard { index, count } = *shard;
        hash.integer(index.into());
        hash.integer(count.into());
        match source {
            Source::Input => hash.text("input"),
        }
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

/// Feeds a description to a hash so that no two of them feed the same bytes: every list has its length before it.
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
