//! How messages are read off the wire: counted first, decoded then.
//!
//! An empty message takes two bytes on the wire and up to sixty in memory, so a description of nothing but
//! empty leaves would take thirty times what was sent before any rule could be checked. What is counted here
//! are those parts that no sound description has many of. The counts are twice what the rules permit: what is
//! slightly over is told by the rule itself, with its path.

use bytes::Buf;
use noised::limits::{MAX_DENSE_N, MAX_LEAVES, MAX_NODES, MAX_PATH_BYTES, MAX_RANK};
use noised::{Error, Result};
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::error::ServiceError;

/// Bytes of a leaf: its path, its axes, its format. A varint has at most ten.
const LEAF_BYTES: usize = 2 * (MAX_PATH_BYTES + 10 * MAX_RANK);

/// A row of fewer bytes holds no number.
const ROW_BYTES: usize = 9;

/// Deeper than this nothing is decoded.
const MAX_DEPTH: usize = 100;

/// Protobuf by prost, of messages that are [counted](self) first.
#[derive(Clone, Debug)]
pub struct CountingCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for CountingCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for CountingCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CountingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder(self.0.decoder())
    }
}

/// The half of [`CountingCodec`] that reads.
#[derive(Clone, Debug)]
pub struct CountingDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for CountingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> std::result::Result<Option<U>, Status> {
        if let Some(shape) = shape_of(U::NAME) {
            // A message lies in one piece by the time it is decoded; were it not, nothing would be known of
            // the rest.
            if buffer.chunk().len() != buffer.remaining() {
                return Err(ServiceError::Internal.into());
            }
            Counts::default().message(buffer.chunk(), shape, 0).map_err(ServiceError::from)?;
        }
        self.0.decode(buffer)
    }
}

/// The fields of a message that lead to what is counted.
struct Shape {
    part: Part,
    fields: &'static [(u64, &'static Shape)],
}

/// What is counted.
#[derive(Clone, Copy)]
enum Part {
    Matrix,
    Row,
    Leaf,
    /// A list of this name, which no request holds.
    SetByServer(&'static str),
    Other,
}

static ROW: Shape = Shape { part: Part::Row, fields: &[] };
static LEAF: Shape = Shape { part: Part::Leaf, fields: &[] };
static TREE: Shape = Shape { part: Part::Other, fields: &[(1, &LEAF)] };
/// The kinds that hold rows, and those that hold matrices.
static MATRIX: Shape = Shape {
    part: Part::Matrix,
    fields: &[(7, &ROWS), (8, &ROWS), (9, &WITH_MATRIX), (10, &WITH_MATRIX), (11, &WITH_MATRIX)],
};
static ROWS: Shape = Shape { part: Part::Other, fields: &[(1, &ROW)] };
static WITH_MATRIX: Shape = Shape { part: Part::Other, fields: &[(1, &MATRIX)] };
static KEPT_STEPS: Shape = Shape { part: Part::SetByServer("kept_steps"), fields: &[] };
static REWIND: Shape = Shape { part: Part::SetByServer("rewinds"), fields: &[] };
static SESSION: Shape =
    Shape { part: Part::Other, fields: &[(2, &MATRIX), (3, &TREE), (17, &KEPT_STEPS), (18, &REWIND)] };
static CREATE: Shape = Shape { part: Part::Other, fields: &[(2, &SESSION)] };
static MULTIPLY: Shape = Shape { part: Part::Other, fields: &[(1, &MATRIX), (2, &ROW)] };
static ERRORS: Shape = Shape { part: Part::Other, fields: &[(1, &MATRIX), (2, &MATRIX), (3, &MATRIX)] };
static PROBLEM: Shape = Shape { part: Part::Other, fields: &[(4, &MATRIX)] };
static WITH_PROBLEM: Shape = Shape { part: Part::Other, fields: &[(1, &PROBLEM)] };
static DESCRIBE: Shape = Shape { part: Part::Other, fields: &[(1, &MATRIX), (2, &TREE)] };

/// The shape of a request that holds a description.
fn shape_of(message: &str) -> Option<&'static Shape> {
    match message {
        "CreateSessionRequest" => Some(&CREATE),
        "MaterializeRequest" | "RowNormsSquaredRequest" | "ComputeSensitivityRequest" => Some(&WITH_MATRIX),
        "ComputeErrorsRequest" => Some(&ERRORS),
        "OptimizeStrategyRequest" | "RecommendStrategyRequest" => Some(&WITH_PROBLEM),
        "MultiplyRequest" => Some(&MULTIPLY),
        "DescribeRequest" => Some(&DESCRIBE),
        _ => None,
    }
}

/// What a message was found to hold, all levels together: fields that come twice are merged.
#[derive(Default)]
struct Counts {
    matrices: usize,
    empty_rows: usize,
    leaves: usize,
}

