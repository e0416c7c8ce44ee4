//! A session in shards on several servers, as one.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use noised::session::{ResolvedSpec, WhenFull};
use noised::{SessionSpec, Shard, ShardCut};
use uuid::Uuid;

use crate::client::{Client, CreateOptions};
use crate::error::{Error, Result};
use crate::pieces::Pieces;
use crate::session::Session;

/// A session of a whole tree whose shards are held by several servers.
///
/// Every call goes to all shards at once. A step's bytes, up and down, are those of the shards one after the
/// other, in tree order. Where the noise comes from a `noise_id` and the servers have the same master key, or
/// from a given key, the bytes are those of one server that holds the whole.
///
/// Where a shard fails, so does the call, with [`Error::Shard`]. Nothing is lost by that: the shards that
/// took the step answer it again, and those that did not take it then. The same is true after a crash, so
/// that shards may be a step apart. Where they are further apart, since one of them was restored from an
/// older state, [`rewind`](Self::rewind) brings them together.
#[derive(Debug)]
pub struct ShardedSession {
    resolved: ResolvedSpec,
    shards: Vec<Session>,
}

impl ShardedSession {
    /// Makes a session, or goes on with one: shard `i` of as many as there are clients with client `i`, under
    /// the name `{id}-{i}`, so that one server may hold several shards.
    ///
    /// Without [`CreateOptions::resume`], the shards that are known to be made are deleted again where one of
    /// them could not be.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the spec is of a shard already, or the tree cannot be cut so;
    /// [`Error::Shard`] with those of [`Client::create_session`].
    pub async fn create(
        clients: &[Client],
        spec: &SessionSpec,
        options: CreateOptions,
        cut: ShardCut,
    ) -> Result<Self> {
        if spec.shard != Shard::WHOLE {
            return Err(Error::invalid("shard", "must be the whole, which is then cut into shards"));
        }
        let resolved = spec.clone().resolve()?;
        options.check(&resolved)?;
        let specs = specs_of_shards(spec, clients.len(), cut)?;
        let own = options.id.is_empty();
        let id = if own { Uuid::new_v4().to_string() } else { options.id.clone() };
        let calls = clients.iter().zip(&specs).map(|(client, spec)| {
            let id = format!("{id}-{}", spec.shard.index);
            let shard = spec.shard.index as usize;
            let resumed_noise = options.resumed_noise.as_ref().map(|resumed| resumed.of_shard(shard));
            client.create_named(spec, CreateOptions { id, resumed_noise, ..options.clone() }, own)
        });
        // All are waited for, so that it is known which sessions there are.
        let made = join_all(calls).await;
        let mut shards = Vec::with_capacity(made.len());
        let mut failure = None;
        for (i, made) in made.into_iter().enumerate() {
            match made {
                Ok(session) => shards.push(session),
                Err(error) => failure = failure.or(Some(of_shard(i, &clients[i], error))),
            }
        }
        let Some(error) = failure else {
            return Ok(Self { resolved, shards });
        };
        if !options.resume {
            let deleted = shards.iter().map(|shard| shard.client().delete_session(shard.name()));
            // The failure that led here is what is told.
            let _of_deletion = join_all(deleted).await;
        }
        Err(error)
    }

    /// Takes up a session that exists: shard `i` is of the name `names[i]`, and `clients[i]` is that of its
    /// server.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `names` where there are not as many as clients, or they are not the shards of
    /// one session; [`Error::Shard`] with those of [`Client::open_session`].
    pub async fn open(clients: &[Client], names: &[String]) -> Result<Self> {
        let invalid = |rule: &str| Error::invalid("names", rule);
        if names.len() != clients.len() {
            return Err(invalid("must be one for each server"));
        }
        let calls = clients.iter().zip(names).enumerate().map(|(i, (client, name))| async move {
            client.open_session(name).await.map_err(|error| of_shard(i, client, error))
        });
        let shards = try_join_all(calls).await?;
        let first = shards.first().ok_or_else(|| invalid("must not be empty"))?.spec();
        let (cut, whole) = (first.shard.cut, SessionSpec { shard: Shard::WHOLE, ..first.clone() });
        for (spec, shard) in specs_of_shards(&whole, clients.len(), cut)?.iter().zip(&shards) {
            if shard.spec() != spec {
                return Err(invalid("must be the shards of one session, in tree order"));
            }
        }
        Ok(Self { resolved: whole.resolve()?, shards })
    }

