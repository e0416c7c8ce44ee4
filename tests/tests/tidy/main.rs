//! What holds for every file of source, Rust and Python.
//!
//! | room | what is in it |
//! |---|---|
//! | `files` | the files of the repository, and their text without comments and strings |
//! | `rust` | which Rust file uses which |
//! | `python` | which module of the Python package imports which |
//! | `circles` | files that use each other in a circle |
//! | `ignored` | git ignores what the steps of the documents leave |
//! | `maps` | a map names every file below it, and every name of a map is there |
//! | `sizes` | lines, functions, and limits that are defined once |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod circles;
mod files;
mod ignored;
mod maps;
mod python;
mod rust;
mod sizes;
