//! The native module of the Python package `noised`: connections, sessions in bytes, and questions about
//! matrices. What a Python program sees is written in Python on top of it.
//!
//! | room | what is in it |
//! |---|---|
//! | `client` | one server or several |
//! | `session` | a session's handle: a step from and into memory of Python's |
//! | `spec` | what Python says of a session, as the core's types |
//! | `analysis`, `design`, `strategy` | questions about matrices |
//! | `accounting` | what a run guarantees, with sampled steps |
//! | `runtime` | how a Python thread waits |
//! | `error` | errors as exceptions |
//! | `log` | what the client reports, for `logging` |

mod accounting;
mod analysis;
mod client;
mod design;
mod error;
mod log;
mod runtime;
mod session;
mod spec;
mod strategy;

// What a connection reads into and sends from is let go of after each megabyte. glibc gives such memory back
// to the system and has it again, page by page: 4,000 page faults or more, and half of the client's time in a
// step of 40 MB up and down.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What `noised._noised` has.
#[pyo3::pymodule]
mod _noised {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::accounting::{account, accounting_unit};
    #[pymodule_export]
    use crate::analysis::{calibrate, materialize, multiply, query_errors, row_norms_squared, sensitivity};
    #[pymodule_export]
    use crate::client::Connection;
    #[pymodule_export]
    use crate::design::{optimize, recommend};
    #[pymodule_export]
    use crate::runtime::CancelToken;
    #[pymodule_export]
    use crate::session::Session;
    #[pymodule_export]
    use crate::spec::check_session;
    #[pymodule_export]
    use crate::strategy::{
        banded_inverse_square_root, banded_square_root, blt_from_rational_approximation, check,
        column_normalized_banded, lambda_cgd, optimal_max_error, toeplitz_coefs,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::log::listen();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