    /// The shards' sessions, in tree order.
    pub fn shards(&self) -> &[Session] {
        &self.shards
    }

    /// What the session is made for, as a whole.
    pub fn spec(&self) -> &SessionSpec {
        self.resolved.spec()
    }

    /// Bytes of one step's answer.
    pub fn step_bytes(&self) -> usize {
        self.resolved.layout().byte_len()
    }

    /// Bytes that go up for a step: none where the servers draw all of the input.
    pub fn input_bytes(&self) -> usize {
        self.resolved.input_bytes()
    }

    /// The step that comes next: the first that not all shards have taken, as far as these handles know.
    pub fn next_step(&self) -> u64 {
        self.shards.iter().map(Session::next_step).min().unwrap_or(0)
    }

    /// `(A z)_t`, where the servers draw all of the input. See [`Session::fetch`].
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Session::fetch`].
    pub async fn fetch(&mut self, step: u64) -> Result<Bytes> {
        let mut output = vec![0; self.step_bytes()];
        self.fetch_into(step, &mut output).await?;
        Ok(output.into())
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch), and [`Error::Invalid`] where `output` has the wrong size.
    pub async fn fetch_into(&mut self, step: u64, output: &mut [u8]) -> Result<()> {
        let parts = parts_of(&self.shards, Session::step_bytes, "output", output.len())?;
        let calls = self.shards.iter_mut().zip(split(output, &parts)).enumerate();
        let calls = calls.map(|(i, (shard, output))| async move {
            let fetched = shard.fetch_into(step, output).await;
            fetched.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// `(A x)_t`, or `g_t + (A z)_t` where the source is `privatize`. See [`Session::multiply_next`].
    ///
    /// # Errors
    /// [`Error::Invalid`] where the payload has the wrong size; [`Error::Shard`] with those of
    /// [`Session::multiply_next`].
    pub async fn multiply_next(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        let mut output = vec![0; self.step_bytes()];
        self.multiply_next_into(step, payload, &mut output).await?;
        Ok(output.into())
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next), and [`Error::Invalid`] where `output` has the wrong size.
    pub async fn multiply_next_into(&mut self, step: u64, payload: Bytes, output: &mut [u8]) -> Result<()> {
        self.multiply_chunks_into(step, payload.len(), |range| payload.slice(range), output).await
    }

    /// The same from several pieces of memory that follow one another, such as the leaves of a tree where
    /// they lie.
    ///
    /// # Errors
    /// As [`multiply_next_into`](Self::multiply_next_into).
    pub async fn multiply_next_pieces_into(
        &mut self,
        step: u64,
        pieces: &[&[u8]],
        output: &mut [u8],
    ) -> Result<()> {
        let pieces = Pieces::of(pieces);
        self.multiply_chunks_into(step, pieces.len(), |range| pieces.gather(range), output).await
    }

    /// The same from `len` bytes that `chunk` gives parts of.
    async fn multiply_chunks_into(
        &mut self,
        step: u64,
        len: usize,
        chunk: impl Fn(Range<usize>) -> Bytes,
        output: &mut [u8],
    ) -> Result<()> {
        let inputs = parts_of(&self.shards, Session::input_bytes, "payload", len)?;
        let outputs = parts_of(&self.shards, Session::step_bytes, "output", output.len())?;
        let parts = inputs.into_iter().zip(split(output, &outputs));
        let calls = self.shards.iter_mut().zip(parts).enumerate();
        let chunk = &chunk;
        let calls = calls.map(|(i, (shard, (input, output)))| async move {
            let of_shard_alone =
                |range: Range<usize>| chunk(input.start + range.start..input.start + range.end);
            let taken = shard.multiply_next_chunks_into(step, input.len(), of_shard_alone, output).await;
            taken.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// [`multiply_next`](Self::multiply_next) of a session that is sure to add noise.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next), and [`Error::Invalid`] on `source` where that is not
    /// `privatize`.
    pub async fn privatize(&mut self, step: u64, gradient: Bytes) -> Result<Bytes> {
        self.shards.iter().try_for_each(Session::check_privatizes)?;
        self.multiply_next(step, gradient).await
    }

    /// Keeps the state of the step that every shard expects, or of the step before where the servers draw all
    /// of the input. See [`Session::keep_state`].
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Session::keep_state`]. Other shards may have kept theirs, and asked
    /// again they do nothing.
    pub async fn keep_state(&mut self, step: u64, when_full: WhenFull) -> Result<()> {
        let calls = self.shards.iter_mut().enumerate().map(|(i, shard)| async move {
            let kept = shard.keep_state(step, when_full).await;
            kept.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// Has every shard go back to `step`, or forward to it where that shard was further back. See
    /// [`Session::rewind`]. `on_progress` gets the steps whose state has been computed again, and how many
    /// have to be, in all shards.
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Session::rewind`]. Shards are then at different steps; another rewind
    /// brings them together.
    pub async fn rewind(
        &mut self,
        step: u64,
        allow_divergence: bool,
        on_progress: impl FnMut(u64, u64) + Send,
    ) -> Result<()> {
        let all = Mutex::new((vec![(0, 0); self.shards.len()], on_progress));
        let all = &all;
        let calls = self.shards.iter_mut().enumerate().map(|(i, shard)| async move {
            let note = |done, total| {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                let (progress, on_progress) = &mut *all;
                progress[i] = (done, total);
                let sum = |part: fn(&(u64, u64)) -> u64| progress.iter().map(part).sum();
                on_progress(sum(|progress| progress.0), sum(|progress| progress.1));
            };
            let rewound = shard.rewind(step, allow_divergence, note).await;
            rewound.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// [`Session::resume_token`] of every shard, in tree order. `None` where one of them has none.
    pub fn resume_tokens(&self) -> Option<Vec<&[u8]>> {
        self.shards.iter().map(Session::resume_token).collect()
    }

    /// [`Session::settle`] of every shard.
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Session::settle`].
    pub async fn settle(&mut self) -> Result<()> {
        let calls = self.shards.iter_mut().enumerate().map(|(i, shard)| async move {
            shard.settle().await.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// Asks again where every shard stands. See [`Session::refresh`].
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Session::refresh`].
    pub async fn refresh(&mut self) -> Result<()> {
        let calls = self.shards.iter_mut().enumerate().map(|(i, shard)| async move {
            shard.refresh().await.map_err(|error| of_shard(i, shard.client(), error))
        });
        try_join_all(calls).await.map(drop)
    }

    /// Ends every shard's session. One that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Shard`] with those of [`Client::delete_session`].
    pub async fn delete(self) -> Result<()> {
        let calls = self.shards.iter().map(|shard| shard.client().delete_session(shard.name()));
        let deleted = join_all(calls).await;
        for (i, (deleted, shard)) in deleted.into_iter().zip(&self.shards).enumerate() {
            match deleted {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(of_shard(i, shard.client(), error)),
            }
        }
        Ok(())
    }
}

fn of_shard(i: usize, client: &Client, error: Error) -> Error {
    Error::Shard { index: i as u32, server: client.target().to_string(), error: Box::new(error) }
}

/// What each of `count` shards is made for.
fn specs_of_shards(spec: &SessionSpec, count: usize, cut: ShardCut) -> Result<Vec<SessionSpec>> {
    let invalid = |rule: &str| Error::invalid("shard.count", rule);
    let count = u32::try_from(count).map_err(|_| invalid("must fit 32 bits"))?;
    if count == 0 {
        return Err(invalid("must be at least 1: there is no client"));
    }
    let specs = (0..count).map(|index| {
        let shard = Shard { index, count, cut };
        // A cut that leaves a shard empty is told before any session is made.
        shard.lanes(&spec.tree)?;
        Ok(SessionSpec { shard, ..spec.clone() })
    });
    specs.collect()
}

/// Where each shard's bytes lie in those of the whole, of which there are `len`.
fn parts_of(
    shards: &[Session],
    bytes_of: impl Fn(&Session) -> usize,
    field: &str,
    len: usize,
) -> Result<Vec<Range<usize>>> {
    let mut end = 0;
    let mut part = |shard: &Session| {
        let start = end;
        end += bytes_of(shard);
        start..end
    };
    let parts = shards.iter().map(&mut part).collect();
    if len == end {
        return Ok(parts);
    }
    Err(Error::invalid(field, format!("must have {end} bytes, found {len}")))
}

/// Memory in parts that follow one another.
fn split<'m>(mut memory: &'m mut [u8], parts: &[Range<usize>]) -> Vec<&'m mut [u8]> {
    let next = |part: &Range<usize>| {
        let (of_part, rest) = std::mem::take(&mut memory).split_at_mut(part.len());
        memory = rest;
        of_part
    };
    parts.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use noised::{DType, Leaf, MatrixSpec, Tree};

    use super::*;
    use crate::channel::ClientBuilder;

    fn spec() -> SessionSpec {
        let leaves = vec![Leaf::new("a", DType::F32, [10]), Leaf::new("b", DType::F16, [30])];
        SessionSpec::new(MatrixSpec::PrefixSum, Tree::new(leaves).unwrap())
    }

    fn client() -> Client {
        ClientBuilder::new("127.0.0.1:1").unwrap().connect_lazy().unwrap()
    }

    #[test]
    fn shards_are_cut_by_lanes_or_leaves() {
        let lanes = |cut| {
            let specs = specs_of_shards(&spec(), 2, cut).unwrap();
            let held = specs.into_iter().map(|spec| spec.resolve().unwrap().lanes());
            held.collect::<Vec<_>>()
        };
        assert_eq!(lanes(ShardCut::Lanes), [0..20, 20..40]);
        let of_leaves = specs_of_shards(&spec(), 2, ShardCut::Leaves);
        assert!(matches!(of_leaves, Err(Error::Invalid { field, .. }) if field == "shard.count"));
        assert!(specs_of_shards(&spec(), 0, ShardCut::Lanes).is_err());
    }

    #[test]
    fn memory_is_split_in_order() {
        let mut memory = [1, 2, 3, 4, 5];
        let parts = split(&mut memory, &[0..2, 2..2, 2..5]);
        assert_eq!(parts, [&[1, 2][..], &[], &[3, 4, 5]]);
    }

    #[tokio::test]
    async fn what_cannot_be_cut_is_refused_before_a_server_is_asked() {
        let options = CreateOptions::default;
        let of_shard = SessionSpec { shard: Shard::new(0, 2), ..spec() };
        let refused = [
            ShardedSession::create(&[client()], &of_shard, options(), ShardCut::Lanes).await,
            ShardedSession::create(&[], &spec(), options(), ShardCut::Lanes).await,
            ShardedSession::create(&vec![client(); 41], &spec(), options(), ShardCut::Lanes).await,
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::Invalid { field, .. }) if field.starts_with("shard")));
        }
    }

    /// What a program spawns on a runtime of many threads. That it compiles is the test.
    #[allow(dead_code, reason = "compiled, never called")]
    fn futures_may_go_to_other_threads(clients: &'static [Client], session: &'static mut ShardedSession) {
        fn is_send(_: impl Send) {}
        let spec: &'static SessionSpec = Box::leak(Box::new(spec()));
        is_send(ShardedSession::create(clients, spec, CreateOptions::default(), ShardCut::Lanes));
        is_send(ShardedSession::open(clients, &[]));
        is_send(session.fetch(0));
        is_send(session.multiply_next(0, Bytes::new()));
        is_send(session.privatize(0, Bytes::new()));
        is_send(session.keep_state(0, WhenFull::Refuse));
        is_send(session.rewind(0, false, |_, _| ()));
        is_send(session.refresh());
    }
}
