//! Asks cloudflared on its metrics port whether it is connected. Its gauge of connections counts attempts too, and its
//! log is for people: `/ready` alone tells.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// cloudflared answers within a millisecond; one that hangs does not.
const LIMIT: Duration = Duration::from_secs(2);
/// The answer has a hundred bytes.
const MAX_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    ready_connections: u32,
}

/// How many connections it has. `None` if it does not say so: not yet, or not any more.
pub(super) async fn connections(metrics: SocketAddr) -> Option<u32> {
    timeout(LIMIT, ask(metrics)).await.ok()?
}

async fn ask(metrics: SocketAddr) -> Option<u32> {
    let stream = TcpStream::connect(metrics).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/ready").header(header::HOST, metrics.to_string()).body(Empty::<Bytes>::new()).ok()?;
    // It takes the sender along: with that the connection ends.
    let answer = async move {
        let response = sender.send_request(request).await.ok()?;
        // With 503 there is the same body as with 200.
        Limited::new(response.into_body(), MAX_BYTES).collect().await.ok()
    };
    let (body, _) = tokio::join!(answer, connection);
    serde_json::from_slice::<Answer>(&body?.to_bytes()).ok().map(|answer| answer.ready_connections)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn told(answer: &'static str) -> Option<u32> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        connections(address).await
    }

    #[tokio::test]
    async fn the_number_of_connections_is_in_the_body() {
        for (answer, connections) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 58\r\n\r\n{\"status\":200,\"readyConnections\":4,\"connectorId\":\"6ff42\"}\n\n",
                Some(4),
            ),
            ("HTTP/1.1 503 No\r\ncontent-length: 37\r\n\r\n{\"status\":503,\"readyConnections\":0}\n\n\n", Some(0)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK", None),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", None),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("", None),
        ] {
            assert_eq!(told(answer).await, connections, "{answer}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(connections(address).await, None);
    }
}
