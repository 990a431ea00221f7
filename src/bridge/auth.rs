//! Who is asking.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::refusal::Refusal;
use crate::secret::Secret;

/// Who asks, compared as a whole: what was made for one identity works for no other.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Whoever reaches the local listener.
    pub fn local() -> Self {
        Self(Arc::from("local"))
    }

    /// A person whom the Access team `issuer` knows as `subject`.
    pub fn access(issuer: &str, subject: &str) -> Self {
        Self(Arc::from(format!("access:{issuer}:{subject}")))
    }

    /// Whether it is [`Identity::local`].
    pub fn is_local(&self) -> bool {
        self.as_str() == "local"
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listener asks of a request before it serves it.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Nothing: only this machine can reach the listener.
    Loopback {
        /// The one identity there is.
        identity: Identity,
    },
    /// `Authorization: Bearer` with this token.
    Token {
        /// The token.
        token: Secret,
        /// Whoever has the token.
        identity: Identity,
    },
}

impl Admission {
    /// Admits everybody who can reach the listener.
    pub fn loopback() -> Self {
        Self::Loopback { identity: Identity::local() }
    }

    /// Admits whoever has `token`.
    pub fn token(token: Secret) -> Self {
        Self::Token { token, identity: Identity::local() }
    }

    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] where the token is missing, wrong, or stands there twice.
    pub fn check(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        match self {
            Self::Loopback { identity } => Ok(identity.clone()),
            Self::Token { token, identity } => {
                let mut values = headers.get_all(AUTHORIZATION).iter();
                let (Some(value), None) = (values.next(), values.next()) else {
                    return Err(Refusal::Unauthenticated);
                };
                let presented = value.to_str().ok().and_then(bearer).ok_or(Refusal::Unauthenticated)?;
                if token.matches(presented) { Ok(identity.clone()) } else { Err(Refusal::Unauthenticated) }
            }
        }
    }
}

/// The token of a `Bearer` credential; the scheme's name is compared without case (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_the_token_opens() {
        let admission = Admission::token(Secret::new("s3cret"));
        for (values, admitted) in [
            (&["Bearer s3cret"][..], true),
            (&["bearer  s3cret "], true),
            (&["Bearer s3cre"], false),
            (&["Bearer s3crett"], false),
            (&["Bearer "], false),
            (&["Basic s3cret"], false),
            (&["s3cret"], false),
            (&[""], false),
            (&["Bearer s3cret", "Bearer s3cret"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(admission.check(&headers).is_ok(), admitted, "{values:?}");
            assert!(Admission::loopback().check(&headers).is_ok());
        }
    }
}
