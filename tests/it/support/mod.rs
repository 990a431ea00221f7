//! What the tests stand on.

pub(crate) mod cloudflare;
pub(crate) mod fake_child;
pub(crate) mod ferry;
pub(crate) mod http;
pub(crate) mod place;
pub(crate) mod rmcp_client;
pub(crate) mod rmcp_server;

use std::time::Duration;

/// How long anything may take before a test takes it for hanging. No test waits this long when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The output of a future that must not hang.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("this should not have taken so long")
}

/// Waits for a fact.
pub(crate) async fn until(mut fact: impl FnMut() -> bool) {
    within(async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