impl Counts {
    /// Counts what is in a message. What does not read ends the count: it ends the decoding at the same
    /// place.
    fn message(&mut self, mut bytes: &[u8], shape: &Shape, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        while let Some(Field { number, content, rest }) = field(bytes) {
            bytes = rest;
            let Some(content) = content else { continue };
            if let Some((_, within)) = shape.fields.iter().find(|(field, _)| *field == number) {
                self.part(within.part, content)?;
                self.message(content, within, depth + 1)?;
            }
        }
        Ok(())
    }

    fn part(&mut self, part: Part, content: &[u8]) -> Result<()> {
        match part {
            Part::Matrix => at_most(&mut self.matrices, 2 * MAX_NODES, "matrix", "matrices"),
            Part::Leaf if content.len() > LEAF_BYTES => {
                Err(Error::invalid("tree.leaves", format!("a leaf takes at most {LEAF_BYTES} bytes")))
            }
            Part::Leaf => at_most(&mut self.leaves, 2 * MAX_LEAVES, "tree.leaves", "leaves"),
            Part::Row if content.len() < ROW_BYTES => {
                at_most(&mut self.empty_rows, 2 * MAX_DENSE_N, "rows", "empty rows")
            }
            Part::SetByServer(field) => Err(Error::invalid(field, "is set by the server")),
            Part::Row | Part::Other => Ok(()),
        }
    }
}

fn at_most(count: &mut usize, most: usize, field: &str, what: &str) -> Result<()> {
    *count += 1;
    if *count > most {
        return Err(Error::invalid(field, format!("a message with more than {most} {what} is not read")));
    }
    Ok(())
}

/// A field of a message, and what comes after it.
struct Field<'a> {
    number: u64,
    /// Of a field that may hold a message.
    content: Option<&'a [u8]>,
    rest: &'a [u8],
}

