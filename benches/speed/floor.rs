//! The floor of ferry's HTTP side: its own listener, answering by itself.

use std::io::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use mcp_ferry::bridge::listener::Tcp;
use mcp_ferry::config::limits::Limits;
use tokio::sync::watch;

use crate::{Outcome, echo};

/// Serves until it is killed; says its address first.
pub(crate) fn run() -> Outcome<()> {
    // As many threads as ferry has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let tcp = Tcp::bind(([127, 0, 0, 1], 0).into()).await?;
        println!("{}", tcp.address());
        std::io::stdout().flush()?;
        let (_running, stop) = watch::channel(false);
        tcp.serve(Router::new().fallback(answer), Arc::new(Limits::default()), stop).await;
        Ok(())
    })
}

async fn answer(request: Request) -> Response<Body> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Body::from(echo::answer_of(&body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
