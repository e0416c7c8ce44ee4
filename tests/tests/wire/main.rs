//! The whole system over gRPC, on TCP and on a Unix socket, with the server in this process.
//!
//! One program for all of it: linking takes longer than running.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod abuse;
mod analysis;
mod authority;
mod bad;
mod callers;
mod client;
mod connections;
mod identity;
mod identity_files;
mod keys;
mod lifetimes;
mod load;
mod mechanisms;
mod noise;
mod privatize;
mod racing;
mod refusals;
mod rewind;
mod rewind_refused;
mod secrets;
mod sessions;
mod steps;
mod tls;
