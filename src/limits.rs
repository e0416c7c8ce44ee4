//! Every limit of the core, by name, with the relations between them checked at compile time.
//!
//! A limit is checked before the memory it guards is taken. The server adds limits of its own (sessions,
//! bytes, message sizes), which are configuration.

/// Lanes processed together while they sit in cache: the unit of state layout, of threads and of replay
/// digests.
pub const TILE_LANES: usize = 1024;

/// Lanes whose planes lie together in memory: a cache line of each plane in f32, so that a step's sweep
/// through the planes is one through memory.
pub const BLOCK_LANES: usize = 16;

/// Lanes that a sweep of several steps takes through all of them at a time, where it may take less than a
/// tile.
pub const RUN_LANES: usize = 512;

/// Bytes of state and values that one thread works through alone: waking others and waiting for them costs
/// what going through a megabyte or more in cache does.
pub const PARALLEL_BYTES: usize = 4 << 20;

/// Bytes of state and values that a thread takes at a time, where there are several.
pub const PARALLEL_GRAIN_BYTES: usize = 1 << 20;

/// Steps that one sweep through the state takes at most.
pub const MAX_STEPS_A_PASS: usize = 8;

/// Bytes of noise that a session has ready ahead of its client unless told otherwise.
pub const LOOKAHEAD_BYTES: u64 = 256 << 20;

/// Steps of a session's noise that may be in memory beside those ahead and those kept: the last answer, one
/// that is drawn because it was asked for, and answers that are still on their way.
pub const MAX_STEPS_UNDER_WAY: usize = 4;

/// Steps past the last one that a store knows of with which a session of `gaussian` goes on where its client
/// asks for them. Each of them is drawn again.
pub const MAX_STEPS_UNKNOWN: u64 = 1 << 20;

/// Steps that a session may have ready ahead of its client.
pub const MAX_LOOKAHEAD: u32 = 64;

/// Bytes of a `noise_id`.
pub const MAX_NOISE_ID_BYTES: usize = 128;

/// Acts of going back that a session remembers; of older ones it knows the number.
pub const MAX_REWINDS_KEPT: usize = 24;

/// Planes of a banded matrix whose inputs may be drawn again instead of being kept.
pub const MAX_REPLAY_PLANES: usize = 31;

/// Steps whose sums a banded recurrence forms ahead: as many as there are registers for.
pub const MAX_STEPS_AHEAD: usize = 5;

/// Leaves in one tree.
pub const MAX_LEAVES: usize = 65_536;

/// Bytes of one leaf path.
pub const MAX_PATH_BYTES: usize = 1_024;

/// Axes of one leaf.
pub const MAX_RANK: usize = 32;

/// Lanes of one tree.
pub const MAX_LANES: u64 = 1 << 40;

/// Bands of a banded matrix (`coef`, a row of `params`) and buffers of a BLT.
pub const MAX_BANDS: usize = 1_024;

/// Rows of a `dense` matrix.
pub const MAX_DENSE_N: usize = 2_048;

/// Entries of one schedule: `diag`, `learning_rates`, `row_scale`, `col_scale`, and rows of `params`.
pub const MAX_SCHEDULE: usize = 1 << 24;

/// Factors of one product.
pub const MAX_FACTORS: usize = 64;

/// Depth of a matrix inside matrices.
pub const MAX_NESTING: usize = 16;

/// Kinds used in one specification, all levels together.
pub const MAX_NODES: usize = 256;

/// Planes of state a lane, all factors together.
pub const MAX_PLANES: usize = 4_096;

/// Steps of a horizon: a step number and everything computed from it fits an `i64`.
pub const MAX_HORIZON: u64 = 1 << 62;

/// Buffers of a BLT that an optimiser gives: with more, decays lie nearer to 1 than tells them apart.
pub const MAX_OPTIMIZED_BUFFERS: usize = 10;

/// Products of a coefficient and a value in each part of one evaluation of a banded matrix that is optimised:
/// about a second.
pub const MAX_OPTIMIZED_TERMS: usize = 1 << 29;

