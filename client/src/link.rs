//! The way of every call to the server: a connection, and the token that the call carries.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use noised_proto::token::{SCHEME, Token};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// No file of a token is longer.
const MOST_FILE_BYTES: usize = 4096;

/// Where the token of a client comes from. Its `Debug` shows no token.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A token that stays the same.
    Token(Token),
    /// A file with a token. The client reads the file for every connection, and where the server refuses
    /// the token, so that a token which was replaced is used from then on.
    File(PathBuf),
}

impl Credential {
    /// The token in a text, such as that of an environment variable.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `token` where the text is not a token. The error does not show the text.
    pub fn from_text(text: &str) -> Result<Self> {
        Ok(Self::Token(Token::parse("token", text)?))
    }

    /// The token as it is now.
    fn read(&self) -> Result<Token> {
        let path = match self {
            Self::Token(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let named =
            |rule: &dyn fmt::Display| Error::invalid("token_file", format!("{}: {rule}", path.display()));
        let bytes = Zeroizing::new(std::fs::read(path).map_err(|error| named(&error))?);
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= MOST_FILE_BYTES);
        let text = text.ok_or_else(|| named(&"must have one token, found something else"))?;
        Token::parse("token_file", text).map_err(|error| match error {
            noised::Error::Invalid { field: _, rule } => named(&rule),
            other => other.into(),
        })
    }
}

/// The token that calls carry, for all clones of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carries(Option<Arc<Held>>);

struct Held {
    credential: Credential,
    /// `Bearer` and the token, as it was last read.
    value: Mutex<Option<HeaderValue>>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Carries {
    pub(crate) fn new(credential: Option<Credential>) -> Self {
        Self(credential.map(|credential| Arc::new(Held { credential, value: Mutex::new(None) })))
    }

    /// Whether calls carry a token.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Reads the token again; tells whether it is another one than before.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `token_file`, with the file.
    pub(crate) fn read_again(&self) -> Result<bool> {
        let Some(held) = &self.0 else { return Ok(false) };
        let value = value_of(&held.credential.read()?)?;
        let mut current = held.value();
        let is_other = current.as_ref() != Some(&value);
        *current = Some(value);
        Ok(is_other)
    }

    /// Reads the token again for a new connection. Where that fails, the token that was read before stays.
    ///
    /// # Errors
    /// Those of [`read_again`](Self::read_again), where no token was read before.
    pub(crate) fn refresh(&self) -> Result<()> {
        match self.read_again() {
            Err(error) if self.value().is_none() => Err(error),
            Err(error) => {
                tracing::warn!("the token stays as it was read before: {error}");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn value(&self) -> Option<HeaderValue> {
        self.0.as_ref()?.value().clone()
    }
}

impl Held {
    fn value(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        // A value is replaced as a whole.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn value_of(token: &Token) -> Result<HeaderValue> {
    let text = Zeroizing::new(format!("{SCHEME} {}", token.text()));
    let value = HeaderValue::from_str(&text);
    let mut value = value.map_err(|_| Error::invalid("token", "must be a token, found something else"))?;
    // No table of compressed headers keeps it, and no log shows it.
    value.set_sensitive(true);
    Ok(value)
}

/// A connection, whose calls carry the token.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    channel: Channel,
    carries: Carries,
}

impl Link {
    pub(crate) fn new(channel: Channel, carries: Carries) -> Self {
        Self { channel, carries }
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let carries = self.carries.clone();
        let sent = carries.value();
        if let Some(value) = &sent {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(if is_refused(&answer) { explain(&carries, sent.as_ref(), answer) } else { answer })
        })
    }
}

/// Whether the server does not know who calls, which it says before anything else.
fn is_refused(answer: &Response<Body>) -> bool {
    let status = answer.headers().get(Status::GRPC_STATUS);
    status.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unauthenticated)
}

/// The refusal of a token, or what has to be told in its place: where the token was replaced meanwhile, the
/// call is to be tried again.
fn explain(carries: &Carries, sent: Option<&HeaderValue>, refusal: Response<Body>) -> Response<Body> {
    match carries.read_again() {
        Ok(_) if carries.value().as_ref() == sent => refusal,
        Ok(_) => Status::unavailable("the server refused the token, and it was replaced since: call again")
            .into_http(),
        Err(error) => {
            tracing::warn!("the server refused the token, and it cannot be read again: {error}");
            refusal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(byte: u8) -> Token {
        Token::from_bytes([byte; 32])
    }

    #[test]
    fn a_file_is_read_again_and_shows_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, format!("{}\n", token(1).text())).unwrap();
        let carries = Carries::new(Some(Credential::File(path.clone())));
        assert!(carries.read_again().unwrap() && !carries.read_again().unwrap());
        std::fs::write(&path, token(2).text()).unwrap();
        assert!(carries.read_again().unwrap());
        assert_eq!(carries.value().unwrap(), format!("Bearer {}", token(2).text()).as_str());
        assert!(!format!("{carries:?} {:?}", carries.value()).contains(token(2).text()));
        for bad in [&b"hunter2"[..], b"", &[0xff; 10]] {
            std::fs::write(&path, bad).unwrap();
            let error = carries.read_again().unwrap_err().to_string();
            assert!(error.starts_with("token_file: ") && !error.contains("hunter2"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(carries.read_again(), Err(Error::Invalid { field, .. }) if field == "token_file"));
        // What was read last goes on to be sent.
        assert!(carries.value().is_some());
    }

    #[test]
    fn a_text_is_a_token_or_an_error_without_it() {
        assert!(Credential::from_text(token(3).text()).is_ok());
        let error = Credential::from_text("hunter2").unwrap_err().to_string();
        assert!(error.starts_with("token: ") && !error.contains("hunter2"), "{error}");
    }
}
