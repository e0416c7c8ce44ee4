//! The door: finds out who makes a call, before anything of the call's messages is read, and refuses
//! whoever may not make the call.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Request};
use noised_proto::ServiceError;
use noised_proto::access::Stranger;
use noised_proto::token::{SCHEME, Token};
use tonic::body::Body;

use super::methods::roles;
use super::quota::Rates;
use super::{Caller, Identity, Peer, TlsPeer, Tokens};
use crate::audit::Audit;
use crate::reread::Reread;

/// How the paths begin of the calls that nobody has to be known for: probes ask how the server is.
const OPEN: &str = "/grpc.health.";

/// Who may come in. The gate asks it about each call.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Who is known; `None` where the server has no tokens file, and everybody may do everything.
    tokens: Option<Arc<Reread<Tokens>>>,
    audit: Audit,
    /// Whether tokens may cross a network without TLS.
    insecure: bool,
    rates: Rates,
}

impl Door {
    pub(crate) fn new(tokens: Option<Arc<Reread<Tokens>>>, audit: Audit, insecure: bool) -> Self {
        Self { tokens, audit, insecure, rates: Rates::default() }
    }

    /// Lets a call in, of which nothing but the headers was read.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED, which the audit log is told of as well.
    pub(crate) fn check(&self, request: &mut Request<Body>) -> Result<(), ServiceError> {
        self.admit(request).inspect_err(|error| {
            let caller = Caller::of(request.extensions());
            tracing::debug!(peer = %caller.peer, %error, "a call was refused");
            self.audit.call_refused(&caller, request.uri().path(), error);
        })
    }

    /// Finds out who makes a call, puts that among the request's extensions, and takes the token out of the
    /// request: nothing behind the door has a use for the token.
    fn admit(&self, request: &mut Request<Body>) -> Result<(), ServiceError> {
        let is_open = request.uri().path().starts_with(OPEN);
        let known = match self.tokens.as_ref().filter(|_| !is_open) {
            Some(tokens) => self.known(&tokens.current(), request.headers(), request.extensions()).map(Some),
            None => Ok(None),
        };
        request.headers_mut().remove(AUTHORIZATION);
        let Some(identity) = known.map_err(|why| ServiceError::Unauthenticated { why })? else {
            return Ok(());
        };
        let Identity { role, quota, ref tenant, .. } = *identity;
        let in_time = self.rates.take(tenant, quota, Instant::now());
        request.extensions_mut().insert(identity);
        let path = request.uri().path();
        match roles(path) {
            Some(allowed) if !allowed.contains(&role) => {
                let method = path.rsplit('/').next().unwrap_or_default().to_owned();
                Err(ServiceError::MayNotCall { role, method, allowed })
            }
            _ => in_time,
        }
    }

    /// A token goes before a certificate: whoever sends one means to be known by it.
    fn known(
        &self,
        tokens: &Tokens,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Arc<Identity>, Stranger> {
        let tls = extensions.get::<TlsPeer>();
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return tokens.of_names(tls.map(|tls| &*tls.names).unwrap_or_default());
        };
        if tls.is_none() && !self.insecure && !Peer::of(extensions).is_of_this_machine() {
            return Err(Stranger::InClear);
        }
        let text = value.to_str().ok().filter(|_| values.next().is_none());
        let (scheme, token) = text.and_then(|text| text.split_once(' ')).ok_or(Stranger::Malformed)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(Stranger::Malformed);
        }
        let token = Token::parse("authorization", token).map_err(|_| Stranger::Malformed)?;
        tokens.of_token(&token, SystemTime::now())
    }
}
