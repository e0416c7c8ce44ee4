//! Several participations: L-BFGS over the entries of `X` that the constraint leaves free.
//!
//! The gradient of `tr(M X^-1)` is `-X^-1 M X^-1`, and its second derivative takes `D` to `X^-1 D V + V D
//! X^-1`, `V = X^-1 M X^-1`, where at the optimum `V` is near a multiple of the identity. Its inverse on the
//! free entries is about `(X G + G X) / 2`, and that is what L-BFGS starts from in every step.

use std::collections::VecDeque;
use std::f64::consts::SQRT_2;

use faer::linalg::solvers::DenseSolveCore;
use faer::{Mat, Side};

use super::{Constraint, OnIteration, not_definite};
use crate::error::Result;

/// Pairs of a step and what it did to the gradient that are kept.
const MEMORY: usize = 8;

const MAX_ITERATIONS: u64 = 1_000;

/// Descent ends where so many iterations together make the loss less by less than this part of it.
const WINDOW: usize = 6;
const LEAST_GAIN: f64 = 3e-6;

/// Share of the gain that the slope promises which a step must bring.
const SUFFICIENT: f64 = 1e-4;

/// Halvings of a step before the search gives up.
const MAX_HALVINGS: usize = 40;

/// The free part of `X`: symmetric matrices, as lists in which the product of two is that of the matrices.
pub(super) struct Space {
    n: usize,
    constraint: Constraint,
    /// Below the diagonal.
    free: Vec<(u32, u32)>,
}

impl Space {
    pub(super) fn new(n: usize, constraint: Constraint) -> Self {
        let below = |j: usize| {
            (j + 1..n).filter(move |&i| constraint.is_free(i, j)).map(move |i| (i as u32, j as u32))
        };
        Self { n, constraint, free: (0..n).flat_map(below).collect() }
    }

    /// The projection of a matrix's symmetric part.
    pub(super) fn project(&self, matrix: &Mat<f64>) -> Vec<f64> {
        let pair = |&(i, j): &(u32, u32)| (i as usize, j as usize);
        let mut list: Vec<f64> =
            self.free.iter().map(pair).map(|(i, j)| (matrix[(i, j)] + matrix[(j, i)]) / SQRT_2).collect();
        if let Constraint::Orthogonal { apart } = self.constraint {
            // The sum over one user's steps stays what it is.
            let mut means = vec![0.0; apart];
            (0..self.n).for_each(|i| means[i % apart] += matrix[(i, i)] * apart as f64 / self.n as f64);
            list.extend((0..self.n).map(|i| matrix[(i, i)] - means[i % apart]));
        }
        list
    }

    /// Adds `scale` times a list to a matrix.
    pub(super) fn add(&self, matrix: &mut Mat<f64>, scale: f64, list: &[f64]) {
        let (below, diagonal) = list.split_at(self.free.len());
        for (&(i, j), value) in self.free.iter().zip(below) {
            let (i, j, value) = (i as usize, j as usize, scale * value / SQRT_2);
            matrix[(i, j)] += value;
            matrix[(j, i)] += value;
        }
        diagonal.iter().enumerate().for_each(|(i, value)| matrix[(i, i)] += scale * value);
    }
}

/// A step, and what it did to the gradient.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    product: f64,
}

/// Where the descent is.
struct Point {
    matrix: Mat<f64>,
    loss: f64,
    gradient: Vec<f64>,
}

impl Point {
    /// `None` where the matrix is not positive definite.
    fn at(space: &Space, gram: &Mat<f64>, matrix: Mat<f64>) -> Option<Self> {
        let inverse = matrix.llt(Side::Lower).ok()?.inverse();
        let product = gram * &inverse;
        let loss: f64 = (0..space.n).map(|i| product[(i, i)]).sum();
        let mut gradient = space.project(&(&inverse * &product));
        gradient.iter_mut().for_each(|value| *value = -*value);
        (loss.is_finite() && loss > 0.0).then_some(Self { matrix, loss, gradient })
    }
}

