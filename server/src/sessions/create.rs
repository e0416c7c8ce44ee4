//! CreateSession.

use std::sync::Arc;

use noised::Error;
use noised::noise::NoiseKey;
use noised_proto::{AskedSession, ServiceError, asked_session, name, v1};
use prost::Message;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::entry::Entry;
use crate::registry::{Asked, AskedNoise, Registry};

use super::{STATUS_BYTES, SessionsService, View};

impl SessionsService {
    pub(super) async fn create(
        &self,
        request: v1::CreateSessionRequest,
    ) -> Result<v1::Session, ServiceError> {
        self.lifecycle.check_open()?;
        let v1::CreateSessionRequest { session_id, session, resume, noise_key, start_noise_over, view } =
            request;
        let noise_key = Zeroizing::new(noise_key);
        let view = View::asked(view, View::Basic)?;
        let named = !session_id.is_empty();
        let id = if named { session_id } else { Uuid::new_v4().to_string() };
        name::check_session_id(&id)?;
        let session = session.ok_or_else(|| Error::invalid("session", "is missing"))?;
        // A session that could not be told about must not be made.
        let size = session.encoded_len() + STATUS_BYTES;
        if size > self.max_message_bytes {
            let (size, limit) = (size as u64, self.max_message_bytes as u64);
            return Err(ServiceError::MessageTooLarge { field: "session", size, limit });
        }
        let registry = Arc::clone(&self.registry);
        let turn = registry.turn_to_create().await;
        // A description may hold millions of numbers, each of which is checked, and a session gigabytes, each of which is
        // cleared. No step waits behind that: there is a thread for it, and no more than one, since creations take turns.
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let AskedSession { spec, lookahead, noise_state } = asked_session(session)?;
            let given_key =
                (!noise_key.is_empty()).then(|| NoiseKey::from_slice("noise_key", &noise_key)).transpose()?;
            let noise = AskedNoise { lookahead, state: noise_state, given_key, start_over: start_noise_over };
            let asked = Asked { resolved: spec.resolve()?, resume, named, noise };
            let (entry, resumed) = registry.create(name::session_name(&id), asked)?;
            let untold = (!named).then(|| Untold(Some((registry, Arc::clone(&entry)))));
            Ok::<_, ServiceError>((entry, resumed, untold))
        });
        let (entry, resumed, untold) = made.await.map_err(|_| ServiceError::Internal)??;
        let spec = entry.resolved.spec();
        tracing::info!(
            session = %entry.name,
            resumed,
            matrix = spec.matrix.kind(),
            lanes = entry.resolved.layout().lanes(),
            planes = entry.resolved.plan().planes(),
            precision = %spec.precision,
            source = spec.source.kind(),
            memory_bytes = entry.memory_bytes(),
            "session opened"
        );
        entry.draw_ahead(&self.compute);
        // From here on nothing waits, so the caller gets the answer.
        if let Some(untold) = untold {
            untold.told();
        }
        Ok(view.of(&entry, resumed))
    }
}

/// A session under a name that the server made up, until its caller is told the name.
///
/// A caller that goes away while its session is made leaves a session that nobody could use or delete.
struct Untold(Option<(Arc<Registry>, Arc<Entry>)>);

impl Untold {
    fn told(mut self) {
        self.0 = None;
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some((registry, entry)) = self.0.take() {
            tracing::info!(session = %entry.name, "session taken back: its caller is gone");
            registry.take_back(&entry);
        }
    }
}
