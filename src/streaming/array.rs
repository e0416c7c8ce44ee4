//! A user's matrix: a pair of functions on one array.

use std::any::Any;
use std::fmt;

use ndarray::{ArrayD, ArrayViewD};

/// A pair of functions on one array, with the type of its state erased.
pub(super) trait ArrayImplementation: Send + Sync {
    fn init(&self, shape: &[usize]) -> Box<dyn Any + Send>;
    /// `None` where the state is not one that `init` made.
    fn next(&self, x: ArrayViewD<'_, f64>, state: &mut (dyn Any + Send)) -> Option<ArrayD<f64>>;
}

impl fmt::Debug for dyn ArrayImplementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArrayImplementation")
    }
}

pub(super) struct Lifted<S, I, N> {
    init: I,
    next: N,
    state: std::marker::PhantomData<fn() -> S>,
}

impl<S, I, N> Lifted<S, I, N> {
    pub(super) fn new(init: I, next: N) -> Self {
        Self { init, next, state: std::marker::PhantomData }
    }
}

impl<S, I, N> ArrayImplementation for Lifted<S, I, N>
where
    S: Send + 'static,
    I: Fn(&[usize]) -> S + Send + Sync,
    N: Fn(ArrayViewD<'_, f64>, &mut S) -> ArrayD<f64> + Send + Sync,
{
    fn init(&self, shape: &[usize]) -> Box<dyn Any + Send> {
        Box::new((self.init)(shape))
    }

    fn next(&self, x: ArrayViewD<'_, f64>, state: &mut (dyn Any + Send)) -> Option<ArrayD<f64>> {
        Some((self.next)(x, state.downcast_mut()?))
    }
}
