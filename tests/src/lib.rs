//! What the tests of noised share.
//!
//! | room | what is in it |
//! |---|---|
//! | [`specs`] | matrices: one of every kind and nestings of them, and random ones |
//! | [`trees`] | trees of odd shapes, and values for them |
//! | [`bad`] | descriptions that break a rule, with the field and the rule |
//! | [`drive`] | a session driven through steps, chunk by chunk |
//! | [`driven`] | a session that draws, both halves put to work together |
//! | [`noises`] | noise that a server draws: descriptions of it, and what it has to be |
//! | [`programs`] | the programs of this workspace, for tests that start them |
//! | [`server`] | a server in this process, on a free port or a Unix socket |
//! | [`proxy`] | a network that can be cut |
//! | [`wire`] | sessions driven over gRPC by hand, message by message |
//! | [`raw`] | gRPC calls of any bytes |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

pub mod bad;
pub mod drive;
pub mod driven;
pub mod noises;
pub mod programs;
pub mod proxy;
pub mod raw;
pub mod server;
pub mod specs;
pub mod trees;
pub mod wire;
