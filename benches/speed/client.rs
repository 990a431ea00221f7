//! One client: one connection, and an answer read with as little as it takes to know that it is the right one.

use std::io::Write as _;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::Outcome;

/// Where to send requests, and what stands in front of each.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The session, where the target has sessions.
    session: Option<String>,
}

const VERSION: &str = "2025-11-25";

impl Target {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, session: None }
    }

    /// The same target within a session of its own.
    pub(crate) async fn with_session(&self) -> Outcome<Self> {
        let mut client = Client::connect(self).await?;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{VERSION}","capabilities":{{}},"clientInfo":{{"name":"bench","version":"1"}}}}}}"#
        );
        client.send(body.as_bytes()).await?;
        let head = client.read_head().await?;
        let session = head.field("mcp-session-id").ok_or("a session has an id")?.to_owned();
        client.read_body(head.length()?).await?;
        Ok(Self { session: Some(session), ..self.clone() })
    }

    /// The header section, up to the length of the body.
    fn head(&self) -> Vec<u8> {
        // Without a session as many bytes as with one: the floor reads what ferry reads.
        let session = self.session.clone().unwrap_or_else(|| "x".repeat(120));
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\nmcp-protocol-version: {VERSION}\r\nmcp-session-id: {session}\r\n\
             content-length: ",
            self.address
        );
        head.into_bytes()
    }
}

/// The header section of an answer.
pub(crate) struct Head(String);

impl Head {
    pub(crate) fn status(&self) -> &str {
        self.0.get(9..12).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn length(&self) -> Outcome<usize> {
        if self.status() != "200" {
            return Err(format!("an answer begins with {:?}", self.0).into());
        }
        Ok(self.field("content-length").ok_or("an answer has a length")?.parse()?)
    }
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    head: Vec<u8>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
    expected: Vec<u8>,
    next_id: u64,
}

impl Client {
    pub(crate) async fn connect(target: &Target) -> Outcome<Self> {
        Self::over(TcpStream::connect(target.address).await?, target)
    }

    /// A client in front of which the system keeps little that it has not read.
    pub(crate) async fn connect_narrow(target: &Target) -> Outcome<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(32 * 1024)?;
        Self::over(socket.connect(target.address).await?, target)
    }

    fn over(stream: TcpStream, target: &Target) -> Outcome<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            head: target.head(),
            request: Vec::new(),
            buffer: vec![0; 16 * 1024],
            filled: 0,
            expected: Vec::new(),
            next_id: 1,
        })
    }

    /// Calls the tool that gives `text` back, and looks at every byte of the answer.
    pub(crate) async fn echo(&mut self, text: &str) -> Outcome<()> {
        let id = self.take_id();
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
        );
        self.send(body.as_bytes()).await?;
        let length = self.read_length().await?;
        let body = self.read_body(length).await?;
        let mut expected = std::mem::take(&mut self.expected);
        expected.clear();
        write!(
            expected,
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
        )?;
        let right = self.buffer[body.clone()] == expected;
        self.expected = expected;
        if right { Ok(()) } else { Err(self.wrong(body)) }
    }

    /// Asks for an answer with `size` letters in it.
    pub(crate) async fn ask_large(&mut self, size: usize) -> Outcome<u64> {
        let id = self.take_id();
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"large","arguments":{{"size":{size}}}}}}}"#
        );
        self.send(body.as_bytes()).await?;
        Ok(id)
    }

    /// Asks for an answer with `size` letters in it, and looks at all of them.
    pub(crate) async fn large(&mut self, size: usize) -> Outcome<()> {
        let id = self.ask_large(size).await?;
        let length = self.read_length().await?;
        let body = self.read_body(length).await?;
        if is_large(&self.buffer[body.clone()], id, size) { Ok(()) } else { Err(self.wrong(body)) }
    }

    /// Reads an answer with `size` letters in it at `rate` bytes a second.
    pub(crate) async fn read_slowly(&mut self, id: u64, size: usize, rate: usize) -> Outcome<()> {
        const STEP: usize = 32 * 1024;
        let pause = std::time::Duration::from_secs_f64(STEP as f64 / rate as f64);
        let mut tick = tokio::time::interval(pause);
        let head = self.read_head().await?;
        let (length, mut body) = (head.length()?, self.buffer[..self.filled].to_vec());
        self.filled = 0;
        let mut step = vec![0; STEP];
        while body.len() < length {
            tick.tick().await;
            let wanted = STEP.min(length - body.len());
            self.stream.read_exact(&mut step[..wanted]).await?;
            body.extend_from_slice(&step[..wanted]);
        }
        if is_large(&body, id, size) { Ok(()) } else { Err("a large answer is wrong".into()) }
    }

    /// Opens the standing stream of the session and reads its beginning.
    pub(crate) async fn open_stream(&mut self, target: &Target) -> Outcome<()> {
        let session = target.session.as_deref().ok_or("a stream is of a session")?;
        let request = format!(
            "GET /echo HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n\
             mcp-protocol-version: {VERSION}\r\n\r\n",
            target.address
        );
        self.stream.write_all(request.as_bytes()).await?;
        let head = self.read_head().await?;
        if head.status() == "200" { Ok(()) } else { Err(format!("a stream begins with {:?}", head.0).into()) }
    }

    /// Asks whether ferry is there; any answer will do.
    pub(crate) async fn knock(&mut self) -> Outcome<()> {
        self.stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
        self.read_head().await.map(drop)
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn wrong(&self, body: std::ops::Range<usize>) -> Box<dyn std::error::Error + Send + Sync> {
        let shown = &self.buffer[body.start..body.end.min(body.start + 300)];
        format!("a wrong answer: {}", String::from_utf8_lossy(shown)).into()
    }

    async fn send(&mut self, body: &[u8]) -> Outcome<()> {
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        write!(self.request, "{}\r\n\r\n", body.len())?;
        self.request.extend_from_slice(body);
        self.filled = 0;
        Ok(self.stream.write_all(&self.request).await?)
    }

    /// Reads the header section; what came of the body behind it is moved to the front of the buffer.
    pub(crate) async fn read_head(&mut self) -> Outcome<Head> {
        let end = self.find_head().await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        Ok(Head(head))
    }

    /// The same with nothing but the length in mind.
    async fn read_length(&mut self) -> Outcome<usize> {
        let end = self.find_head().await?;
        let head = &self.buffer[..end];
        let length = memmem::find(head, b"\r\ncontent-length: ").filter(|_| head.starts_with(b"HTTP/1.1 200 "));
        let Some(at) = length else {
            return Err(format!("an answer begins with {:?}", String::from_utf8_lossy(head)).into());
        };
        let digits = head[at + 18..].iter().take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        Ok(length)
    }

    async fn find_head(&mut self) -> Outcome<usize> {
        loop {
            if let Some(at) = memmem::find(&self.buffer[..self.filled], b"\r\n\r\n") {
                return Ok(at + 4);
            }
            self.read_more().await?;
        }
    }

    async fn read_body(&mut self, length: usize) -> Outcome<std::ops::Range<usize>> {
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        while self.filled < length {
            self.read_more().await?;
        }
        Ok(0..length)
    }

    async fn read_more(&mut self) -> Outcome<()> {
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err("a connection ended in the middle of an answer".into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}

fn is_large(body: &[u8], id: u64, size: usize) -> bool {
    let head = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#);
    let letters = body.strip_prefix(head.as_bytes()).and_then(|rest| rest.strip_suffix(b"\"}]}}"));
    letters.is_some_and(|letters| letters.len() == size && letters.iter().all(|letter| *letter == b'x'))
}
