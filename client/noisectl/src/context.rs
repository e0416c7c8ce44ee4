//! What every command has at hand.

use crate::failure::Failure;
use crate::files::Files;
use crate::interrupt::Interrupt;

/// What every command has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    /// The files that it reads and writes.
    pub(crate) files: Files,
    /// Whether it is to end.
    pub(crate) interrupt: Interrupt,
}

impl Context {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self { files: Files::default(), interrupt: Interrupt::listen()? })
    }
}