/// Participations that a BLT is optimised for: an evaluation takes a time that grows with them.
pub const MAX_OPTIMIZED_PARTICIPATIONS: u64 = 1 << 14;

/// Rows and columns of a matrix that an analysis materializes or takes row norms of.
pub const MAX_ANALYSIS_N: usize = 65_536;

/// Rows and columns of a matrix whose norms are answered by structure, in time that grows as `n` does.
pub const MAX_STRUCTURED_N: usize = 1 << 24;

/// Coefficients of a Toeplitz matrix that is asked about for as many steps: it need not run, and so takes no
/// planes.
pub const MAX_QUESTION_COEFS: usize = MAX_ANALYSIS_N;

/// Multiplications, about, of an analysis in `O(n planes^2)`.
pub const MAX_COVARIANCE_WORK: usize = 1 << 40;

/// Bytes that a gradient's scan keeps: states at checkpoints, and what a segment overwrites.
pub const MAX_SCAN_BYTES: usize = 1 << 30;

/// Entries of a strategy that is designed entry by entry.
pub const MAX_DESIGNED_ENTRIES: usize = 1 << 20;

/// Rounding errors that the noise of a session may have, for each unit of the noise.
pub const MAX_RELATIVE_ERROR: f64 = 0.01;

/// Steps for which it is told how a matrix grows.
pub const MAX_GROWTH_STEPS: u64 = 1 << 24;

/// The same where a session has no horizon.
pub const UNLIMITED_GROWTH_STEPS: u64 = 1 << 20;

/// Bytes of state that a product with an array holds at a time, where a tile takes no more.
pub const ANALYSIS_STATE_BYTES: usize = 64 << 20;

/// Bytes of state that the rows of a matrix may take, a column a lane.
pub const MAX_ROWS_STATE_BYTES: usize = 256 << 20;

/// Entries of a Gram matrix that a sensitivity is bounded from: 4,096 rows of a full one, a million of one
/// with 16 bands.
pub const MAX_GRAM_ENTRIES: usize = 1 << 24;

/// Rounds of one composition that is accounted for, all kinds together.
pub const MAX_ACCOUNTING_ROUNDS: u64 = 1 << 30;

/// Different kinds of rounds in one composition.
pub const MAX_ACCOUNTING_KINDS: usize = 64;

/// Points of a grid of privacy losses, about: a grid that would take more is coarser.
pub const MAX_ACCOUNTING_POINTS: usize = 1 << 20;

/// The largest order of a Renyi divergence.
pub const MAX_RENYI_ORDER: u32 = 512;

/// The least noise multiplier that sampling is accounted for with: its losses reach the thousands.
pub const MIN_NOISE_MULTIPLIER: f64 = 0.02;

/// The largest noise multiplier that sampling is accounted for with.
pub const MAX_NOISE_MULTIPLIER: f64 = 1e6;

const _: () = assert!(TILE_LANES.is_multiple_of(RUN_LANES), "a tile is whole runs");
const _: () = assert!(RUN_LANES.is_multiple_of(BLOCK_LANES), "a run is whole blocks");
const _: () =
    assert!(MAX_DENSE_N * MAX_DENSE_N * 8 <= MAX_ROWS_STATE_BYTES, "a dense matrix can be materialized");
const _: () = assert!(MAX_DENSE_N - 1 <= MAX_PLANES, "a dense matrix keeps every earlier input");
const _: () = assert!(MAX_BANDS <= MAX_PLANES, "a band is a plane");
const _: () = assert!(MAX_NESTING < 64, "decoders of JSON and protobuf stop recursing at about 100");
const _: () =
    assert!(MAX_LANES as u128 * 8 * MAX_PLANES as u128 <= i64::MAX as u128, "state sizes fit an i64");
const _: () = assert!(MAX_ANALYSIS_N <= MAX_LANES as usize, "a column of a materialized matrix is a lane");
