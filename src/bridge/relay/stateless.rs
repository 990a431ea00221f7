//! Legacy clients without a session, where the configuration lets them (`protocol.md` §3.9): each request stands alone.
//! No standing stream, no question of the server, no notification but those of the request itself.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::super::era;
use super::super::exchange::Begun;
use super::super::introduction::Introduction;
use super::super::methods;
use super::super::refusal::Refusal;
use super::super::stream::{Body, bare};
use super::{Call, legacy_to_legacy, refused};
use crate::mcp::envelope::{Kind, Message};
use crate::mcp::version::{Era, LEGACY};

/// What is spoken where a client names no version (2025-06-18, Transports, "Protocol Version Header").
const UNNAMED: &str = LEGACY[1];

/// `initialize`: the server's own words, and no session.
pub(in crate::bridge) async fn initialize(call: &Call<'_>, message: &Message) -> Response<Body> {
    let outcome = async {
        let asked = legacy_to_legacy::asked_version(message)?;
        let child = call.endpoint.children.of_identity(call.identity, || Introduction::of_person(message));
        let live = child.live().await?;
        Ok(call.now(legacy_to_legacy::welcome(&live, legacy_to_legacy::negotiated(&asked), &child, message)))
    };
    outcome.await.unwrap_or_else(|refusal| refused(&refusal, message))
}

/// Any other message.
pub(in crate::bridge) async fn message(call: &Call<'_>, message: &Message, params: &era::Params<'_>) -> Response<Body> {
    if message.kind() != Kind::Request {
        // Of a request that cannot be named, or to a handshake that was ferry's.
        return bare(StatusCode::ACCEPTED);
    }
    let version = era::legacy_version(call.headers).ok().flatten().unwrap_or(UNNAMED);
    let outcome = async {
        if matches!(
            message.method(),
            methods::RESOURCES_SUBSCRIBE | methods::RESOURCES_UNSUBSCRIBE | methods::SET_LEVEL
        ) {
            // Nothing would remember it.
            return Err(Refusal::MethodNotFound { era: Era::Legacy, method: message.method().to_owned() });
        }
        let session = Arc::new(call.endpoint.sessions.passing(call.identity, version));
        Ok(match legacy_to_legacy::request(call, &session, message, params).await? {
            Begun::Now(json) => call.now(json),
            Begun::Later(reader) => reader.respond(call.terms()).await,
        })
    };
    outcome.await.unwrap_or_else(|refusal| refused(&refusal, message))
}