/// The `X` with the least `tr(M X^-1)` that a constraint allows.
pub(super) fn minimize(
    gram: &Mat<f64>,
    constraint: Constraint,
    on_iteration: OnIteration<'_>,
) -> Result<Mat<f64>> {
    let space = Space::new(gram.nrows(), constraint);
    let mut point = start(&space, gram)?;
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let mut losses = VecDeque::from([point.loss]);
    for iteration in 1..=MAX_ITERATIONS {
        if !on_iteration(iteration, point.loss) {
            break;
        }
        let direction = direction(&space, &point, &pairs);
        let found = search(&space, gram, &point, &direction, pairs.is_empty());
        let Some((next, length)) = found else {
            if pairs.is_empty() {
                break;
            }
            // What is remembered may point nowhere; the gradient alone does not.
            pairs.clear();
            continue;
        };
        let step: Vec<f64> = direction.iter().map(|value| length * value).collect();
        let change: Vec<f64> =
            next.gradient.iter().zip(&point.gradient).map(|(new, old)| new - old).collect();
        let product = dot(&step, &change);
        if product > 1e-12 * (dot(&step, &step) * dot(&change, &change)).sqrt() {
            pairs.truncate(MEMORY - 1);
            pairs.push_front(Pair { step, change, product });
        }
        point = next;
        losses.push_back(point.loss);
        if losses.len() > WINDOW {
            let before = losses.pop_front().unwrap_or(f64::INFINITY);
            if before - point.loss <= LEAST_GAIN * point.loss {
                break;
            }
        }
    }
    Ok(point.matrix)
}

/// The strategy of the prefix sum's square root, cut to what is free, and mixed with the identity until it is
/// positive definite.
fn start(space: &Space, gram: &Mat<f64>) -> Result<Point> {
    let (n, constraint) = (space.n, space.constraint);
    let mut coefs = vec![1.0; n];
    (1..n).for_each(|k| coefs[k] = coefs[k - 1] * (2 * k - 1) as f64 / (2 * k) as f64);
    if let Constraint::Banded { bands } = constraint {
        coefs[bands..].fill(0.0);
    }
    let mut strategy = Mat::<f64>::zeros(n, n);
    for j in 0..n {
        let norm = coefs[..n - j].iter().map(|c| c * c).sum::<f64>().sqrt();
        (j..n).for_each(|i| strategy[(i, j)] = coefs[i - j] / norm);
    }
    let full = strategy.transpose() * &strategy;
    let mut share = 1.0;
    loop {
        let entry = |i: usize, j: usize| match i == j {
            true => 1.0,
            false if constraint.is_free(i, j) => share * full[(i, j)],
            false => 0.0,
        };
        if let Some(point) = Point::at(space, gram, Mat::from_fn(n, n, entry)) {
            return Ok(point);
        }
        if share == 0.0 {
            return Err(not_definite());
        }
        share = if share > 0.01 { 0.8 * share } else { 0.0 };
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_multiple(sum: &mut [f64], factor: f64, list: &[f64]) {
    sum.iter_mut().zip(list).for_each(|(sum, value)| *sum += factor * value);
}

/// `(X G + G X) / 2` on the free entries.
fn precondition(space: &Space, point: &Point, list: &[f64]) -> Vec<f64> {
    let mut matrix = Mat::<f64>::zeros(space.n, space.n);
    space.add(&mut matrix, 1.0, list);
    space.project(&(&point.matrix * &matrix))
}

/// The direction of descent by the two loops of L-BFGS.
fn direction(space: &Space, point: &Point, pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut list = point.gradient.clone();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let weight = dot(&pair.step, &list) / pair.product;
        add_multiple(&mut list, -weight, &pair.change);
        weights.push(weight);
    }
    let mut list = precondition(space, point, &list);
    if let Some(last) = pairs.front() {
        let scale = last.product / dot(&last.change, &precondition(space, point, &last.change));
        list.iter_mut().for_each(|value| *value *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights).rev() {
        let other = dot(&pair.change, &list) / pair.product;
        add_multiple(&mut list, weight - other, &pair.step);
    }
    list.iter_mut().for_each(|value| *value = -*value);
    list
}

/// The first of a step and its halves that descends far enough, with its length.
fn search(
    space: &Space,
    gram: &Mat<f64>,
    point: &Point,
    direction: &[f64],
    first: bool,
) -> Option<(Point, f64)> {
    let slope = dot(direction, &point.gradient);
    if !(slope < 0.0 && slope.is_finite()) {
        return None;
    }
    let largest = direction.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let mut length = if first { 1.0_f64.min(1.0 / largest) } else { 1.0 };
    for _ in 0..MAX_HALVINGS {
        let mut matrix = point.matrix.clone();
        space.add(&mut matrix, length, direction);
        let enough = |next: &Point| next.loss <= point.loss + SUFFICIENT * length * slope;
        if let Some(next) = Point::at(space, gram, matrix).filter(enough) {
            return Some((next, length));
        }
        length /= 2.0;
    }
    None
}
