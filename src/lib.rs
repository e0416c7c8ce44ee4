//! Correlated noise for differentially private training: the core, without network, clock or environment.
//!
//! Differentially private training adds noise to every gradient. With *correlated* noise (DP-FTRL, the matrix
//! mechanism) the noise of later steps cancels that of earlier ones. That takes a linear map `x -> A x`, `A`
//! lower triangular, applied one step at a time to noise as large as the model: a *streaming matrix*.
//!
//! | room | what is in it |
//! |---|---|
//! | [`matrix`] | [`MatrixSpec`]: which matrix; its rules, its algebra, the dense oracle, the named strategies |
//! | [`kernel`] | one step over tiles of lanes: SIMD bodies, the scalar reference, threads |
//! | [`noise`] | keys, and the Gaussian noise that is a pure function of key, step and lane |
//! | [`tree`] | [`Tree`]s of named leaves, [`Shard`]s, and the byte layout of a step |
//! | [`streaming`] | [`StreamingMatrix`]: `init_multiply` / `multiply_next` on trees, in a program's own memory |
//! | [`session`] | [`Session`]: one matrix's state for one tree, applied chunk by chunk, each step released once |
//! | [`analysis`] | rows, norms, errors, sensitivities and costs of a matrix, and calibration, without state |
//! | [`accounting`] | epsilon and delta of sampled steps, and back to the noise |
//! | [`design`] | which strategy is best: optimisers for every family, a recommendation |
//! | `dtype`, `error` | number formats; the one error type |
//! | [`json`] | JSON in which no key is there twice |
//! | [`limits`] | every limit, by name |
//!
//! # Names and symbols
//!
//! | name in the API | symbol in formulas | meaning |
//! |---|---|---|
//! | workload | `A` | what the analyst wants of the inputs, such as their prefix sums |
//! | strategy | `C` | what the mechanism measures, `A = B C` |
//! | noising matrix | `C^-1` | what correlates the noise: a session streams `C^-1 z` |
//! | decoder | `B = A C^-1` | its row norms are the error of each query |
//! | `coef` | `c_j` | first column of a Toeplitz matrix |
//! | `buf_decay`, `output_scale` | `theta_k`, `w_k` | decays and weights of a BLT's buffers |
//! | `step`, `horizon` | `t`, `n` | the row being produced, the number of rows |
//! | lane | | one scalar coordinate of the flattened tree |
//! | plane | `s_k` | one state value a lane |

pub mod accounting;
pub mod analysis;
pub mod design;
mod dtype;
mod error;
pub mod json;
pub mod kernel;
pub mod limits;
pub mod matrix;
pub mod noise;
pub mod session;
pub mod streaming;
pub mod tree;

pub use dtype::{DType, Precision};
pub use error::{Error, Result};
pub use matrix::{DenseMatrix, MatrixSpec, Plan};
pub use session::{Session, SessionSpec};
pub use streaming::StreamingMatrix;
pub use tree::{Layout, Leaf, Shard, ShardCut, Tree};