/// The field that `bytes` begin with; `None` at their end, and where they do not read.
fn field(bytes: &[u8]) -> Option<Field<'_>> {
    let (key, bytes) = varint(bytes)?;
    let (content, rest) = match key & 7 {
        0 => (None, varint(bytes)?.1),
        1 => (None, bytes.get(8..)?),
        2 => {
            let (length, bytes) = varint(bytes)?;
            let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
            (Some(content), rest)
        }
        5 => (None, bytes.get(4..)?),
        _ => return None,
    };
    Some(Field { number: key >> 3, content, rest })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::compute_errors_request::Mechanism;
    use crate::v1::{self, matrix::Kind};

    fn count<M: Message + Name>(message: &M) -> Result<()> {
        Counts::default().message(&message.encode_to_vec(), shape_of(M::NAME).unwrap(), 0)
    }

    fn field_of(result: Result<()>) -> String {
        match result {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    fn matrix(kind: Kind) -> v1::Matrix {
        v1::Matrix { kind: Some(kind) }
    }

    fn product(factors: usize) -> v1::Matrix {
        matrix(Kind::Product(v1::Product { factors: vec![v1::Matrix::default(); factors] }))
    }

    fn dense(rows: usize, values: usize) -> v1::Matrix {
        matrix(Kind::Dense(v1::Dense { rows: vec![v1::Row { values: vec![0.5; values] }; rows] }))
    }

    fn within(matrix: v1::Matrix) -> v1::Matrix {
        let matrix = Some(Box::new(matrix));
        let inverse = matrix_of_inverse(v1::Inverse { matrix });
        let scaled = v1::Scaled { matrix: Some(Box::new(inverse)), ..v1::Scaled::default() };
        self::matrix(Kind::Scaled(Box::new(scaled)))
    }

    fn matrix_of_inverse(inverse: v1::Inverse) -> v1::Matrix {
        matrix(Kind::Inverse(Box::new(inverse)))
    }

    /// Every request that holds a matrix.
    fn counts(matrix: v1::Matrix) -> [Result<()>; 11] {
        let session = v1::Session { matrix: Some(matrix.clone()), ..v1::Session::default() };
        let matrix = Some(matrix);
        let problem = Some(v1::Problem { workload: matrix.clone(), ..v1::Problem::default() });
        let mechanism = |of: fn(v1::Matrix) -> Mechanism| v1::ComputeErrorsRequest {
            mechanism: matrix.clone().map(of),
            ..v1::ComputeErrorsRequest::default()
        };
        [
            count(&v1::ComputeErrorsRequest {
                workload: matrix.clone(),
                ..v1::ComputeErrorsRequest::default()
            }),
            count(&mechanism(Mechanism::Strategy)),
            count(&mechanism(Mechanism::NoisingMatrix)),
            count(&v1::ComputeSensitivityRequest { strategy: matrix.clone(), n: 3, ..Default::default() }),
            count(&v1::OptimizeStrategyRequest { problem: problem.clone(), ..Default::default() }),
            count(&v1::RecommendStrategyRequest { problem, ..Default::default() }),
            count(&v1::CreateSessionRequest {
                session: Some(session),
                ..v1::CreateSessionRequest::default()
            }),
            count(&v1::MaterializeRequest { matrix: matrix.clone(), n: 3 }),
            count(&v1::RowNormsSquaredRequest { matrix: matrix.clone(), n: 3 }),
            count(&v1::MultiplyRequest { matrix: matrix.clone(), x: Vec::new() }),
            count(&v1::DescribeRequest { matrix, ..v1::DescribeRequest::default() }),
        ]
    }

    #[test]
    fn parts_without_end_are_refused_at_any_depth() {
        let empty_rows = v1::ColumnNormalizedBanded { params: vec![v1::Row::default(); 2 * MAX_DENSE_N + 1] };
        for (many, field) in [
            (product(2 * MAX_NODES), "matrix"),
            (dense(2 * MAX_DENSE_N + 1, 0), "rows"),
            (matrix(Kind::ColumnNormalizedBanded(empty_rows)), "rows"),
        ] {
            for refused in counts(many.clone()).into_iter().chain(counts(within(many))) {
                assert_eq!(field_of(refused), field);
            }
        }
        let x = vec![v1::Row::default(); 2 * MAX_DENSE_N + 1];
        assert_eq!(field_of(count(&v1::MultiplyRequest { matrix: None, x })), "rows");
    }

    #[test]
    fn leaves_without_end_are_refused() {
        let described = |tree: v1::Tree| {
            let session = v1::Session { tree: Some(tree.clone()), ..v1::Session::default() };
            let create =
                v1::CreateSessionRequest { session: Some(session), ..v1::CreateSessionRequest::default() };
            let describe = v1::DescribeRequest { tree: Some(tree), ..v1::DescribeRequest::default() };
            assert_eq!(count(&create), count(&describe));
            count(&create)
        };
        described(v1::Tree { leaves: vec![v1::Leaf::default(); 2 * MAX_LEAVES] }).unwrap();
        let many = v1::Tree { leaves: vec![v1::Leaf::default(); 2 * MAX_LEAVES + 1] };
        assert_eq!(field_of(described(many)), "tree.leaves");
        let long = v1::Leaf { shape: vec![1; LEAF_BYTES], ..v1::Leaf::default() };
        assert_eq!(field_of(described(v1::Tree { leaves: vec![long] })), "tree.leaves");
    }

    /// Half of the leaves in each of two trees: a decoder puts them together.
    #[test]
    fn fields_that_come_twice_are_counted_together() {
        let tree = v1::Tree { leaves: vec![v1::Leaf::default(); MAX_LEAVES + 1] };
        let request = v1::DescribeRequest { tree: Some(tree), ..v1::DescribeRequest::default() };
        let twice = [request.encode_to_vec(), request.encode_to_vec()].concat();
        assert!(v1::DescribeRequest::decode(twice.as_slice()).is_ok());
        count(&request).unwrap();
        assert_eq!(field_of(Counts::default().message(&twice, &DESCRIBE, 0)), "tree.leaves");
    }

    #[test]
    fn the_largest_descriptions_are_let_through() {
        for sound in [dense(MAX_DENSE_N, 8), product(MAX_NODES - 1), dense(1 << 16, 1)] {
            counts(sound).into_iter().for_each(Result::unwrap);
        }
        let leaf = v1::Leaf { path: "x".repeat(MAX_PATH_BYTES), dtype: 1, shape: vec![u64::MAX; MAX_RANK] };
        let tree = Some(v1::Tree { leaves: vec![leaf; 100] });
        count(&v1::DescribeRequest { tree, ..v1::DescribeRequest::default() }).unwrap();
    }

    #[test]
    fn bytes_of_any_kind_are_counted_without_fault() {
        for bytes in
            [&[0xff; 20][..], &[0x0a], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x0b], &[0x09, 1], &[0x0d]]
        {
            Counts::default().message(bytes, &CREATE, 0).unwrap();
        }
    }

    /// The numbers of fields are written here and in the protocol.
    #[test]
    fn every_request_with_a_description_is_known() {
        let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let holds = |message: &prost_types::DescriptorProto| {
            let mut types = message.field.iter().map(|field| field.type_name());
            let described = [
                ".noised.v1.Matrix",
                ".noised.v1.Session",
                ".noised.v1.Tree",
                ".noised.v1.Problem",
                ".noised.v1.Design",
            ];
            types.any(|name| described.contains(&name))
        };
        for message in set.file.iter().flat_map(|file| &file.message_type) {
            if message.name().ends_with("Request") {
                assert_eq!(shape_of(message.name()).is_some(), holds(message), "{}", message.name());
            }
        }
    }
}
