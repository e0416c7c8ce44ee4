//! Trees to test with, and values for them.

use noised::{DType, Leaf, Tree};

/// A tree from shapes, all of one format.
pub fn of_shapes(dtype: DType, shapes: &[&[u64]]) -> Tree {
    let leaves = shapes.iter().enumerate().map(|(i, &shape)| Leaf::new(format!("leaf.{i}"), dtype, shape));
    Tree::new(leaves.collect()).unwrap()
}

/// A scalar, empty leaves, odd sizes, many small leaves, and tiles with a tail, in one format.
pub fn odd(dtype: DType) -> Vec<Tree> {
    let many: Vec<[u64; 1]> = (0..150).map(|i| [i % 7]).collect();
    let many: Vec<&[u64]> = many.iter().map(<[u64; 1]>::as_slice).collect();
    vec![
        of_shapes(dtype, &[&[]]),
        of_shapes(dtype, &[&[0], &[3, 0, 2], &[5], &[0]]),
        of_shapes(dtype, &[&[31, 3], &[1], &[1024], &[17]]),
        of_shapes(dtype, &many),
        of_shapes(dtype, &[&[2048]]),
    ]
}

/// Six tiles, the last of them short.
pub fn six_tiles() -> Tree {
    of_shapes(DType::F32, &[&[3000], &[17, 121], &[], &[250]])
}

/// All formats in one tree, with boundaries inside and across tiles.
pub fn mixed() -> Tree {
    Tree::new(vec![
        Leaf::new("a", DType::F32, [700]),
        Leaf::new("b", DType::Bf16, [13, 5]),
        Leaf::new("c", DType::F64, [901]),
        Leaf::new("empty", DType::F64, [0]),
        Leaf::new("d", DType::F16, [3]),
        Leaf::new("e", DType::F16, []),
        Leaf::new("f", DType::F32, [1, 400]),
    ])
    .unwrap()
}

/// The unit roundoff of a format.
pub fn roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(-53),
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

/// A number in `[-1, 1)` for a lane of a step: always the same, and unlike its neighbours.
pub fn value(step: u64, lane: u64) -> f64 {
    let mut bits = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lane.wrapping_mul(0xd1b5_4a32_d192_ed03);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 32;
    (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// The payload of one step, filled with [`value`]s.
pub fn payload(tree: &Tree, step: u64) -> Vec<u8> {
    let mut values = noised::tree::TreeValues::zeros(tree.clone());
    for i in 0..tree.leaves().len() {
        let lanes = tree.leaf_lanes(i);
        let of_leaf: Vec<f64> = lanes.map(|lane| value(step, lane)).collect();
        let array = ndarray::ArrayD::from_shape_vec(tree.leaf_shape(i), of_leaf).unwrap();
        values.set_leaf(i, array.view()).unwrap();
    }
    values.into_bytes()
}

/// Every lane of a payload, widened.
pub fn lanes(tree: &Tree, payload: &[u8]) -> Vec<f64> {
    let values = noised::tree::TreeValues::from_bytes(tree.clone(), payload.to_vec()).unwrap();
    (0..tree.leaves().len()).flat_map(|i| values.leaf(i).into_iter()).collect()
}

/// The format of every lane.
pub fn formats(tree: &Tree) -> Vec<DType> {
    let of_leaf = |i: usize| tree.leaf_lanes(i).map(move |_| tree.leaves()[i].dtype);
    (0..tree.leaves().len()).flat_map(of_leaf).collect()
}

/// One lane of a payload, widened, and its format.
pub fn lane(tree: &Tree, payload: &[u8], lane: u64) -> (f64, DType) {
    let holds = |leaf: &usize| tree.leaf_lanes(*leaf).contains(&lane);
    let leaf = (0..tree.leaves().len()).find(holds).expect("the lane is one of the tree's");
    let dtype = tree.leaves()[leaf].dtype;
    let start = tree.leaf_bytes(leaf).start + (lane - tree.leaf_lanes(leaf).start) as usize * dtype.size();
    let one = Tree::flat(1, dtype).unwrap();
    let value = lanes(&one, &payload[start..start + dtype.size()])[0];
    (value, dtype)
}
